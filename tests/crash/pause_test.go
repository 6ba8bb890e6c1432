package crash

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"dfs/tests/harness"
)

// The leader stands still, long enough for another to be elected, and goes on, while a tree is written.
func TestPauseLeader(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	w := startCopier(t, m.Dir, 1500)
	w.advance(t, 200, "the start of the copy")
	for range 2 {
		leader := c.WaitLeader()
		leader.Process().Signal(syscall.SIGSTOP)
		w.advance(t, 300, "files copied while the leader stands still")
		if now := c.WaitLeader(); now == leader {
			t.Errorf("node %s leads though it is stopped", now.ID)
		}
		leader.Process().Signal(syscall.SIGCONT)
		w.advance(t, 200, "files copied after the old leader woke up")
		c.WaitReady()
	}
	want := w.end(t)
	m.Sync()
	t.Logf("%d files copied; the slowest took %v", len(want), w.slowest)
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	c.Check()
}

// A mount stands still for longer than its lease, and another takes over what it held. When it goes on it serves the truth, tells what it
// lost, and needs no remount.
func TestPauseMount(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	frozen, other := c.Mount("--lease", "3s"), c.Mount("--lease", "3s")
	f, err := os.OpenFile(frozen.Path("shared"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put := func(f *os.File, s string) {
		t.Helper()
		if _, err := f.WriteAt([]byte(s), 0); err != nil {
			t.Fatal(err)
		}
	}
	put(f, "first ")
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	put(f, "second")
	frozen.Process().Signal(syscall.SIGSTOP)
	defer frozen.Process().Signal(syscall.SIGCONT)

	var seen []byte
	taken := beside(func() (err error) { // waits until the lease is over
		if seen, err = os.ReadFile(other.Path("shared")); err != nil {
			return err
		}
		return os.WriteFile(other.Path("shared"), []byte("third "), 0o644)
	})
	if err := taken.wait(t, "the other mount to take over"); err != nil {
		t.Fatalf("the other mount: %v", err)
	}
	other.Sync()
	frozen.Process().Signal(syscall.SIGCONT)

	got, err := os.ReadFile(frozen.Path("shared"))
	if err != nil || string(got) != "third " {
		t.Fatalf("the mount that stood still reads %q, %v", got, err)
	}
	switch err := f.Sync(); {
	case string(seen) == "first " && !errors.Is(err, syscall.EIO):
		t.Errorf("a write was lost, but the next fsync of its descriptor gave %v", err)
	case string(seen) == "second" && err != nil:
		t.Errorf("nothing was lost, but fsync gave %v", err)
	case string(seen) != "first " && string(seen) != "second":
		t.Errorf("the other mount saw %q", seen)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("the loss is told more than once: %v", err)
	}
	put(f, "fourth")
	if err := f.Sync(); err != nil {
		t.Errorf("fsync after the pause: %v", err)
	}
	if got, err := os.ReadFile(other.Path("shared")); err != nil || string(got) != "fourth" {
		t.Errorf("the other mount reads %q, %v after the first went on", got, err)
	}
	for _, m := range []*harness.Mount{frozen, other} {
		if err := os.WriteFile(m.Path("new"), []byte("new"), 0o644); err != nil {
			t.Errorf("a new file: %v", err)
		}
	}
	_ = f.Close()
	frozen.Unmount()
	other.Unmount()
	c.Check()
}
