package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// TestLargeDirectory makes and lists 100,000 entries of one directory (a million in the long form), looks some of them up and
// removes some (all in the long form), and lists it while it changes.
func TestLargeDirectory(t *testing.T) {
	count, few := 100_000, 3_000
	if os.Getenv("DFS_SOAK_MINUTES") != "" {
		count, few = 1_000_000, 1_000_000
	}
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	dir := m.Path("large")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	phase := func(what string) {
		t.Logf("%s: %.1f s", what, time.Since(start).Seconds())
		start = time.Now()
	}
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("entry-%07d", i)) }
	parallel(t, count, func(i int) error { return unix.Mknod(name(i), unix.S_IFREG|0o644, 0) })
	list := func(want int) {
		t.Helper()
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]bool, len(names))
		for _, n := range names {
			if seen[n] {
				t.Errorf("%s is listed twice", n)
			}
			seen[n] = true
		}
		if len(seen) != want {
			t.Errorf("%d entries are listed, want %d", len(seen), want)
		}
	}
	phase("made")
	list(count)
	phase("listed")
	m.Unmount() // and with nothing in any cache
	m.Start()
	phase("mounted again")
	list(count)
	phase("listed")
	parallel(t, few, func(i int) error { var st unix.Stat_t; return unix.Lstat(name(i*(count/few)), &st) })
	phase("looked up")
	var st unix.Stat_t
	if err := unix.Lstat(name(count), &st); err != unix.ENOENT {
		t.Errorf("a name that is not there: %v", err)
	}
	if err := unix.Rmdir(dir); err != unix.ENOTEMPTY {
		t.Errorf("rmdir of a full directory: %v", err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for i := range few {
			if err := unix.Mknod(name(count+i), unix.S_IFREG|0o644, 0); err != nil {
				t.Error(err)
			}
		}
	})
	out, err := exec.Command("find", dir, "-name", "entry-00*").Output()
	if err != nil {
		t.Errorf("find: %v", err)
	}
	if len(out) == 0 {
		t.Error("find found nothing")
	}
	done.Wait()
	phase("found while it grew")
	list(count + few)
	parallel(t, few, func(i int) error { return unix.Unlink(name(count + i)) })
	list(count)
	if few == count {
		parallel(t, count, func(i int) error { return unix.Unlink(name(i)) })
		if err := unix.Rmdir(dir); err != nil {
			t.Errorf("rmdir of the emptied directory: %v", err)
		}
	}
	phase("removed")
	m.Sync()
	c.Check()
}

// parallel calls f for 0 to n-1, four at a time.
func parallel(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	const lanes = 4
	for lane := range lanes {
		wg.Go(func() {
			for i := lane; i < n; i += lanes {
				if err := f(i); err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
