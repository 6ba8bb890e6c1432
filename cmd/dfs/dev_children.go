package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"dfs/internal/errors"
)

// devChildren are the processes that a supervisor started. When it dies, the mount is told to end (SIGTERM), and when that has
// flushed and ended, too, the nodes end: they read from a pipe whose other end the supervisor and the mount hold (lifeline).
type devChildren struct {
	lifeline [2]*os.File
	mu       sync.Mutex
	list     []*devChild
	deaths   chan *devChild
}

type devChild struct {
	what  string
	log   string
	cmd   *exec.Cmd
	state string
	done  chan struct{}
}

func (d *devChildren) died() chan *devChild {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.deaths == nil {
		d.deaths = make(chan *devChild, 16)
	}
	return d.deaths
}

// start runs `dfs args…` with its output appended to log, and returns its pid.
func (d *devChildren) start(log string, args ...string) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, errors.New(errors.KindIO, "finding this program: %w", err)
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, errors.New(errors.KindOf(err), "opening the log %s: %w", log, err)
	}
	defer f.Close()
	child := &devChild{what: "dfs " + args[0], log: log, done: make(chan struct{})}
	child.cmd = exec.Command(self, args...)
	child.cmd.Stdout, child.cmd.Stderr = f, f
	child.cmd.Env = shareOfProcessors(os.Environ(), runtime.NumCPU())
	child.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.tie(child); err != nil {
		return 0, err
	}
	deaths, started := d.died(), make(chan error)
	go func() {
		// The death signal is bound to the thread that forked: keep it.
		runtime.LockOSThread()
		err := child.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = child.cmd.Wait()
		child.state = child.cmd.ProcessState.String()
		close(child.done)
		deaths <- child
	}()
	if err := <-started; err != nil {
		return 0, errors.New(errors.KindIO, "starting %s: %w", child.what, err)
	}
	d.mu.Lock()
	d.list = append(d.list, child)
	d.mu.Unlock()
	return child.cmd.Process.Pid, nil
}

// tie makes the child end after its supervisor.
func (d *devChildren) tie(child *devChild) (err error) {
	if d.lifeline[0] == nil {
		if d.lifeline[0], d.lifeline[1], err = os.Pipe(); err != nil {
			return errors.New(errors.KindIO, "making a pipe: %w", err)
		}
	}
	end := d.lifeline[0]
	if child.what == "dfs mount" {
		end = d.lifeline[1]
		child.cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	child.cmd.ExtraFiles = []*os.File{end}
	child.cmd.Env = append(child.cmd.Env, lifelineVariable+"=3")
	return nil
}

// lifelineVariable names the descriptor of a pipe that a child of dfs dev was given.
const lifelineVariable = "DFS_LIFELINE_FD"

// underLifeline is ctx, ended when nobody holds the other end of the lifeline any more; ctx alone for a process without one.
func underLifeline(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if f := takeLifeline(); f != nil {
		go func() {
			_, _ = io.Copy(io.Discard, f) // nothing is written: this waits for the end
			cancel()
		}()
	}
	return ctx, cancel
}

// takeLifeline takes the pipe that dfs dev left, nil if there is none, and keeps it from this process's own children.
func takeLifeline() *os.File {
	if os.Getenv(lifelineVariable) == "" {
		return nil
	}
	_ = os.Unsetenv(lifelineVariable)
	syscall.CloseOnExec(3)
	return os.NewFile(3, "lifeline")
}

// devProcesses is how many busy processes share the machine: three nodes and the mount.
const devProcesses = 4

// shareOfProcessors divides the machine between the processes: each Go process that may use all processors keeps some of them
// spinning for work, in the way of the others. Two is the least: with one, what else a process could do waits behind
// each write to its disk until the runtime notices (a GiB written in order took a quarter longer, a fsync of 4 KiB as long).
// GOMAXPROCS in the environment overrides it.
func shareOfProcessors(env []string, processors int) []string {
	for _, kv := range env {
		if strings.HasPrefix(kv, "GOMAXPROCS=") {
			return env
		}
	}
	return append(env, fmt.Sprintf("GOMAXPROCS=%d", max(2, processors/devProcesses)))
}

// watch tells of children that end, until ctx does or the mount has ended. A node that was killed
// is not started again: that is for the user to try.
func (d *devChildren) watch(ctx context.Context, out io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case dead := <-d.died():
			if _, err := fmt.Fprintf(out, "%s (pid %d) ended: %s; its log is %s\n", dead.what, dead.cmd.Process.Pid, dead.state, dead.log); err != nil {
				return err
			}
			if dead.what == "dfs mount" {
				return nil
			}
		}
	}
}

// stop ends the children, the last started first: the mount before the nodes.
func (d *devChildren) stop(out io.Writer) error {
	d.mu.Lock()
	list := d.list
	d.mu.Unlock()
	var failed error
	for i := len(list) - 1; i >= 0; i-- {
		child := list[i]
		_ = child.cmd.Process.Signal(syscall.SIGTERM)
		if child.what == "dfs mount" {
			failed = firstError(failed, child.waitOrKill())
		}
	}
	for _, child := range list {
		failed = firstError(failed, child.waitOrKill())
	}
	return failed
}

func (c *devChild) waitOrKill() error {
	select {
	case <-c.done:
		return nil
	case <-time.After(devStopWait):
	}
	_ = c.cmd.Process.Kill()
	<-c.done
	return errors.New(errors.KindTimeout, "%s (pid %d) did not stop within %s and was killed; see %s", c.what, c.cmd.Process.Pid, devStopWait, c.log)
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// tailOf returns the last lines of a log.
func tailOf(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
