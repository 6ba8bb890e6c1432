package blockrpc

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
)

// Membership changes who belongs to the group; only the leader can.
type Membership interface {
	MembersAsked(ctx context.Context) []raftstore.Member
	AddNonvoter(ctx context.Context, id blockstore.NodeID, addr string) error
	Promote(ctx context.Context, id blockstore.NodeID) error
	Remove(ctx context.Context, id blockstore.NodeID) error
	TransferLeadership(ctx context.Context, to blockstore.NodeID) error
}

// Maintenance looks after one node.
type Maintenance interface {
	Status() raftstore.Status
	Scrub(ctx context.Context, progress func(raftstore.ScrubProgress)) (raftstore.ScrubProgress, error)
	CatchUp() raftstore.Progress
	HoldApply(ctx context.Context) (index uint64, release func(), err error)
	HoldAt(ctx context.Context, index uint64) (release func(), err error)
	Held() bool
}

// AdminNode is what the service Admin asks of a node.
type AdminNode interface {
	Membership
	Maintenance
}

var _ AdminNode = (*raftstore.Node)(nil)

const (
	catchUpEvery  = 500 * time.Millisecond
	scrubEvery    = 200 * time.Millisecond
	hashPage      = 64 // chunks of one ChunkHashes message
	membersWait   = time.Second
	memberNameMax = 64
)

// adminServer is the service Admin.
type adminServer struct {
	blockpb.UnimplementedAdminServer
	s    *Server
	node AdminNode
}

var _ blockpb.AdminServer = (*adminServer)(nil)

// Status tells everything of this node.
func (a *adminServer) Status(context.Context, *blockpb.StatusRequest) (*blockpb.StatusResponse, error) {
	b, err := json.Marshal(a.node.Status())
	if err != nil {
		return nil, errors.New(errors.KindIO, "encoding the status of node %s: %w", a.s.opts.Node, err)
	}
	return &blockpb.StatusResponse{Json: b}, nil
}

// Members lists the members with what each has applied.
func (a *adminServer) Members(ctx context.Context, _ *blockpb.MembersRequest) (*blockpb.MembersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, membersWait)
	defer cancel()
	out := &blockpb.MembersResponse{}
	for _, m := range a.node.MembersAsked(ctx) {
		out.Members = append(out.Members, &blockpb.AdminMember{Node: string(m.ID), Address: m.Address, Voter: m.Voter,
			Leader: m.Leader, Self: m.Self, Applied: m.Applied, Answered: !m.LastContact.IsZero()})
	}
	return out, nil
}

// change runs one change of membership, on the leader.
func (a *adminServer) change(what, node string, mayBeEmpty bool, f func(id blockstore.NodeID) error) error {
	if (node == "" && !mayBeEmpty) || len(node) > memberNameMax {
		return errors.New(errors.KindInvalid, "%s: node id %q is missing or too long", what, node)
	}
	if err := a.s.mustLead(); err != nil {
		return err
	}
	err := a.s.withLeader(f(blockstore.NodeID(node)))
	a.s.opts.Log.Info("membership", "change", what, "node", node, "err", err)
	return err
}

// AddNode adds a non-voter.
func (a *adminServer) AddNode(ctx context.Context, in *blockpb.AddNodeRequest) (*blockpb.AddNodeResponse, error) {
	return &blockpb.AddNodeResponse{}, a.change("add", in.Node, false, func(id blockstore.NodeID) error { return a.node.AddNonvoter(ctx, id, in.Address) })
}

// Promote makes a non-voter a voter.
func (a *adminServer) Promote(ctx context.Context, in *blockpb.PromoteRequest) (*blockpb.PromoteResponse, error) {
	return &blockpb.PromoteResponse{}, a.change("promote", in.Node, false, func(id blockstore.NodeID) error { return a.node.Promote(ctx, id) })
}

// RemoveNode takes a member out.
func (a *adminServer) RemoveNode(ctx context.Context, in *blockpb.RemoveNodeRequest) (*blockpb.RemoveNodeResponse, error) {
	return &blockpb.RemoveNodeResponse{}, a.change("remove", in.Node, false, func(id blockstore.NodeID) error { return a.node.Remove(ctx, id) })
}

