package blockrpc

import (
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/internal/cluster"
)

// loopback starts one node on TCP and a client of it.
func loopback(b *testing.B) (*Client, func()) {
	g := &group{t: b, state: blockstore.NewState()}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	r := &fakeReplica{g: g, id: "a", addr: ln.Addr().String(), ln: ln}
	g.nodes = append(g.nodes, r)
	r.start()
	ses := blockstore.Session{Writer: 1, Token: blockstore.Token{9}}
	g.apply(blockstore.Command{Kind: blockstore.CmdOpenWriter, Token: ses.Token})
	g.lead(0, ses)
	cl, err := cluster.Dial([]string{r.addr}, cluster.Options{})
	if err != nil {
		b.Fatal(err)
	}
	c, err := NewClient(cl, ses, 1, ClientOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return c, func() { c.Close(); cl.Close(); g.stop() }
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWrite streams records, 4 MiB in flight, to a replica that does nothing but decode them.
func BenchmarkWrite(b *testing.B) {
	for name, size := range map[string]int{"508K": 508 << 10, "256K": 256 << 10, "4K": 4096} {
		b.Run(name, func(b *testing.B) {
			c, end := loopback(b)
			defer end()
			rec := record(1, size)
			b.SetBytes(int64(len(rec)))
			slots := make(chan struct{}, max(1, 4<<20/len(rec)))
			var wg sync.WaitGroup
			start := cpu()
			b.ResetTimer()
			for range b.N {
				slots <- struct{}{}
				wg.Add(1)
				c.Submit(rec, func(_ uint64, err error) {
					if err != nil {
						b.Error(err)
					}
					<-slots
					wg.Done()
				})
			}
			wg.Wait()
			b.ReportMetric((cpu()-start).Seconds()/float64(b.N)/float64(len(rec))*1e9, "cpu-s/GB")
		})
	}
}

// BenchmarkWriteLatency is submit to done of one 4 KiB record at a time.
func BenchmarkWriteLatency(b *testing.B) {
	c, end := loopback(b)
	defer end()
	rec := record(1, 4096)
	done := make(chan error, 1)
	for range b.N {
		c.Submit(rec, func(_ uint64, err error) { done <- err })
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead reads spans, 4 at a time.
func BenchmarkRead(b *testing.B) {
	for name, blocks := range map[string]uint64{"1M": 256, "4K": 1} {
		b.Run(name, func(b *testing.B) {
			c, end := loopback(b)
			defer end()
			b.SetBytes(int64(blocks * 4096))
			b.SetParallelism(2)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, err := c.Read(b.Context(), []blockstore.ReadSpan{{VDisk: 1, Count: blocks}}, 1); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
