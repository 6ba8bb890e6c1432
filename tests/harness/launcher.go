package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A launcher is a process that starts processes for a test which has files open on mounts that do not answer. The test
// itself could not: a new process closes what it was born with, and the close of a file of a mount waits for the mount's answer.
// The launcher is the test's own binary, which must begin with Main.
type launcher struct {
	t    testing.TB
	cmd  *exec.Cmd
	pipe io.WriteCloser

	mu       sync.Mutex
	requests *json.Encoder
	last     int
	started  map[int]*Process
	replies  map[int]chan launchReply
}

// launchRequest asks for a process, or for a signal to one.
type launchRequest struct {
	ID        int
	Namespace string // a file; "" is the launcher's own
	Path      string
	Args      []string
	Env       []string // besides the launcher's
	Out, Err  string   // files that are appended to
	Signal    int      // if not 0, that is all that is asked
}

// launchReply tells of a start, which may have failed, or of an end.
type launchReply struct {
	ID    int
	PID   int
	Error string
	Ended bool
	Code  int
}

const launcherVariable = "DFS_TEST_LAUNCHER"

// newLauncher starts a launcher, which ends with the test.
func newLauncher(t testing.TB) *launcher {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &launcher{t: t, cmd: exec.Command(self), started: map[int]*Process{}, replies: map[int]chan launchReply{}}
	l.cmd.Env = append(os.Environ(), launcherVariable+"=1")
	l.cmd.Stderr = os.Stderr
	var replies io.Reader
	if l.pipe, err = l.cmd.StdinPipe(); err == nil {
		replies, err = l.cmd.StdoutPipe()
	}
	if err == nil {
		err = l.cmd.Start()
	}
	if err != nil {
		t.Fatalf("starting the launcher: %v", err)
	}
	l.requests = json.NewEncoder(l.pipe)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		l.listen(json.NewDecoder(replies))
	}()
	t.Cleanup(func() {
		_ = l.pipe.Close()
		<-listening
		_ = l.cmd.Wait()
	})
	return l
}

// listen takes what the launcher tells until it ends.
func (l *launcher) listen(replies *json.Decoder) {
	for {
		var r launchReply
		if err := replies.Decode(&r); err != nil {
			return
		}
		l.mu.Lock()
		if r.Ended {
			p := l.started[r.ID]
			delete(l.started, r.ID)
			p.code = r.Code
			close(p.done)
		} else {
			l.replies[r.ID] <- r
			delete(l.replies, r.ID)
		}
		l.mu.Unlock()
	}
}

func (l *launcher) send(r launchRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.requests.Encode(r)
}

// start starts a process on a host.
func (l *launcher) start(h *Host, r launchRequest) (*Process, error) {
	if h != nil {
		r.Namespace = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.namespace.Fd())
	}
	answer := make(chan launchReply, 1)
	p := &Process{done: make(chan struct{})}
	l.mu.Lock()
	l.last++
	r.ID = l.last
	l.started[r.ID], l.replies[r.ID] = p, answer
	err := l.requests.Encode(r)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	reply := <-answer
	if reply.Error != "" {
		return nil, errors.New(reply.Error)
	}
	p.pid = reply.PID
	p.signal = func(s syscall.Signal) { l.send(launchRequest{ID: r.ID, Signal: int(s)}) }
	return p, nil
}

// run runs a command on a host, as exec.Cmd does, and returns what it wrote.
func (l *launcher) run(ctx context.Context, h *Host, env []string, path string, args ...string) (stdout, stderr []byte, err error) {
	dir, err := os.MkdirTemp("", "dfs-test-run-")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := launchRequest{Path: path, Args: args, Env: env, Out: filepath.Join(dir, "out"), Err: filepath.Join(dir, "err")}
	p, err := l.start(h, r)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.Kill()
	}
	stdout, _ = os.ReadFile(r.Out)
	stderr, _ = os.ReadFile(r.Err)
	if p.code != 0 {
		err = fmt.Errorf("exit status %d", p.code)
	}
	return stdout, stderr, err
}

// launch is the launcher's life: it does what it is asked, and ends, with all that it started, at the end of requests.
func launch(requests io.Reader, replies io.Writer) {
	var mu sync.Mutex
	out := json.NewEncoder(replies)
	children := map[int]*exec.Cmd{}
	say := func(r launchReply) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(r)
	}
	var all sync.WaitGroup
	for in := json.NewDecoder(requests); ; {
		var r launchRequest
		if err := in.Decode(&r); err != nil {
			break
		}
		if r.Signal != 0 {
			mu.Lock()
			if child := children[r.ID]; child != nil {
				_ = child.Process.Signal(syscall.Signal(r.Signal))
			}
			mu.Unlock()
			continue
		}
		all.Go(func() {
			runtime.LockOSThread() // for the namespace, and Pdeathsig comes when this thread ends
			child, err := r.start()
			if err != nil {
				say(launchReply{ID: r.ID, Error: err.Error()})
				return
			}
			mu.Lock()
			children[r.ID] = child
			mu.Unlock()
			say(launchReply{ID: r.ID, PID: child.Process.Pid})
			_ = child.Wait()
			say(launchReply{ID: r.ID, Ended: true, Code: child.ProcessState.ExitCode()})
		})
	}
	mu.Lock()
	for _, child := range children {
		_ = child.Process.Kill()
	}
	mu.Unlock()
	all.Wait()
}

// start starts what is asked for; its thread is locked.
func (r launchRequest) start() (*exec.Cmd, error) {
	cmd := exec.Command(r.Path, r.Args...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	for i, to := range []*io.Writer{&cmd.Stdout, &cmd.Stderr} {
		f, err := os.OpenFile([]string{r.Out, r.Err}[i], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		*to = f
	}
	if r.Namespace != "" {
		ns, err := os.Open(r.Namespace)
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return nil, os.NewSyscallError("setns", err)
		}
	}
	return cmd, cmd.Start()
}
