package blockrpc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/rpcerr"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

func (r *fakeReplica) readCount() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reads
}

// mustRead reads blocks 5..9 and checks them.
func mustRead(t *testing.T, c *Client, minIndex uint64) time.Duration {
	t.Helper()
	start := time.Now()
	res, index, err := c.Read(t.Context(), []blockstore.ReadSpan{{VDisk: 3, Block: 5, Count: 5}, {VDisk: 4, Block: 99, Count: 1}}, minIndex)
	if err != nil || index < minIndex || len(res) != 2 || len(res[0].Data) != 5*wal.BlockSize || len(res[1].Data) != wal.BlockSize {
		t.Fatalf("%d results at %d: %v", len(res), index, err)
	}
	for i := range 5 {
		if res[0].Data[i*wal.BlockSize] != byte(5+i) || (res[0].Present[0]>>i&1 == 1) != ((5+i)%3 == 0) {
			t.Fatalf("block %d is wrong", 5+i)
		}
	}
	return time.Since(start)
}

// nearestFirst learns the latencies: node a is the nearest.
func nearestFirst(t *testing.T, g *group, c *Client) {
	t.Helper()
	if err := c.cluster.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if near, ok := c.cluster.Nearest(); !ok || near.Address != "a:1" {
		t.Fatalf("nearest is %v", near.Address)
	}
}

func TestReadFromNearestThenLeaderWhereItLags(t *testing.T) {
	withClient(t, 3, 1, func(t *testing.T, g *group, c *Client) {
		nearestFirst(t, g, c)
		c.SetEpoch(g.lead(1, c.session)) // b leads, a is nearest
		mustRead(t, c, 1)
		if g.nodes[0].readCount() != 1 || g.nodes[1].readCount() != 0 {
			t.Fatal("the nearest did not answer")
		}
		g.nodes[0].set(func(r *fakeReplica) { r.lag = 2 })
		if d := mustRead(t, c, g.nodes[1].applied()); d > 30*time.Millisecond {
			t.Fatalf("it took %v to go to the leader", d)
		}
		if g.nodes[1].readCount() != 1 {
			t.Fatal("the leader did not answer")
		}
		before := g.nodes[0].readCount()
		if d := mustRead(t, c, g.nodes[1].applied()); d > time.Millisecond || g.nodes[0].readCount() != before {
			t.Fatalf("the lagging replica was asked again at once (%v)", d)
		}
		mustRead(t, c, 1) // an index that it has
		if g.nodes[0].readCount() != before+1 {
			t.Fatal("the nearest was passed over for an index that it has")
		}
	})
}

func TestDeadNearestCostsLittle(t *testing.T) {
	withClient(t, 3, 1, func(t *testing.T, g *group, c *Client) {
		nearestFirst(t, g, c)
		c.SetEpoch(g.lead(1, c.session))
		mustRead(t, c, 1)
		// It hangs with its connection up; then it is gone.
		g.nodes[0].set(func(r *fakeReplica) { r.hang = make(chan struct{}) })
		if d := mustRead(t, c, 1); d > 60*time.Millisecond {
			t.Fatalf("a hanging nearest cost %v", d)
		}
		if d := mustRead(t, c, 1); d > time.Millisecond {
			t.Fatalf("a hanging nearest cost %v again", d)
		}
		g.nodes[0].set(func(r *fakeReplica) { r.dead = true })
		go g.nodes[0].srv.Stop()
		synctest.Wait()
		total := time.Duration(0)
		for range 100 {
			total += mustRead(t, c, 1)
			time.Sleep(100 * time.Millisecond)
		}
		if total > 200*time.Millisecond {
			t.Fatalf("100 reads beside a dead nearest took %v", total)
		}
	})
}

