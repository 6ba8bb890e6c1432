package hostile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

func fcntl(f *os.File, cmd int, typ int16, start, length int64) error {
	return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: typ, Start: start, Len: length})
}

func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	must(t, err)
	return f
}

// waits begins f, which must still wait a moment later.
func waits(t testing.TB, what string, f func() error) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		t.Fatalf("%s did not wait: %v", what, err)
	case <-time.After(300 * time.Millisecond):
	}
	return done
}

func arrives(t testing.TB, what string, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(patience):
		t.Fatalf("%s: still waits", what)
	}
}

// TestLocksOfTheDead: file locks go with the mount that held them, once its lease is over; a wait for one is ended by a signal, by
// SIGKILL, and by the death of the mount through which it waits.
func TestLocksOfTheDead(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	dies, lives := c.Mount("--lease", lease.String()), c.Mount("--lease", lease.String())
	held, also := open(t, dies.Path("posix")), open(t, dies.Path("flock"))
	defer held.Close()
	defer also.Close()
	mine, alsoMine := open(t, lives.Path("posix")), open(t, lives.Path("flock"))
	defer mine.Close()
	defer alsoMine.Close()
	must(t, fcntl(held, unix.F_SETLK, unix.F_WRLCK, 0, 10))
	must(t, unix.Flock(int(also.Fd()), unix.LOCK_EX))

	interrupted(t, lives.Path("posix"), "fcntl")
	interrupted(t, lives.Path("flock"), "flock")
	killed(t, lives.Path("flock"))

	must(t, fcntl(mine, unix.F_SETLK, unix.F_WRLCK, 100, 10))
	theirs := waits(t, "a lock that another mount holds", func() error { return fcntl(held, unix.F_OFD_SETLKW, unix.F_WRLCK, 100, 10) })
	posix := waits(t, "fcntl", func() error { return fcntl(mine, unix.F_OFD_SETLKW, unix.F_WRLCK, 5, 1) })
	flock := waits(t, "flock", func() error { return unix.Flock(int(alsoMine.Fd()), unix.LOCK_EX) })
	dies.Kill()
	select {
	case err := <-theirs:
		if err == nil {
			t.Error("a wait through a mount that died got its lock")
		}
	case <-time.After(patience):
		t.Fatal("a wait through a mount that died goes on")
	}
	arrives(t, "fcntl, when the holder's mount died", posix)
	arrives(t, "flock, when the holder's mount died", flock)
	if err := held.Sync(); !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("a descriptor of a mount that died: %v", err)
	}

	dies.Start()
	again := open(t, dies.Path("posix"))
	defer again.Close()
	if err := fcntl(again, unix.F_OFD_SETLK, unix.F_WRLCK, 5, 1); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("the mount that is back: %v, want EAGAIN: another has the lock now", err)
	}
	must(t, mine.Close()) // lets go what the descriptor and what the process had
	within(t, "a lock that was let go", func() error { return fcntl(again, unix.F_OFD_SETLKW, unix.F_WRLCK, 0, 0) })
	must(t, again.Close())
	must(t, alsoMine.Close())
	dies.Unmount()
	lives.Unmount()
	c.Check()
}

// interrupted has a process wait for a lock until a timer's signal ends the wait with EINTR, as on a local file system; it has nothing then.
func interrupted(t *testing.T, path, kind string) {
	t.Helper()
	script := `
import ctypes, errno, fcntl, os, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGALRM, lambda *a: None)
signal.siginterrupt(signal.SIGALRM, True)
fd = os.open(sys.argv[1], os.O_RDWR)
signal.setitimer(signal.ITIMER_REAL, 0.3)
if sys.argv[2] == "flock":
    r = libc.flock(fd, fcntl.LOCK_EX)
else:
    r = libc.fcntl(fd, fcntl.F_SETLKW, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 10, 0))
print(r, errno.errorcode.get(ctypes.get_errno(), ctypes.get_errno()))
`
	within(t, "an interrupted wait", func() error {
		out, err := exec.Command("python3", "-c", script, path, kind).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != "-1 EINTR" {
			return fmt.Errorf("%s answered %q, want EINTR (%w)", kind, got, err)
		}
		return nil
	})
}

// killed has a process wait for a lock and kills it: it is gone at once, and so is its request.
func killed(t *testing.T, path string) {
	t.Helper()
	waiter := exec.Command("flock", path, "true")
	must(t, waiter.Start())
	time.Sleep(300 * time.Millisecond)
	must(t, waiter.Process.Signal(syscall.SIGKILL))
	within(t, "the end of a killed process that waited for a lock", func() error { _ = waiter.Wait(); return nil })
}
