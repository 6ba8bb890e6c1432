package coherence

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testSignals has a program with an interval timer use a shared directory: no system call fails with EINTR.
// A blocking lock request is interrupted by a signal, and a process that waits for one can be killed.
func testSignals(t *testing.T, dirs []string) {
	self, err := os.Executable()
	must(t, err)
	helper := func(mode, dir string) *exec.Cmd {
		cmd := exec.Command(self, "-test.run=^TestHelperProcess$")
		cmd.Env = append(os.Environ(), "DFS_COHERENCE_HELPER="+mode, "DFS_COHERENCE_DIR="+dir)
		return cmd
	}
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // keeps taking the locks away
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.WriteFile(filepath.Join(dirs[1], "busy"), []byte(fmt.Sprint(i)), 0o666)
			_ = os.Remove(filepath.Join(dirs[1], "busy"))
		}
	}()
	out, err := helper("timer", dirs[0]).CombinedOutput()
	close(stop)
	<-done
	if err != nil || !strings.Contains(string(out), "DONE") {
		t.Errorf("under an interval timer: %v\n%s", err, out)
	}

	path := filepath.Join(dirs[0], "lock")
	must(t, os.WriteFile(path, nil, 0o666))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	began := time.Now()
	// flock(1) waits in flock(2) until its timer's signal interrupts that.
	err = exec.Command("flock", "-w", "1", filepath.Join(dirs[1], "lock"), "true").Run()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 || time.Since(began) > 3*time.Second {
		t.Errorf("a wait of a second for a lock that is held: %v after %v", err, time.Since(began))
	}
	waiter := exec.Command("flock", filepath.Join(dirs[1], "lock"), "true")
	must(t, waiter.Start())
	time.Sleep(300 * time.Millisecond)
	began = time.Now()
	must(t, waiter.Process.Kill())
	_ = waiter.Wait()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("SIGKILL ended a waiting process only after %v", took)
	}
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_UN))
	must(t, exec.Command("flock", "-w", "5", filepath.Join(dirs[1], "lock"), "true").Run())
}

// TestHelperProcess is the other process of testSignals; by itself it does nothing.
func TestHelperProcess(t *testing.T) {
	dir := os.Getenv("DFS_COHERENCE_DIR")
	if os.Getenv("DFS_COHERENCE_HELPER") == "timer" {
		helperTimer(t, dir)
		fmt.Println("DONE")
	}
}

func helperTimer(t *testing.T, dir string) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGALRM)
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Interval: unix.Timeval{Usec: 500}, Value: unix.Timeval{Usec: 500}}); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{}) }()
	began := time.Now()
	for i := 0; time.Since(began) < 1500*time.Millisecond; i++ {
		path := filepath.Join(dir, fmt.Sprintf("t%d", i%10))
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, 0o666)
		if err != nil {
			t.Fatalf("open: %v", err)
		}
		if _, err := unix.Pwrite(fd, []byte("data"), 0); err != nil {
			t.Fatalf("write: %v", err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "busy"), &st); err != nil && !errors.Is(err, unix.ENOENT) {
			t.Fatalf("stat: %v", err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatalf("close: %v", err)
		}
		if err := unix.Unlink(path); err != nil {
			t.Fatalf("unlink: %v", err)
		}
	}
}