func TestReadErrors(t *testing.T) {
	withClient(t, 3, 1, func(t *testing.T, g *group, c *Client) {
		g.nodes[0].set(func(r *fakeReplica) { r.readError = errors.Of(errors.KindCorrupt) })
		mustRead(t, c, 1) // another replica has a good copy
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := c.Read(ctx, []blockstore.ReadSpan{{VDisk: 1, Count: 1}}, 1<<40)
		if !errors.Is(err, errors.KindTimeout) || time.Since(start) > 5*time.Second {
			t.Fatalf("an index that nobody has: %v after %v", err, time.Since(start))
		}
		for _, sp := range [][]blockstore.ReadSpan{nil, {{VDisk: 1}}, {{VDisk: 1, Block: 1<<64 - 1, Count: 2}}} {
			if _, _, err := c.Read(t.Context(), sp, 0); !errors.Is(err, errors.KindInvalid) {
				t.Fatalf("%v: %v", sp, err)
			}
		}
	})
}

func TestReadSplitsAndPresence(t *testing.T) {
	withClient(t, 1, 1, func(t *testing.T, g *group, c *Client) {
		const n = 2*blockstore.ReadBlocksMax + 77
		res, index, err := c.Read(t.Context(), []blockstore.ReadSpan{{VDisk: 1, Block: 10, Count: n}, {VDisk: 1, Block: 3, Count: 2}}, 1)
		if err != nil || index == 0 || len(res) != 2 || len(res[0].Data) != n*wal.BlockSize || g.nodes[0].readCount() != 4 {
			t.Fatalf("%v at %d after %d reads", err, index, g.nodes[0].readCount())
		}
		for i := range n {
			if res[0].Data[i*wal.BlockSize+1] != byte(10+i) || (res[0].Present[i/8]>>(i%8)&1 == 1) != ((10+i)%3 == 0) {
				t.Fatalf("block %d is wrong", 10+i)
			}
		}
		p, _, err := c.Presence(t.Context(), blockstore.ReadSpan{VDisk: 1, Count: 1 << 20}, 1)
		if err != nil || len(p) != 1<<17 {
			t.Fatalf("%d %v", len(p), err)
		}
		if next, err := c.SkipAbsent(t.Context(), 1, 1001, 1); err != nil || next != 2000 {
			t.Fatalf("%d %v", next, err)
		}
		if _, _, err := c.Presence(t.Context(), blockstore.ReadSpan{VDisk: 1, Count: 1<<20 + 1}, 1); !errors.Is(err, errors.KindInvalid) {
			t.Fatal(err)
		}
	})
}

// TestFollowerTakenForLeader: who asks a follower to wait is told who leads.
func TestFollowerTakenForLeader(t *testing.T) {
	withClient(t, 2, 1, func(t *testing.T, g *group, c *Client) {
		cc, err := c.cluster.Conn("b:1")
		if err != nil {
			t.Fatal(err)
		}
		req := &blockpb.ReadRequest{Spans: []*blockpb.Span{{Vdisk: 1, Count: 1}}, MinIndex: 1 << 30, WaitMillis: 2000}
		start := time.Now()
		_, err = blockpb.NewBlockStoreClient(cc).Read(t.Context(), req)
		if l, ok := rpcerr.LeaderOf(err); !errors.Is(err, errors.KindNotLeader) || !ok || l.Address != "a:1" || time.Since(start) > 100*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		req.WaitMillis = 0
		if _, err = blockpb.NewBlockStoreClient(cc).Read(t.Context(), req); !errors.Is(err, errors.KindNotReached) {
			t.Fatal(err)
		}
	})
}

func TestCheckRead(t *testing.T) {
	spans := []blockstore.ReadSpan{{VDisk: 1, Count: 2}}
	good := func() *blockpb.ReadResponse {
		return &blockpb.ReadResponse{Index: 7, Data: [][]byte{make([]byte, 2*wal.BlockSize)}, Present: [][]byte{{3}}}
	}
	if err := checkRead(good(), spans, 7); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*blockpb.ReadResponse){
		"older than asked for": func(r *blockpb.ReadResponse) { r.Index = 6 },
		"no data":              func(r *blockpb.ReadResponse) { r.Data = nil },
		"short data":           func(r *blockpb.ReadResponse) { r.Data[0] = r.Data[0][1:] },
		"no bitmap":            func(r *blockpb.ReadResponse) { r.Present[0] = nil },
		"another span":         func(r *blockpb.ReadResponse) { r.Data, r.Present = append(r.Data, nil), append(r.Present, nil) },
	} {
		r := good()
		spoil(r)
		if err := checkRead(r, spans, 7); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
