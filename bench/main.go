// Command bench measures dfs on this machine and prints each figure beside a yardstick measured in the
// same run, and the bound that docs/performance.md sets for it. It starts clusters of its own with
// `dfs dev` in temporary directories, and ends and removes them.
//
//	go run ./bench -dfs bin/dfs            everything (about seven minutes)
//	go run ./bench -dfs bin/dfs -run sync  one of: untar, sync, bulk, idle, memory, restart, and of
//	                                       several mounts: beside, cached, walk, pingpong, append
//
// Every measurement through a mount ends with an fsync of the mount's root, because sync(2) does not reach a
// FUSE server.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

type config struct {
	dfs, dir string
	rounds   int
	only     string
}

// result is one line of the report.
type result struct {
	name    string
	value   string
	against string
	bound   string
	met     bool
}

func main() {
	var c config
	flag.StringVar(&c.dfs, "dfs", "bin/dfs", "the dfs binary")
	flag.StringVar(&c.dir, "dir", "", "directory for the clusters' data (default: the system's temporary one)")
	flag.StringVar(&c.only, "run", "", "only these measurements, joined by commas")
	flag.IntVar(&c.rounds, "rounds", 3, "rounds of each measurement; the median counts")
	loopback := flag.String("loopback", "", "internal: serve a loopback mount of the directory FROM at TO (FROM:TO)")
	flag.Parse()
	if *loopback != "" {
		from, to, _ := strings.Cut(*loopback, ":")
		exit(serveLoopback(from, to))
	}
	exit(run(c))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(c config) error {
	path, err := filepath.Abs(c.dfs)
	if err != nil {
		return err
	}
	c.dfs = path
	if _, err := os.Stat(c.dfs); err != nil {
		return fmt.Errorf("%w (build it first: make build)", err)
	}
	c.dir, err = os.MkdirTemp(c.dir, "dfs-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(c.dir) }()
	all := []struct {
		name string
		run  func(config) ([]result, error)
	}{{"untar", benchUntar}, {"sync", benchSync}, {"bulk", benchBulk}, {"idle", benchIdle}, {"memory", benchMemory}, {"restart", benchRestart},
		{"beside", benchBeside}, {"cached", benchCached}, {"walk", benchWalk}, {"pingpong", benchPingPong}, {"append", benchAppend}}
	var lines []result
	for _, b := range all {
		if c.only != "" && !slices.Contains(strings.Split(c.only, ","), b.name) {
			continue
		}
		start := time.Now()
		r, err := b.run(c)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s measured in %s\n", b.name, time.Since(start).Round(time.Second))
		lines = append(lines, r...)
	}
	fmt.Printf("| measurement | dfs | yardstick | bound | met |\n| --- | --- | --- | --- | --- |\n")
	missed := 0
	for _, l := range lines {
		met := "yes"
		if !l.met {
			met = "NO"
			missed++
		}
		fmt.Printf("| %s | %s | %s | %s | %s |\n", l.name, l.value, l.against, l.bound, met)
	}
	if missed > 0 {
		return fmt.Errorf("%d of %d bounds missed", missed, len(lines))
	}
	return nil
}

// bareFigures is what bench/bareraft makes on the same log store: medians of as many rounds as dfs has, after as many bytes to warm up (warm).
type bareFigures struct{ oneMillis, bulkMBPerSecond float64 }

// bare runs the three-process hashicorp/raft yardstick.
func bare(c config) (f bareFigures, err error) {
	out, err := exec.Command("go", "run", "./bench/bareraft", "-json", "-seconds", "2", "-rounds", fmt.Sprint(c.rounds), "-dir", c.dir).Output()
	if err != nil {
		return f, fmt.Errorf("bench/bareraft: %w", err)
	}
	var report struct {
		Rounds []struct {
			Load     string  `json:"load"`
			MedianMS float64 `json:"median_ms"`
			MBPerS   float64 `json:"mb_per_s"`
		} `json:"rounds"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return f, err
	}
	var one, bulk []float64
	for _, r := range report.Rounds {
		switch r.Load {
		case "one":
			one = append(one, r.MedianMS)
		case "bulk":
			bulk = append(bulk, r.MBPerS)
		}
	}
	if len(one) == 0 || len(bulk) == 0 {
		return f, fmt.Errorf("bench/bareraft printed no rounds: %s", out)
	}
	return bareFigures{oneMillis: median(one), bulkMBPerSecond: median(bulk)}, nil
}

func median[T float64 | time.Duration](list []T) T {
	s := slices.Clone(list)
	slices.Sort(s)
	return s[len(s)/2]
}

// timesText shows a list of durations.
func timesText(list []time.Duration) string {
	var words []string
	for _, d := range list {
		words = append(words, d.Round(10*time.Millisecond).String())
	}
	return strings.Join(words, ", ")
}
