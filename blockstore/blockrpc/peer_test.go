package blockrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/rpcerr"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

// fakeNode is what a node serves to others and to the administrator.
type fakeNode struct {
	*fakeReplica
	chunks  []blockstore.ChunkData
	applied uint64
	held    atomic.Bool
	lapse   atomic.Bool // the hold ends by itself
	calls   []string
}

var (
	_ PeerSource = (*fakeNode)(nil)
	_ AdminNode  = (*fakeNode)(nil)
)

func (f *fakeNode) ServeChunks(_ context.Context, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, uint64, error) {
	var out []blockstore.ChunkInfo
	for _, c := range f.chunks {
		if (after == nil || c.VDisk > after.VDisk || (c.VDisk == after.VDisk && c.Chunk > after.Chunk)) && len(out) < max {
			out = append(out, c.ChunkInfo)
		}
	}
	return out, f.applied, nil
}

func (f *fakeNode) ServeChunk(_ context.Context, id blockstore.ChunkID, minApplied uint64) (blockstore.ChunkData, uint64, error) {
	if f.applied < minApplied {
		return blockstore.ChunkData{}, 0, errors.New(errors.KindNotReached, "at %d", f.applied)
	}
	for _, c := range f.chunks {
		if c.ChunkID == id {
			return c, f.applied, nil
		}
	}
	return blockstore.ChunkData{}, f.applied, nil
}

func (f *fakeNode) ServeBlock(_ context.Context, a wal.Addr, _ uint64) (raftstore.PeerBlock, error) {
	switch a.Block {
	case 0:
		return raftstore.PeerBlock{Applied: f.applied}, nil
	case 1:
		return raftstore.PeerBlock{}, errors.Of(errors.KindCorrupt)
	}
	return raftstore.PeerBlock{Data: bytes.Repeat([]byte{7}, wal.BlockSize), Present: true, Applied: f.applied}, nil
}

// ServeSuspect has block 1, which ServeBlock calls damaged, as a suspect; block 3 is damaged otherwise.
func (f *fakeNode) ServeSuspect(ctx context.Context, a wal.Addr, min uint64) (raftstore.PeerBlock, error) {
	switch a.Block {
	case 1:
		return raftstore.PeerBlock{Data: bytes.Repeat([]byte{8}, wal.BlockSize), Present: true, Applied: f.applied}, nil
	case 3:
		return raftstore.PeerBlock{}, errors.Of(errors.KindCorrupt)
	case 5:
		return raftstore.PeerBlock{Copying: true}, nil
	case 4:
		return raftstore.PeerBlock{Data: []byte{8}, Present: true, Applied: f.applied}, nil
	}
	return f.ServeBlock(ctx, a, min)
}

func (f *fakeNode) ServeApplied(context.Context) (uint64, error) { return f.applied, nil }

func (f *fakeNode) ServeUsage(context.Context) (raftstore.PeerUsage, error) {
	return raftstore.PeerUsage{Used: 1, Free: 2, FSID: "fs", LogToCome: 3}, nil
}

func (f *fakeNode) MembersAsked(context.Context) []raftstore.Member {
	return []raftstore.Member{{ID: "a", Address: "a:1", Voter: true, Leader: true, Self: true, Applied: 5, LastContact: time.Unix(1, 0)}, {ID: "b", Address: "b:1"}}
}

func (f *fakeNode) call(s string) error { f.calls = append(f.calls, s); return nil }

func (f *fakeNode) AddNonvoter(_ context.Context, id blockstore.NodeID, addr string) error {
	return f.call("add " + string(id) + " " + addr)
}
func (f *fakeNode) Promote(_ context.Context, id blockstore.NodeID) error {
	return f.call("promote " + string(id))
}
func (f *fakeNode) Remove(_ context.Context, id blockstore.NodeID) error {
	return f.call("remove " + string(id))
}
func (f *fakeNode) TransferLeadership(_ context.Context, to blockstore.NodeID) error {
	return f.call("transfer " + string(to))
}
func (f *fakeNode) Status() raftstore.Status {
	return raftstore.Status{Node: "a", AppliedIndex: f.applied}
}
func (f *fakeNode) Scrub(_ context.Context, progress func(raftstore.ScrubProgress)) (raftstore.ScrubProgress, error) {
	progress(raftstore.ScrubProgress{Chunks: 1})
	return raftstore.ScrubProgress{Chunks: 2, Bad: 1, Repaired: 1}, nil
}
func (f *fakeNode) CatchUp() raftstore.Progress { return raftstore.Progress{Source: "b:1", Bytes: 9} }
func (f *fakeNode) HoldApply(context.Context) (uint64, func(), error) {
	f.held.Store(true)
	return f.applied, func() { f.held.Store(false) }, nil
}
func (f *fakeNode) HoldAt(_ context.Context, index uint64) (func(), error) {
	if index < f.applied {
		return nil, errors.Of(errors.KindStale)
	}
	f.held.Store(true)
	return func() { f.held.Store(false) }, nil
}
func (f *fakeNode) Held() bool { return f.held.Load() && !f.lapse.Load() }

