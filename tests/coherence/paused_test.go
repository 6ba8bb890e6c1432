package coherence

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// pausedLease is the lease of the mounts in the tests of a paused mount.
const pausedLease = 3 * time.Second

// TestPausedMount stops a mount process in the middle of its work: others go on once its lease is over, what its kernel still has is
// never shown again, lost data is told once to each descriptor, and it heals.
func TestPausedMount(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	a, b := c.Mount("--lease", pausedLease.String()), c.Mount("--lease", pausedLease.String())
	for round := range rounds(2, 30) {
		pauseRound(t, a, b, fmt.Sprintf("round%d", round))
		if t.Failed() {
			return
		}
	}
	if log, err := os.ReadFile(a.Log); err != nil || !strings.Contains(string(log), `msg="unsaved changes of a file are lost" file="/round0/dirty (inode `) {
		t.Errorf("the log of the mount that lost data does not name the file (%v)", err)
	}
	a.Unmount()
	b.Unmount()
	c.Check()
}

func pauseRound(t *testing.T, a, b *harness.Mount, dir string) {
	must(t, os.Mkdir(a.Path(dir), 0o777))
	must(t, os.WriteFile(a.Path(dir, "f"), bytes.Repeat([]byte("old"), 5000), 0o666))
	must(t, os.WriteFile(a.Path(dir, "dirty"), []byte("durable"), 0o666))
	a.Sync()
	f, err := os.OpenFile(a.Path(dir, "dirty"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	other, err := os.OpenFile(a.Path(dir, "dirty"), os.O_RDWR, 0)
	must(t, err)
	defer other.Close()
	warm := openViewRO(t, a.Path(dir, "f"))
	defer warm.Close()
	for range 3 {
		_, err := os.ReadFile(a.Path(dir, "f"))
		must(t, err)
		_ = statText(a.Path(dir, "absent"))
		_ = statText(a.Path(dir, "f"))
	}
	locked, err := os.OpenFile(a.Path(dir, "locked"), os.O_CREATE|os.O_RDWR, 0o666)
	must(t, err)
	defer locked.Close()
	must(t, unix.Flock(int(locked.Fd()), unix.LOCK_EX))
	must(t, locked.Sync())
	lostSomething := false
	if _, err := f.WriteAt([]byte("volatil"), 0); err != nil {
		t.Fatal(err)
	}
	a.Process().Signal(syscall.SIGSTOP)
	defer a.Process().Signal(syscall.SIGCONT)

	began := time.Now()
	must(t, os.WriteFile(b.Path(dir, "f"), []byte("new"), 0o666))
	must(t, os.WriteFile(b.Path(dir, "absent"), []byte("there"), 0o666))
	waited := time.Since(began)
	t.Logf("another mount waited %v for what a stopped one with a lease of %v held", waited.Round(time.Millisecond), pausedLease)
	if waited > pausedLease+3*time.Second {
		t.Errorf("another mount waited %v", waited)
	}
	data, err := os.ReadFile(b.Path(dir, "dirty"))
	must(t, err)
	lostSomething = string(data) == "durable"
	must(t, os.WriteFile(b.Path(dir, "other"), nil, 0o666))
	theirs, err := os.OpenFile(b.Path(dir, "locked"), os.O_RDWR, 0)
	must(t, err)
	defer theirs.Close()
	must(t, unix.Flock(int(theirs.Fd()), unix.LOCK_EX|unix.LOCK_NB)) // free with the lease

	// With the process stopped still: either nothing is answered, or the new.
	type answer struct{ what, got string }
	answers := make(chan answer, 3)
	go func() { answers <- answer{"read", firstBytes(a.Path(dir, "f"))} }()
	go func() { answers <- answer{"read of an open file", firstBytesOf(warm)} }()
	go func() { answers <- answer{"absent", firstBytes(a.Path(dir, "absent"))} }()
	want := map[string]string{"read": "new", "read of an open file": "new", "absent": "there"}
	check := func(when string, an answer) {
		if an.got != want[an.what] {
			t.Errorf("%s, %s through the stopped mount: %q, want %q", when, an.what, an.got, want[an.what])
		}
	}
	n := 0
	for wait := time.After(500 * time.Millisecond); n < 3; {
		var done bool
		select {
		case an := <-answers:
			check("while it was stopped", an)
			n++
		case <-wait:
			done = true
		}
		if done {
			break
		}
	}
	time.Sleep(time.Until(began.Add(2 * pausedLease))) // a long pause is no other than a short one
	a.Process().Signal(syscall.SIGCONT)
	woken := time.Now()
	for ; n < 3; n++ {
		select {
		case an := <-answers:
			check("after it went on", an)
		case <-time.After(20 * time.Second):
			t.Fatal("a mount that was stopped answers nothing after it went on")
		}
	}
	t.Logf("answers %v after it went on", time.Since(woken).Round(time.Millisecond))
	if !lostSomething {
		t.Fatalf("nothing was lost: the file holds %q", data)
	}
	for i, d := range []*os.File{f, other} {
		if err := d.Sync(); !errors.Is(err, unix.EIO) {
			t.Errorf("descriptor %d of a file that lost data: fsync says %v, want EIO", i, err)
		}
		if err := d.Sync(); err != nil {
			t.Errorf("descriptor %d: the second fsync says %v", i, err)
		}
	}
	checkLostLock(t, locked)
	if _, err := f.WriteAt([]byte("again!!"), 0); err != nil {
		t.Errorf("a write after the loss: %v", err)
	}
	if got := firstBytes(b.Path(dir, "dirty")); got != "again!!" {
		t.Errorf("the other mount reads %q", got)
	}
	must(t, os.WriteFile(a.Path(dir, "healed"), nil, 0o666))
	if _, err := os.Stat(b.Path(dir, "healed")); err != nil {
		t.Error(err)
	}
}

// checkLostLock uses a descriptor through which a lock was held that another mount has now: everything fails, again and again.
func checkLostLock(t *testing.T, f *os.File) {
	t.Helper()
	for range 2 {
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EIO) {
			t.Errorf("a write through a descriptor that lost its lock: %v, want EIO", err)
		}
		if err := f.Sync(); !errors.Is(err, unix.EIO) {
			t.Errorf("fsync of a descriptor that lost its lock: %v, want EIO", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EIO) {
			t.Errorf("flock through a descriptor that lost its lock: %v, want EIO", err)
		}
	}
}

func openViewRO(t *testing.T, path string) *os.File {
	f, err := os.Open(path)
	must(t, err)
	return f
}

func firstBytes(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return errnoText(err)
	}
	defer f.Close()
	return firstBytesOf(f)
}

func firstBytesOf(f *os.File) string {
	buf := make([]byte, 20)
	n, err := f.ReadAt(buf, 0)
	if n == 0 && err != nil {
		return filepath.Base(f.Name()) + ": " + errnoText(err)
	}
	return string(buf[:n])
}
