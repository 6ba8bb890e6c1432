package coherence

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// TestManyMounts has eight mounts of one cluster, with caches from a single block on: all get on in one
// directory, and what is right with a large cache is right with each of these.
func TestManyMounts(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	w := &world{}
	for _, blocks := range []int{1, 1, 2, 3, 7, 64, 256, 65536} {
		m := c.Mount(fmt.Sprintf("--cache-blocks=%d", blocks))
		w.mounts, w.dirs = append(w.mounts, m), append(w.dirs, m.Dir)
	}
	w.run(t, "crowd", 3*time.Minute, testCrowd)
	w.run(t, "append", 3*time.Minute, func(t *testing.T, dirs []string) { testAppend(t, dirs[:3]) })
	w.run(t, "matrix", matrixLimit(matrixRounds()), func(t *testing.T, dirs []string) {
		(&matrix{dirs: dirs, thin: -1, rounds: matrixRounds(), every: 12}).run(t)
	})
	runs := fsxRuns{changing: 300, staying: 3000}.asked()
	w.run(t, "fsx", runs.limit(), runs.test)
	for _, m := range w.mounts {
		m.Unmount()
	}
	c.Check()
}

// testCrowd has every mount make, rename and remove names in one directory, its own and those that all use, until each has
// done its share: nobody waits for ever while others get on.
func testCrowd(t *testing.T, dirs []string) {
	share := int64(rounds(20, 5000))
	done := make([]atomic.Int64, len(dirs))
	all := func() bool {
		for i := range done {
			if done[i].Load() < share {
				return false
			}
		}
		return true
	}
	began := time.Now()
	var slowest atomic.Int64
	var wg sync.WaitGroup
	for i, dir := range dirs {
		wg.Go(func() {
			for n := 0; !all() && !t.Failed(); n++ {
				start := time.Now()
				if err := crowdRound(dir, i, n); err != nil {
					t.Errorf("mount %d, round %d: %v", i, n, err)
					return
				}
				for took, old := int64(time.Since(start)), slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
				done[i].Add(1)
			}
		})
	}
	wg.Wait()
	least, most, sum := done[0].Load(), done[0].Load(), int64(0)
	for i := range done {
		n := done[i].Load()
		least, most, sum = min(least, n), max(most, n), sum+n
	}
	t.Logf("%d mounts in one directory: %.0f rounds/s, each between %d and %d, the slowest round took %v", len(dirs),
		float64(sum)/time.Since(began).Seconds(), least, most, time.Duration(slowest.Load()).Round(time.Millisecond))
	for i, dir := range dirs {
		names, err := os.ReadDir(dir)
		must(t, err)
		if len(names) > 1 { // the one that all renamed to
			t.Errorf("mount %d sees %d names where all were removed", i, len(names))
		}
	}
}

// crowdRound makes a name of its own, renames it over one that every mount uses, and makes, moves and removes another.
func crowdRound(dir string, mount, n int) error {
	own := filepath.Join(dir, fmt.Sprintf("%d-%d", mount, n))
	text := fmt.Sprintf("%d %d", mount, n)
	if err := os.WriteFile(own, []byte(text), 0o666); err != nil {
		return err
	}
	if err := os.Rename(own, own+".moved"); err != nil {
		return err
	}
	if got, err := os.ReadFile(own + ".moved"); err != nil || string(got) != text {
		return fmt.Errorf("%q just after it was written and renamed: %w", got, err)
	}
	if _, err := os.Lstat(own); !os.IsNotExist(err) {
		return fmt.Errorf("%s is still there after a rename: %w", own, err)
	}
	if err := os.Rename(own+".moved", filepath.Join(dir, "shared")); err != nil {
		return err
	}
	if err := os.Mkdir(own, 0o777); err != nil {
		return err
	}
	if err := os.Symlink("x", filepath.Join(own, "l")); err != nil {
		return err
	}
	if err := unix.Rmdir(own); err != unix.ENOTEMPTY && err != unix.EEXIST {
		return fmt.Errorf("rmdir of a directory with a name: %w", err)
	}
	return os.RemoveAll(own)
}