// withNode runs f with a node at a:1 and connections to it.
func withNode(t *testing.T, f func(t *testing.T, n *fakeNode, cl *cluster.Cluster)) {
	withPeer(t, func(n *fakeNode) PeerSource { return n }, f)
}

// withPeer is withNode with another in the node's place for other nodes.
func withPeer(t *testing.T, peer func(n *fakeNode) PeerSource, f func(t *testing.T, n *fakeNode, cl *cluster.Cluster)) {
	synctest.Test(t, func(t *testing.T) {
		g := &group{t: t, state: blockstore.NewState()}
		n := &fakeNode{fakeReplica: &fakeReplica{g: g, id: "a", addr: "a:1", leader: true, thinks: true}, applied: 50}
		g.nodes = []*fakeReplica{n.fakeReplica}
		for i := range uint64(150) {
			c := blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: blockstore.ChunkID{VDisk: i / 50, Chunk: i % 50}, LastIndex: i}}
			c.Present, c.Data = []byte{1, 0}, bytes.Repeat([]byte{byte(i)}, wal.BlockSize)
			n.chunks = append(n.chunks, c)
		}
		ln := bufconn.Listen(1 << 16)
		srv := grpc.NewServer(cluster.ServerOptions(nil)...)
		bs, err := NewServer(ServerOptions{Node: "a", Replica: n, Peer: peer(n), Admin: n})
		if err != nil {
			t.Fatal(err)
		}
		bs.Register(srv)
		go srv.Serve(ln)
		defer srv.Stop()
		cl, err := cluster.Dial([]string{"a:1"}, cluster.Options{Dialer: func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		f(t, n, cl)
	})
}

