package raftstore

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/blockstore"
)

// Three nodes on one disk and in one process, real devices and logs.
func benchmarkWrites(b *testing.B, blocks uint64, inFlight int) {
	c := newCluster(b, "a", "b", "c")
	c.limit = Limits{ScrubPause: -1}
	c.startAll()
	w := c.writer('x')
	l := c.leader()
	rec := fullRecord(7, 0, blocks, 'q', int64(blocks))
	slots := make(chan struct{}, inFlight)
	b.SetBytes(int64(blocks) * 4096)
	b.ResetTimer()
	for i := range b.N {
		slots <- struct{}{}
		r := rec
		if i == 1 {
			rec = fullRecord(7, 0, blocks, 'q', 0)
			r = rec
		}
		l.ProposeAsync(context.Background(), w.command(uint64(i)+1, r), func(res blockstore.Result, err error) {
			if err != nil || res.Err != nil {
				b.Error(err, res.Err)
			}
			<-slots
		})
	}
	for range inFlight {
		slots <- struct{}{}
	}
}

func BenchmarkWrite4KiB(b *testing.B)      { benchmarkWrites(b, 1, 1) }
func BenchmarkWrite4KiBx16(b *testing.B)   { benchmarkWrites(b, 1, 16) }
func BenchmarkWrite480KiBx16(b *testing.B) { benchmarkWrites(b, 120, 16) }

// What an idle group of three costs, in percent of one core.
func BenchmarkIdle(b *testing.B) {
	c := newCluster(b, "a", "b", "c")
	c.limit = Limits{ScrubPause: -1}
	c.startAll()
	c.leader()
	time.Sleep(2 * time.Second)
	begin, cpu := time.Now(), cpuTime(b)
	for b.Loop() {
		time.Sleep(3 * time.Second)
	}
	b.ReportMetric(100*float64(cpuTime(b)-cpu)/float64(time.Since(begin)), "%core")
}

func cpuTime(b *testing.B) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
