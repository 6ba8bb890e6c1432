package hostile

import (
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	lease    = 3 * time.Second // of the mounts that die
	patience = 3 * time.Minute // where a test gives up
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within runs f, which may wait in system calls on a mount, and fails the test if it does not end in time.
func within(t testing.TB, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	case <-time.After(patience):
		t.Fatalf("%s: not done after %v", what, patience)
	}
}

// usedBytes is what df tells through a mount.
func usedBytes(t testing.TB, m *harness.Mount) int64 {
	t.Helper()
	var st unix.Statfs_t
	within(t, "statfs", func() error { return unix.Statfs(m.Dir, &st) })
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// TestDeadAndSharing has mounts die with files open and unlinked, and the leader with them, while programs share directories
// through four mounts that live: the programs lose nothing, and what the dead had open is freed.
func TestDeadAndSharing(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	var mounts []*harness.Mount
	for range 4 {
		mounts = append(mounts, c.Mount())
	}
	before := usedBytes(t, mounts[0])
	orphans := makeOrphans(t, c, mounts)
	var wg sync.WaitGroup
	for name, program := range map[string]func(t *testing.T, mounts []*harness.Mount) error{"git": gitShared, "sqlite": sqliteShared, "maildir": maildirShared} {
		must(t, os.Mkdir(mounts[0].Path(name), 0o777))
		wg.Go(func() {
			began := time.Now()
			if err := program(t, mounts); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			t.Logf("%s took %v", name, time.Since(began).Round(time.Millisecond))
		})
	}
	leader := c.WaitLeader()
	leader.Process().Signal(syscall.SIGSTOP)
	time.Sleep(5 * time.Second)
	leader.Process().Signal(syscall.SIGCONT)
	wg.Wait()
	orphans.check(t)
	for _, m := range mounts {
		m.Sync()
		if log, err := os.ReadFile(m.Log); err != nil || strings.Contains(string(log), "the session with the cluster was ended") {
			t.Errorf("a mount lost its session though it lived (%v)", err)
		}
	}
	for _, name := range []string{"git", "sqlite", "maildir"} {
		must(t, os.RemoveAll(mounts[1].Path(name)))
	}
	var used int64
	began := time.Now()
	for end := began.Add(patience); ; time.Sleep(100 * time.Millisecond) { // a mount looks after orphans every 30 s
		if used = usedBytes(t, mounts[2]); used < before+1<<19 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("of %d MiB in files without names %d KiB are not freed", orphansInBytes>>20, (used-before)>>10)
		}
	}
	t.Logf("%d KiB were used before, %d KiB %v after", before>>10, used>>10, time.Since(began).Round(time.Millisecond))
	for _, m := range mounts {
		m.Unmount()
	}
	c.Check()
}
