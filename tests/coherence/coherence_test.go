package coherence

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"dfs/tests/harness"
)

// TestMounts shares one cluster and its four mounts among the tests of live sharing.
func TestMounts(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--allow-ids", "all"}})
	c.WaitReady()
	var dirs []string
	var mounts []*harness.Mount
	for range 4 {
		m := c.Mount()
		mounts = append(mounts, m)
		dirs = append(dirs, m.Dir)
	}
	w := &world{mounts: mounts, dirs: dirs}
	w.run(t, "matrix", matrixLimit(matrixRounds()), testMatrix)
	w.run(t, "locks", 3*time.Minute, testLocks)
	w.run(t, "pingpong", 3*time.Minute, testPingPong)
	w.run(t, "handover", 3*time.Minute, testHandOver)
	w.run(t, "append", 3*time.Minute, testAppend)
	w.run(t, "unlinked", 3*time.Minute, testUnlinked)
	w.run(t, "names", 3*time.Minute, testNames)
	w.run(t, "hammer", 3*time.Minute, testHammer)
	w.run(t, "crossed", 3*time.Minute, testCrossed)
	runs := fsxRuns{changing: 1000, staying: 19_000}.asked()
	w.run(t, "fsx", runs.limit(), runs.test)
	w.run(t, "tmpfs", 3*time.Minute, testMountBelow)
	w.run(t, "signals", 3*time.Minute, testSignals)
	thin := c.Mount("-o", "via")
	mounts = append(mounts, thin)
	beside := &world{mounts: mounts, dirs: []string{dirs[0], thin.Dir}}
	beside.run(t, "thin", matrixLimit(matrixRounds()), testThinMatrix)
	for _, m := range mounts {
		m.Unmount()
	}
	c.Check()
}

// world is the cluster that the tests of one run share.
type world struct {
	mounts []*harness.Mount
	dirs   []string
}

// run runs one test in a new directory of the cluster and ends everything if it is not done within limit: a
// process stuck in a system call on a mount could not be ended otherwise.
func (w *world) run(t *testing.T, name string, limit time.Duration, test func(t *testing.T, dirs []string)) {
	if t.Failed() && os.Getenv("DFS_COHERENCE_ALL") == "" {
		return
	}
	if soak() > 0 {
		limit += 30*time.Minute + 2*soak() // of what is counted it does up to 250 times as much
	}
	t.Run(name, func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(w.dirs[0], name), 0o777); err != nil {
			t.Fatal(err)
		}
		var dirs []string
		for _, d := range w.dirs {
			dirs = append(dirs, filepath.Join(d, name))
		}
		done := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-done:
			case <-time.After(limit):
				buf := make([]byte, 1<<20)
				t.Errorf("%s is not done after %v: the mounts are killed; goroutines:\n%s", name, limit, buf[:runtime.Stack(buf, true)])
				for _, m := range w.mounts {
					m.Kill()
				}
			}
		}()
		defer func() { close(done); <-stopped }()
		began := time.Now()
		test(t, dirs)
		t.Logf("%s took %v", name, time.Since(began).Round(time.Millisecond))
	})
}

// soak is how long a long run shall take; 0 where DFS_SOAK_MINUTES is not set.
func soak() time.Duration {
	n, _ := strconv.Atoi(os.Getenv("DFS_SOAK_MINUTES"))
	return time.Duration(n) * time.Minute
}

// rounds is n, or many where a long run was asked for.
func rounds(n, many int) int {
	if soak() > 0 {
		return many
	}
	return n
}

// drawnSeed is the seed of a test's random choices, and is told.
func drawnSeed(t *testing.T) int64 {
	t.Helper()
	seed, err := strconv.ParseInt(os.Getenv("DFS_SEED"), 10, 64)
	if err != nil {
		seed = time.Now().UnixNano()
	}
	t.Logf("DFS_SEED=%d replays it", seed)
	return seed
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
