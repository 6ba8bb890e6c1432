package harness

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a child process whose output goes to a log file.
type Process struct {
	pid    int
	signal func(syscall.Signal)
	done   chan struct{}
	code   int // set when done
}

// StartProcess runs path with args; it dies with the test process.
func StartProcess(t testing.TB, log, path string, args ...string) *Process {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &Process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig comes when the thread that started the process ends
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			p.code = cmd.ProcessState.ExitCode()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	p.pid = cmd.Process.Pid
	p.signal = func(s syscall.Signal) { _ = cmd.Process.Signal(s) }
	return p
}

// startOn is StartProcess on a host of a network; nil is the test's own.
func startOn(t testing.TB, host *Host, log, path string, args ...string) *Process {
	t.Helper()
	if host == nil {
		return StartProcess(t, log, path, args...)
	}
	p, err := host.net.launcher.start(host, launchRequest{Path: path, Args: args, Out: log, Err: log})
	if err != nil {
		t.Fatalf("starting %s on host %s: %v", path, host.Name, err)
	}
	return p
}

// PID is the process id.
func (p *Process) PID() int { return p.pid }

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) { p.signal(s) }

// Exited reports whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits for the end, at most d, and reports whether it came.
func (p *Process) Wait(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return false
	}
}

// ExitCode is the exit code of an ended process.
func (p *Process) ExitCode() int { return p.code }

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end (SIGTERM), and kills it after 20 s.
func (p *Process) Stop() {
	p.signal(syscall.SIGTERM)
	if !p.Wait(20 * time.Second) {
		p.Kill()
	}
}

// Trace ends a Go process with SIGQUIT, so that its log ends with what each of its goroutines does; one that does not end is killed.
func (p *Process) Trace() {
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGQUIT)
	if !p.Wait(5 * time.Second) {
		p.signal(syscall.SIGKILL)
	}
}

// Eventually waits until ok returns true, and fails the test after d.
func Eventually(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain for %s", d, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Tail returns the last n lines of a file.
func Tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// WaitsInFUSE reports whether a process waits in the kernel for an answer of a FUSE server.
func WaitsInFUSE(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	return err == nil && (strings.Contains(string(b), "fuse") || strings.Contains(string(b), "request_wait"))
}
