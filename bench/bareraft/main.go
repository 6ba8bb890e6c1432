// Command bareraft is the yardstick of the Raft log: three processes on one
// machine, each a bare hashicorp/raft node (null state machine, TCP on
// 127.0.0.1, the configuration of a dfs node) over the log named by --log, and three loads:
//
//	one      4 KiB entries, one at a time: median and 99th percentile
//	sixteen  4 KiB entries, 16 in flight: entries per second
//	bulk     512 KiB entries, 16 in flight: MB/s, and CPU seconds of a node per GB
//
// Every load runs --rounds times for --seconds and the best round counts, because what disturbs a
// measurement only makes it worse. Before, entries are written (--warm MiB) until segments are recycled.
// All three nodes are on one disk, so each byte is written three times to it.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

type config struct {
	log     string
	dir     string
	seconds float64
	rounds  int
	warmMiB int
	json    bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		exit(childMain(os.Args[2:]))
	}
	var c config
	flag.StringVar(&c.log, "log", "seglog", "log store: seglog, boltdb, raft-wal or inmem")
	flag.StringVar(&c.dir, "dir", "", "data directory; a temporary one below it is made and removed (default: the system's)")
	flag.Float64Var(&c.seconds, "seconds", 2, "seconds of each round of each load")
	flag.IntVar(&c.rounds, "rounds", 3, "rounds of each load; the best counts")
	flag.IntVar(&c.warmMiB, "warm", 512, "MiB written before measuring")
	flag.BoolVar(&c.json, "json", false, "print JSON")
	flag.Parse()
	if flag.NArg() > 0 || c.seconds <= 0 || c.seconds > 600 || c.rounds < 1 || c.rounds > 100 || c.warmMiB < 0 {
		fmt.Fprintln(os.Stderr, "bareraft: bad arguments; see --help")
		os.Exit(2)
	}
	exit(run(c))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bareraft:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// report is what a run found. Rates are the best of the rounds.
type report struct {
	Log              string  `json:"log"`
	OneMedianMillis  float64 `json:"one_median_ms"`
	OneP99Millis     float64 `json:"one_p99_ms"`
	SixteenPerSecond float64 `json:"sixteen_per_s"`
	BulkMBPerSecond  float64 `json:"bulk_mb_per_s"`
	BulkCPUPerGB     float64 `json:"bulk_node_cpu_s_per_gb"`
	LeaderCPUSeconds float64 `json:"leader_cpu_s"` // of the whole run
	AllCPUSeconds    float64 `json:"all_nodes_cpu_s"`
	MaxRSSMiB        float64 `json:"node_max_rss_mib"`
	Mode             string  `json:"mode,omitempty"`
	Rounds           []round `json:"rounds"`
}

// round is one round of one load.
type round struct {
	Load       string  `json:"load"`
	Entries    int     `json:"entries"`
	Seconds    float64 `json:"seconds"`
	MedianMs   float64 `json:"median_ms"`
	P99Ms      float64 `json:"p99_ms"`
	PerSecond  float64 `json:"per_s"`
	MBPerS     float64 `json:"mb_per_s"`
	CPUSeconds float64 `json:"all_nodes_cpu_s"`
}

func run(c config) error {
	dir, err := os.MkdirTemp(c.dir, "bareraft-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	g, err := startGroup(c.log, dir)
	if err != nil {
		return err
	}
	defer g.stop()
	defer onSignal(func() { g.kill(); _ = os.RemoveAll(dir) })()
	rep := report{Log: c.log}
	if c.warmMiB > 0 {
		if _, err := g.load(request{Load: "bulk", Seconds: 30, BytesMax: int64(c.warmMiB) << 20}); err != nil {
			return err
		}
	}
	for range c.rounds {
		for _, name := range []string{"one", "sixteen", "bulk"} {
			r, err := g.load(request{Load: name, Seconds: c.seconds})
			if err != nil {
				return err
			}
			rep.add(r)
		}
	}
	if err := g.usage(&rep); err != nil {
		return err
	}
	return rep.print(os.Stdout, c.json)
}

// onSignal runs clean and exits if the program is told to end, until the function it returns is called.
func onSignal(clean func()) (cancel func()) {
	sig, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-done:
		case <-sig:
			clean()
			os.Exit(1)
		}
	}()
	return func() { signal.Stop(sig); close(done) }
}

func (rep *report) add(r round) {
	rep.Rounds = append(rep.Rounds, r)
	switch r.Load {
	case "one":
		if rep.OneMedianMillis == 0 || r.MedianMs < rep.OneMedianMillis {
			rep.OneMedianMillis, rep.OneP99Millis = r.MedianMs, r.P99Ms
		}
	case "sixteen":
		rep.SixteenPerSecond = max(rep.SixteenPerSecond, r.PerSecond)
	case "bulk":
		if r.MBPerS > rep.BulkMBPerSecond {
			rep.BulkMBPerSecond = r.MBPerS
			rep.BulkCPUPerGB = r.CPUSeconds / 3 / (r.MBPerS * r.Seconds / 1000)
		}
	}
}

func (rep *report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(rep)
	}
	for _, r := range rep.Rounds {
		_, _ = fmt.Fprintf(w, "  %-8s %6d entries in %5.2f s: median %6.2f ms  p99 %7.2f ms  %7.0f/s  %6.1f MB/s  cpu %5.2f s\n",
			r.Load, r.Entries, r.Seconds, r.MedianMs, r.P99Ms, r.PerSecond, r.MBPerS, r.CPUSeconds)
	}
	_, err := fmt.Fprintf(w, `log %s %s
4 KiB, one at a time           median %.2f ms, p99 %.2f ms
4 KiB, 16 at a time            %.0f/s
512 KiB, 16 in flight          %.0f MB/s, %.2f CPU s of a node per GB
CPU of the whole run           leader %.1f s, all nodes %.1f s
greatest memory of a node      %.0f MiB
`, rep.Log, rep.Mode, rep.OneMedianMillis, rep.OneP99Millis, rep.SixteenPerSecond, rep.BulkMBPerSecond, rep.BulkCPUPerGB,
		rep.LeaderCPUSeconds, rep.AllCPUSeconds, rep.MaxRSSMiB)
	return err
}

// startTimeout bounds what is waited for the group to start and elect a leader.
const startTimeout = 30 * time.Second
