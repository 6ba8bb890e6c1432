package blockrpc

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// oddPeer is a node whose disk fails.
type oddPeer struct{ PeerSource }

func odd() error { return errors.New(errors.KindIO, "test: the disk fails") }

func (oddPeer) ServeChunks(context.Context, *blockstore.ChunkID, int) ([]blockstore.ChunkInfo, uint64, error) {
	return nil, 0, odd()
}

func (oddPeer) ServeChunk(context.Context, blockstore.ChunkID, uint64) (blockstore.ChunkData, uint64, error) {
	return blockstore.ChunkData{}, 0, odd()
}

func (oddPeer) ServeBlock(context.Context, wal.Addr, uint64) (raftstore.PeerBlock, error) {
	return raftstore.PeerBlock{}, odd()
}

func (oddPeer) ServeSuspect(context.Context, wal.Addr, uint64) (raftstore.PeerBlock, error) {
	return raftstore.PeerBlock{}, odd()
}

func (oddPeer) ServeApplied(context.Context) (uint64, error) { return 0, odd() }

func (oddPeer) ServeUsage(context.Context) (raftstore.PeerUsage, error) {
	return raftstore.PeerUsage{}, odd()
}

// TestErrorsOfPeers: what a node's disk says, what cannot be asked and who is not there come over the wire with their kinds.
func TestErrorsOfPeers(t *testing.T) {
	withPeer(t, func(n *fakeNode) PeerSource { return oddPeer{n} }, func(t *testing.T, n *fakeNode, cl *cluster.Cluster) {
		p, ctx := NewPeers(cl), t.Context()
		calls := map[string]func(addr string) error{
			"chunks":  func(a string) error { return third(p.FetchChunks(ctx, a, nil, 5)) },
			"chunk":   func(a string) error { return third(p.FetchChunk(ctx, a, blockstore.ChunkID{VDisk: 1}, 0)) },
			"block":   func(a string) error { return second(p.FetchBlock(ctx, a, wal.Addr{}, 0)) },
			"suspect": func(a string) error { return second(p.FetchSuspect(ctx, a, wal.Addr{}, 0)) },
			"applied": func(a string) error { return second(p.AppliedIndex(ctx, a)) },
			"usage":   func(a string) error { return second(p.Usage(ctx, a)) },
		}
		for what, call := range calls {
			if err := call("a:1"); !errors.Is(err, errors.KindIO) {
				t.Errorf("%s of a node whose disk fails: %v", what, err)
			}
			if err := call("\x00"); err == nil {
				t.Errorf("%s of an address that cannot be: no error", what)
			}
		}
		if err := third(p.FetchChunks(ctx, "a:1", nil, 0)); !errors.Is(err, errors.KindInvalid) {
			t.Errorf("a list of nothing: %v", err)
		}
		cc, err := cl.Conn("a:1")
		if err != nil {
			t.Fatal(err)
		}
		if err := second(blockpb.NewPeerClient(cc).FetchChunks(ctx, &blockpb.FetchChunksRequest{})); !errors.Is(err, errors.KindInvalid) {
			t.Errorf("a list of nothing, asked by another program: %v", err)
		}
		bs := blockpb.NewBlockStoreClient(cc)
		n.set(func(r *fakeReplica) { r.readError = odd() })
		span := func(n uint64) *blockpb.Span { return &blockpb.Span{Vdisk: 1, Count: n} }
		for what, c := range map[string]struct {
			err  error
			kind errors.Kind
		}{
			"a read of a failing disk":      {second(bs.Read(ctx, &blockpb.ReadRequest{Spans: []*blockpb.Span{span(1)}})), errors.KindIO},
			"a read without spans":          {second(bs.Read(ctx, &blockpb.ReadRequest{})), errors.KindInvalid},
			"a read of a span of nothing":   {second(bs.Read(ctx, &blockpb.ReadRequest{Spans: []*blockpb.Span{span(0)}})), errors.KindInvalid},
			"a read of two spans too great": {second(bs.Read(ctx, &blockpb.ReadRequest{Spans: []*blockpb.Span{span(1024), span(1)}})), errors.KindInvalid},
			"a read of the future":          {second(bs.Read(ctx, &blockpb.ReadRequest{Spans: []*blockpb.Span{span(1)}, MinIndex: 1 << 40, WaitMillis: 5})), errors.KindNotReached},
			"presence of nothing":           {second(bs.Presence(ctx, &blockpb.PresenceRequest{})), errors.KindInvalid},
			"presence in the future":        {second(bs.Presence(ctx, &blockpb.PresenceRequest{Span: span(1), MinIndex: 1 << 40, WaitMillis: 5})), errors.KindNotReached},
			"skipping in the future":        {second(bs.SkipAbsent(ctx, &blockpb.SkipAbsentRequest{MinIndex: 1 << 40, WaitMillis: 5})), errors.KindNotReached},
		} {
			if !errors.Is(c.err, c.kind) {
				t.Errorf("%s: %v", what, c.err)
			}
		}
	})
}

// TestWhatCannotBe: options and sessions.
func TestWhatCannotBe(t *testing.T) {
	for what, err := range map[string]error{
		"a server without a node":    second(NewServer(ServerOptions{})),
		"a negative time":            second(NewClient(nil, blockstore.Session{Writer: 1}, 0, ClientOptions{StallTimeout: -1})),
		"hedge times turned around":  second(NewClient(nil, blockstore.Session{Writer: 1}, 0, ClientOptions{HedgeMin: time.Second, HedgeMax: time.Millisecond})),
		"a session without a writer": second(NewClient(nil, blockstore.Session{}, 0, ClientOptions{})),
	} {
		if !errors.Is(err, errors.KindInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCallsThatEnd: a call whose caller has gone, and one of a client that is closed, end and say why, with no node that answers.
func TestCallsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ses := newGroup(t, 1)
		defer g.stop()
		c, end := g.client(ses, 1, ClientOptions{})
		g.nodes[0].set(func(r *fakeReplica) { r.leader, r.thinks, r.readError = false, false, errors.Of(errors.KindNotReached) })
		span := blockstore.ReadSpan{VDisk: 1, Count: 1}
		calls := map[string]func(ctx context.Context) error{
			"read":     func(ctx context.Context) error { return third(c.Read(ctx, []blockstore.ReadSpan{span}, 1<<40)) },
			"presence": func(ctx context.Context) error { return third(c.Presence(ctx, span, 1<<40)) },
			"skip":     func(ctx context.Context) error { return second(c.SkipAbsent(ctx, 1, 0, 1<<40)) },
			"inodes":   func(ctx context.Context) error { return second(c.TakeInodes(ctx, 1)) },
			"reserve":  func(ctx context.Context) error { return c.Reserve(ctx, 1) },
			"space":    func(ctx context.Context) error { return second(c.Space(ctx)) },
			"retired":  func(ctx context.Context) error { return second(c.Retired(ctx)) },
		}
		for what, call := range calls {
			soon, cancel := context.WithTimeout(context.Background(), time.Second)
			if err := call(soon); err == nil {
				t.Errorf("%s: no error though nobody can answer", what)
			}
			cancel()
			gone, leave := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, leave)
			if err := call(gone); !errors.Is(err, errors.KindInterrupted) && !errors.Is(err, errors.KindUnavailable) {
				t.Errorf("%s, whose caller has gone: %v", what, err)
			}
			leave()
		}
		end()
		for what, call := range calls {
			if err := call(context.Background()); !errors.Is(err, errors.KindUnavailable) {
				t.Errorf("%s of a client that is closed: %v", what, err)
			}
		}
	})
}