func TestPeers(t *testing.T) {
	withNode(t, func(t *testing.T, n *fakeNode, cl *cluster.Cluster) {
		p, ctx := NewPeers(cl), t.Context()
		var all []blockstore.ChunkInfo
		var after *blockstore.ChunkID
		for {
			page, applied, err := p.FetchChunks(ctx, "a:1", after, 64)
			if err != nil || applied != 50 || len(page) > 64 {
				t.Fatal(len(page), applied, err)
			}
			if len(page) == 0 {
				break
			}
			all = append(all, page...)
			after = &page[len(page)-1].ChunkID
		}
		if len(all) != len(n.chunks) {
			t.Fatalf("%d chunks listed", len(all))
		}
		for i, info := range all {
			c, _, err := p.FetchChunk(ctx, "a:1", info.ChunkID, 50)
			if err != nil || !reflect.DeepEqual(c, n.chunks[i]) {
				t.Fatalf("chunk %v came as %v: %v", info, c.ChunkInfo, err)
			}
		}
		if _, _, err := p.FetchChunk(ctx, "a:1", all[0].ChunkID, 51); !errors.Is(err, errors.KindNotReached) {
			t.Fatal(err)
		}
		if c, _, err := p.FetchChunk(ctx, "a:1", blockstore.ChunkID{VDisk: 99}, 0); err != nil || len(c.Data) != 0 || c.VDisk != 99 {
			t.Fatal(c, err)
		}
		if b, err := p.FetchBlock(ctx, "a:1", wal.Addr{Block: 2}, 50); err != nil || !b.Present || len(b.Data) != wal.BlockSize || b.Applied != 50 {
			t.Fatal(b, err)
		}
		if b, err := p.FetchBlock(ctx, "a:1", wal.Addr{Block: 0}, 50); err != nil || b.Present || b.Data != nil {
			t.Fatal(b, err)
		}
		if _, err := p.FetchBlock(ctx, "a:1", wal.Addr{Block: 0}, 51); !errors.Is(err, errors.KindNotReached) {
			t.Fatal(err)
		}
		if _, err := p.FetchBlock(ctx, "a:1", wal.Addr{Block: 1}, 0); !errors.Is(err, errors.KindCorrupt) {
			t.Fatal(err)
		}
		if b, err := p.FetchSuspect(ctx, "a:1", wal.Addr{Block: 1}, 50); err != nil || !b.Present || b.Data[0] != 8 || len(b.Data) != wal.BlockSize || b.Applied != 50 {
			t.Fatal(b, err)
		}
		if b, err := p.FetchSuspect(ctx, "a:1", wal.Addr{Block: 0}, 50); err != nil || b.Present || b.Data != nil {
			t.Fatal(b, err)
		}
		if _, err := p.FetchSuspect(ctx, "a:1", wal.Addr{Block: 1}, 51); !errors.Is(err, errors.KindNotReached) {
			t.Fatal(err)
		}
		if b, err := p.FetchSuspect(ctx, "a:1", wal.Addr{Block: 5}, 99); err != nil || !b.Copying || b.Present {
			t.Fatal(b, err)
		}
		for _, block := range []uint64{3, 4} {
			if _, err := p.FetchSuspect(ctx, "a:1", wal.Addr{Block: block}, 0); !errors.Is(err, errors.KindCorrupt) {
				t.Fatal(block, err)
			}
		}
		if a, err := p.AppliedIndex(ctx, "a:1"); err != nil || a != 50 {
			t.Fatal(a, err)
		}
		if u, err := p.Usage(ctx, "a:1"); err != nil || u != (raftstore.PeerUsage{Used: 1, Free: 2, FSID: "fs", LogToCome: 3}) {
			t.Fatal(u, err)
		}
		if _, err := p.AppliedIndex(ctx, "nonsense"); !errors.Is(err, errors.KindInvalid) {
			t.Fatal(err)
		}
	})
}