// TransferLeadership hands leadership over.
func (a *adminServer) TransferLeadership(ctx context.Context, in *blockpb.TransferLeadershipRequest) (*blockpb.TransferLeadershipResponse, error) {
	return &blockpb.TransferLeadershipResponse{}, a.change("transfer leadership", in.Node, true, func(id blockstore.NodeID) error { return a.node.TransferLeadership(ctx, id) })
}

// Scrub checks this node's blocks.
func (a *adminServer) Scrub(_ *blockpb.ScrubRequest, stream grpc.ServerStreamingServer[blockpb.ScrubProgress]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	var failed error
	var told time.Time
	sum, err := a.node.Scrub(ctx, func(p raftstore.ScrubProgress) {
		if failed != nil || time.Since(told) < scrubEvery {
			return
		}
		told = time.Now()
		if failed = stream.Send(scrubMessage(p, false)); failed != nil {
			cancel()
		}
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	return stream.Send(scrubMessage(sum, true))
}

func scrubMessage(p raftstore.ScrubProgress, done bool) *blockpb.ScrubProgress {
	return &blockpb.ScrubProgress{Chunks: p.Chunks, Bad: p.Bad, Repaired: p.Repaired, Failed: p.Failed, Done: done}
}

// CatchUp tells of this node's catch-up until there is none under way.
func (a *adminServer) CatchUp(_ *blockpb.CatchUpRequest, stream grpc.ServerStreamingServer[blockpb.CatchUpProgress]) error {
	tick := time.NewTicker(catchUpEvery)
	defer tick.Stop()
	for {
		p := a.node.CatchUp()
		if err := stream.Send(&blockpb.CatchUpProgress{Active: p.Active, Source: p.Source, Manifest: p.Manifest, ChunksListed: p.ChunksListed,
			ChunksDone: p.ChunksDone, ChunksPulled: p.ChunksPulled, Bytes: p.Bytes, LastError: p.LastError}); err != nil || !p.Active {
			return err
		}
		select {
		case <-tick.C:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// ChunkHashes walks this node's chunks.
func (a *adminServer) ChunkHashes(in *blockpb.ChunkHashesRequest, stream grpc.ServerStreamingServer[blockpb.ChunkHashesResponse]) error {
	ctx := stream.Context()
	src := a.s.opts.Peer
	if src == nil {
		return errors.New(errors.KindNotSupported, "node %s does not serve its chunks", a.s.opts.Node)
	}
	held, release, err := a.hold(ctx, in)
	if err != nil {
		return err
	}
	defer release()
	var after *blockstore.ChunkID
	for {
		list, _, err := src.ServeChunks(ctx, after, hashPage)
		if err != nil {
			return err
		}
		out := &blockpb.ChunkHashesResponse{Index: held}
		for _, info := range list {
			c, applied, err := src.ServeChunk(ctx, info.ChunkID, 0)
			if err != nil {
				return err
			}
			if !in.Hold {
				out.Index = applied
			}
			if h := ChunkHash(&c); h != nil {
				out.Chunks = append(out.Chunks, &blockpb.ChunkHash{Vdisk: info.VDisk, Chunk: info.Chunk, Hash: h, LastIndex: c.LastIndex})
			}
		}
		if in.Hold && !a.node.Held() {
			return errors.New(errors.KindTimeout, "node %s could not be held at index %d long enough; compare without holding", a.s.opts.Node, held)
		}
		if err := stream.Send(out); err != nil || len(list) == 0 {
			return err
		}
		after = &list[len(list)-1].ChunkID
	}
}

// hold holds the node's apply if asked to.
func (a *adminServer) hold(ctx context.Context, in *blockpb.ChunkHashesRequest) (index uint64, release func(), err error) {
	switch {
	case !in.Hold:
		return 0, func() {}, nil
	case in.Index == 0:
		return a.node.HoldApply(ctx)
	}
	release, err = a.node.HoldAt(ctx, in.Index)
	return in.Index, release, err
}

// ChunkHash is the hash by which replicas compare a chunk's content: SHA-256 of
// its presence bitmap, without zero bytes at the end, and its present blocks.
// It is nil for a chunk without a present block.
func ChunkHash(c *blockstore.ChunkData) []byte {
	present := c.Present
	for len(present) > 0 && present[len(present)-1] == 0 {
		present = present[:len(present)-1]
	}
	if len(present) == 0 {
		return nil
	}
	h := sha256.New()
	h.Write([]byte{byte(len(present))})
	h.Write(present)
	h.Write(c.Data)
	return h.Sum(nil)
}
