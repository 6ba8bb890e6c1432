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
)

// soak is how long a long run shall take; 0 where DFS_SOAK_MINUTES is not set.
func soak() time.Duration {
	n, _ := strconv.Atoi(os.Getenv("DFS_SOAK_MINUTES"))
	return time.Duration(n) * time.Minute
}

// tally counts what was done and found. That of a long run goes on from a file, DFS_SOAK_RESULTS or docs/soak-results.json, and is
// written to it after each round, so that runs of any length add up.
type tally struct {
	path   string // "" in a short run
	counts map[string]int64
}

func openTally(t *testing.T) *tally {
	t.Helper()
	all := &tally{counts: map[string]int64{"violations": 0}}
	if soak() == 0 {
		return all
	}
	if all.path = os.Getenv("DFS_SOAK_RESULTS"); all.path == "" {
		all.path = filepath.Join("..", "..", "docs", "soak-results.json")
	}
	b, err := os.ReadFile(all.path)
	if os.IsNotExist(err) {
		return all
	}
	must(t, err)
	if err := json.Unmarshal(b, &all.counts); err != nil {
		t.Fatalf("%s: %v", all.path, err)
	}
	return all
}

func (y *tally) add(name string, n int) { y.counts[name] += int64(n) }

// most keeps the greatest of a figure.
func (y *tally) most(name string, n int64) { y.counts[name] = max(y.counts[name], n) }

// save writes the results file, as a whole.
func (y *tally) save(t *testing.T) {
	t.Helper()
	if y.path == "" {
		return
	}
	b, err := json.MarshalIndent(y.counts, "", "  ")
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
	}
	t.Logf("in all:%s", b.String())
}