func TestAdmin(t *testing.T) {
	withNode(t, func(t *testing.T, n *fakeNode, cl *cluster.Cluster) {
		ctx := t.Context()
		cc, _ := cl.Conn("a:1")
		api := blockpb.NewAdminClient(cc)
		st, err := api.Status(ctx, &blockpb.StatusRequest{})
		var status raftstore.Status
		if err != nil || json.Unmarshal(st.Json, &status) != nil || status.AppliedIndex != 50 {
			t.Fatalf("%s %v", st.GetJson(), err)
		}
		m, err := api.Members(ctx, &blockpb.MembersRequest{})
		if err != nil || len(m.Members) != 2 || !m.Members[0].Answered || m.Members[1].Answered {
			t.Fatal(m, err)
		}
		sc, _ := api.Scrub(ctx, &blockpb.ScrubRequest{})
		var last *blockpb.ScrubProgress
		for p, err := sc.Recv(); err == nil; p, err = sc.Recv() {
			last = p
		}
		if !last.GetDone() || last.Chunks != 2 || last.Repaired != 1 {
			t.Fatal(last)
		}
		cu, _ := api.CatchUp(ctx, &blockpb.CatchUpRequest{})
		if p, err := cu.Recv(); err != nil || p.Bytes != 9 || p.Source != "b:1" {
			t.Fatal(p, err)
		}
		changes := func() (errs []error) {
			_, e1 := api.AddNode(ctx, &blockpb.AddNodeRequest{Node: "d", Address: "d:1"})
			_, e2 := api.Promote(ctx, &blockpb.PromoteRequest{Node: "d"})
			_, e3 := api.RemoveNode(ctx, &blockpb.RemoveNodeRequest{Node: "d"})
			_, e4 := api.TransferLeadership(ctx, &blockpb.TransferLeadershipRequest{})
			return []error{e1, e2, e3, e4}
		}
		for _, err := range changes() {
			if err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{"add d d:1", "promote d", "remove d", "transfer "}; !reflect.DeepEqual(n.calls, want) {
			t.Fatalf("%q", n.calls)
		}
		if _, err := api.AddNode(ctx, &blockpb.AddNodeRequest{Address: "d:1"}); !errors.Is(err, errors.KindInvalid) {
			t.Fatal(err)
		}
		other := &fakeReplica{g: n.g, id: "b", addr: "b:1", leader: true, thinks: true}
		n.g.nodes = append(n.g.nodes, other)
		n.set(func(r *fakeReplica) { r.leader, r.thinks = false, false })
		for _, err := range changes() {
			if l, ok := rpcerr.LeaderOf(err); !errors.Is(err, errors.KindNotLeader) || !ok || l.Address != "b:1" {
				t.Fatalf("%v", err)
			}
		}
		if len(n.calls) != 4 {
			t.Fatal("a node that does not lead changed the membership")
		}
	})
}

func TestChunkHashes(t *testing.T) {
	withNode(t, func(t *testing.T, n *fakeNode, cl *cluster.Cluster) {
		cc, _ := cl.Conn("a:1")
		api := blockpb.NewAdminClient(cc)
		for _, req := range []*blockpb.ChunkHashesRequest{{}, {Hold: true}, {Hold: true, Index: 50}} {
			st, err := api.ChunkHashes(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			i := 0
			for {
				m, err := st.Recv()
				if err == io.EOF {
					break
				}
				if err != nil || (len(m.Chunks) > 0 && m.Index != 50) {
					t.Fatal(m.GetIndex(), err)
				}
				for _, c := range m.Chunks {
					if !bytes.Equal(c.Hash, ChunkHash(&n.chunks[i])) || c.Vdisk != n.chunks[i].VDisk || c.LastIndex != uint64(i) {
						t.Fatalf("chunk %d is told wrong", i)
					}
					i++
				}
			}
			synctest.Wait()
			if i != len(n.chunks) || n.Held() {
				t.Fatalf("%d chunks told, held afterwards: %v", i, n.Held())
			}
		}
		st, _ := api.ChunkHashes(t.Context(), &blockpb.ChunkHashesRequest{Hold: true, Index: 49})
		if _, err := st.Recv(); !errors.Is(err, errors.KindStale) {
			t.Fatal(err)
		}
		n.lapse.Store(true)
		st, _ = api.ChunkHashes(t.Context(), &blockpb.ChunkHashesRequest{Hold: true})
		if _, err := st.Recv(); !errors.Is(err, errors.KindTimeout) {
			t.Fatalf("hashes of a replica that is no longer held: %v", err)
		}
	})
}

func TestChunkHashIsCanonical(t *testing.T) {
	c := blockstore.ChunkData{Present: []byte{3, 0, 0}, Data: make([]byte, 8192)}
	short := c
	short.Present = []byte{3}
	if !bytes.Equal(ChunkHash(&c), ChunkHash(&short)) {
		t.Error("trailing zeros of the bitmap count")
	}
	moved := c
	moved.Present = []byte{5}
	if bytes.Equal(ChunkHash(&c), ChunkHash(&moved)) {
		t.Error("where blocks are does not count")
	}
	if ChunkHash(&blockstore.ChunkData{Present: make([]byte, 32)}) != nil {
		t.Error("an empty chunk has a hash")
	}
}

// TestGarbageOnThePort: connections that speak no HTTP/2, or break off in the midst of a message.
func TestGarbageOnThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, ses := newGroup(t, 1)
		defer g.stop()
		for _, junk := range [][]byte{{}, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 4096), append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), bytes.Repeat([]byte{0}, 9000)...)} {
			conn, err := g.dial(t.Context(), "a:1")
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(time.Second))
			conn.Write(junk)
			conn.Close()
		}
		c, end := g.client(ses, 1, ClientOptions{})
		defer end()
		// A message that is no protobuf.
		cc, _, err := c.cluster.Leader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/dfs.block.v1.BlockStore/Write")
		if err != nil {
			t.Fatal(err)
		}
		if err := st.SendMsg(&blockpb.StatusResponse{Json: []byte("no write request")}); err != nil { // field 1 is a number there
			t.Fatal(err)
		}
		if err := st.RecvMsg(&blockpb.WriteResponse{}); err == nil || err == io.EOF {
			t.Fatal("garbage was taken")
		}
		var a acks
		a.submit(c, 1)
		a.wg.Wait()
		a.check(t, g, 1)
	})
}
