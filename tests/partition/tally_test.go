package partition

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// soak is how long a long run shall take; 0 where DFS_SOAK_MINUTES is not set.
func soak() time.Duration {
	n, _ := strconv.Atoi(os.Getenv("DFS_SOAK_MINUTES"))
	return time.Duration(n) * time.Minute
}

// worlds is how many long runs go on side by side on this machine, each a process of its own that knows of the others by DFS_SOAK_WORLDS.
func worlds() int {
	n, _ := strconv.Atoi(os.Getenv("DFS_SOAK_WORLDS"))
	return max(n, 1)
}

// onTime reports whether promised times are held to: in a long run that has the machine for itself.
func onTime() bool { return soak() > 0 && worlds() == 1 }

// wanted are the totals that runs should add up to.
var wanted = map[string]int64{"leader pauses": 1000, "cuts": 300, "kills": 300, "power losses of all nodes": 50}

// tally counts what was done and found. That of a long run goes on from a file, DFS_SOAK_RESULTS or docs/soak-results.json, and is
// added to it after each round, so that runs of any length add up, one after the other or side by side.
type tally struct {
	path   string // "" in a short run
	counts map[string]int64
	fresh  []figure // that are not in the file yet
}

// figure changes a count: it adds to it, or keeps the greater or the smaller of both.
type figure struct {
	name string
	n    int64
	how  func(known, n int64) int64
}

func openTally(t *testing.T) *tally {
	t.Helper()
	y := &tally{counts: map[string]int64{}}
	if soak() > 0 {
		if y.path = os.Getenv("DFS_SOAK_RESULTS"); y.path == "" {
			y.path = filepath.Join("..", "..", "docs", "soak-results.json")
		}
	}
	y.add("violations", 0)
	y.save(t)
	return y
}

func (y *tally) note(f figure) {
	y.fresh = append(y.fresh, f)
	f.into(y.counts)
}

func (f figure) into(counts map[string]int64) {
	if known, is := counts[f.name]; is {
		counts[f.name] = f.how(known, f.n)
	} else {
		counts[f.name] = f.n
	}
}

func (y *tally) add(name string, n int) {
	y.note(figure{name, int64(n), func(known, n int64) int64 { return known + n }})
}

// most keeps the greatest of a time, least the smallest of a part. Those of a machine that was shared stand by themselves.
func (y *tally) most(name string, n int64) {
	y.note(figure{name + shared(), n, func(known, n int64) int64 { return max(known, n) }})
}

func (y *tally) least(name string, n int64) {
	y.note(figure{name + shared(), n, func(known, n int64) int64 { return min(known, n) }})
}

func shared() string {
	if worlds() > 1 {
		return ", machine shared"
	}
	return ""
}

// save adds what is fresh to the results file, which is read and written as a whole under a lock of its directory.
func (y *tally) save(t *testing.T) {
	t.Helper()
	if y.path == "" {
		return
	}
	dir, err := os.Open(filepath.Dir(y.path))
	must(t, err)
	defer dir.Close() // and let go of the lock
	_, err = retried(func() (int, error) { return 0, unix.Flock(int(dir.Fd()), unix.LOCK_EX) })
	must(t, err)
	counts := map[string]int64{}
	b, err := os.ReadFile(y.path)
	if !os.IsNotExist(err) {
		must(t, err)
		if err := json.Unmarshal(b, &counts); err != nil {
			t.Fatalf("%s: %v", y.path, err)
		}
	}
	for _, f := range y.fresh {
		f.into(counts)
	}
	y.counts, y.fresh = counts, nil
	b, err = json.MarshalIndent(y.counts, "", "  ")
	must(t, err)
	must(t, os.WriteFile(y.path+".new", append(b, '\n'), 0o644))
	must(t, os.Rename(y.path+".new", y.path))
}

// log prints the totals.
func (y *tally) log(t *testing.T) {
	t.Helper()
	y.save(t)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(y.counts)) {
		fmt.Fprintf(&b, "\n  %s: %d", name, y.counts[name])
		if n := wanted[name]; n > 0 && y.path != "" {
			fmt.Fprintf(&b, " of %d", n)
		}
	}
	t.Logf("in all:%s", b.String())
}
