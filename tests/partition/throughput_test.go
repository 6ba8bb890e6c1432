package partition

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"dfs/tests/harness"
)

const (
	figureRounds = 5
	pieceBytes   = 64 << 20
	missedBytes  = 1 << 30 // what is written while a node that comes back is away
)

// figures measures what is promised of throughput, on nodes with the usual settings. What is compared is measured in turns.
func figures(t *testing.T) {
	t.Helper()
	w := &world{t: t, net: harness.NewNetwork(t, 1), tally: openTally(t)}
	w.c = harness.Start(t, harness.Options{Network: w.net})
	w.c.WaitReady()
	w.mounts = append(w.mounts, w.c.Mount())
	w.nodeGone()
	w.nodeBack()
	w.finish()
}

// written writes a file, fsyncs it and removes it, and tells at which rate (MiB/s).
func (w *world) written(size int64) float64 {
	w.t.Helper()
	w.values.Add(1)
	name := fmt.Sprint("piece-", w.values.Load())
	begun := time.Now()
	harness.WriteRandom(w.t, w.mounts[0].Path(name), name, 1, size)
	must(w.t, os.Remove(w.mounts[0].Path(name)))
	w.mounts[0].Sync()
	return float64(size) / time.Since(begun).Seconds() / (1 << 20)
}

// nodeGone writes with three nodes and with two, one of them dead or cut off.
func (w *world) nodeGone() {
	w.t.Helper()
	w.written(4 * pieceBytes)
	var parts []float64
	for i := range figureRounds {
		before := w.written(4 * pieceBytes)
		gone, how := w.c.Followers()[i%2], "dead"
		if i%2 == 0 {
			gone.Kill()
		} else {
			how = "cut off"
			w.net.Cut([]*harness.Host{gone.Host}, append(w.hostsBut(gone), w.mountHosts()...))
		}
		after := w.written(4 * pieceBytes)
		w.net.Heal()
		w.up()
		w.c.WaitReady()
		w.t.Logf("%.0f MiB/s with three nodes, %.0f MiB/s with one of them %s: %.0f%%", before, after, how, after/before*100)
		parts = append(parts, after/before)
	}
	w.promise("throughput with one node of three gone (% of before)", parts)
}

// nodeBack writes on while a node catches up that has missed much.
func (w *world) nodeBack() {
	w.t.Helper()
	var parts []float64
	for range figureRounds {
		before := w.written(4 * pieceBytes)
		back := w.c.Followers()[0]
		back.Kill()
		w.written(missedBytes)
		back.Start()
		var during []float64
		begun := time.Now()
		for time.Since(begun) < patience {
			during = append(during, w.written(pieceBytes))
			if s := w.c.StatusOf(back); s.Error == "" && s.Details.Ready && !s.Details.CatchUp.Active {
				break
			}
		}
		took := time.Since(begun)
		w.c.WaitReady()
		w.t.Logf("%.0f MiB/s with three nodes, %.0f MiB/s while one of them catches up, for %v: %.0f%%", before, mean(during), took.Round(time.Millisecond), mean(during)/before*100)
		parts = append(parts, mean(during)/before)
	}
	w.promise("throughput while a node catches up (% of before)", parts)
}

// promise holds the median of what was left of throughput to 80%.
func (w *world) promise(what string, parts []float64) {
	w.t.Helper()
	slices.Sort(parts)
	median := parts[len(parts)/2]
	w.t.Logf("%s: %.0f in the middle, from %.0f to %.0f", what, median*100, parts[0]*100, parts[len(parts)-1]*100)
	w.tally.least(what, int64(median*100))
	if median < 0.8 {
		w.t.Errorf("%s: %.0f", what, median*100)
	}
}

// mean is that of rates of pieces of one size.
func mean(rates []float64) float64 {
	var sum float64
	for _, r := range rates {
		sum += 1 / r
	}
	return float64(len(rates)) / sum
}

func (w *world) hostsBut(n *harness.Node) (list []*harness.Host) {
	for _, other := range w.c.Nodes {
		if other != n {
			list = append(list, other.Host)
		}
	}
	return list
}
