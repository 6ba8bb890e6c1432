package blockrpc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/rpcerr"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

const (
	// presenceBlocksMax bounds one Presence call (blockstore.Reader).
	presenceBlocksMax = 1 << 20
	// readWaitMax bounds what a client may ask a read to wait for its index.
	readWaitMax = 5 * time.Second
	// followerWait is how long a read that does not want to wait waits: not at
	// all, but for an apply that is under way.
	followerWait = 2 * time.Millisecond
	// writeSlots bounds the records of one stream that are proposed and not answered.
	writeSlots = 1024
)

// ServerOptions says what a Server serves.
type ServerOptions struct {
	Node    blockstore.NodeID
	Replica blockstore.Replica
	// Peer and Admin may be nil: those services are then not offered.
	Peer  PeerSource
	Admin AdminNode
	Log   *slog.Logger
}

// Validate refuses what is incomplete with KindInvalid.
func (o *ServerOptions) Validate() error {
	if o.Node == "" || o.Replica == nil {
		return errors.New(errors.KindInvalid, "blockrpc server: it needs the node's id and its replica")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Server is a node's block store services. It starts nothing by itself:
// its goroutines are those of streams and end with them.
type Server struct {
	opts    ServerOptions
	streams sync.WaitGroup
}

// NewServer makes a Server.
func NewServer(o ServerOptions) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Server{opts: o}, nil
}

// Register puts the services onto r, which must have been made with
// cluster.ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	blockpb.RegisterBlockStoreServer(r, &blockServer{s: s})
	if s.opts.Peer != nil {
		blockpb.RegisterPeerServer(r, &peerServer{src: s.opts.Peer})
	}
	if s.opts.Admin != nil {
		blockpb.RegisterAdminServer(r, &adminServer{s: s, node: s.opts.Admin})
	}
}

// Wait returns when no stream is left; call it after the gRPC server was stopped.
func (s *Server) Wait() { s.streams.Wait() }

// withLeader names the leader in an error of KindNotLeader.
func (s *Server) withLeader(err error) error {
	if !errors.Is(err, errors.KindNotLeader) {
		return err
	}
	if _, named := rpcerr.LeaderOf(err); named {
		return err
	}
	l := s.opts.Replica.Leadership()
	if l.Leader == s.opts.Node {
		return err
	}
	return rpcerr.WithLeader(err, rpcerr.Leader{Node: string(l.Leader), Address: l.Address})
}

// mustLead refuses at once where this node knows that it does not lead.
func (s *Server) mustLead() error {
	l := s.opts.Replica.Leadership()
	if l.Self {
		return nil
	}
	return rpcerr.NotLeader(string(s.opts.Node), rpcerr.Leader{Node: string(l.Leader), Address: l.Address})
}

// blockServer is the service BlockStore.
type blockServer struct {
	blockpb.UnimplementedBlockStoreServer
	s *Server
}

var _ blockpb.BlockStoreServer = (*blockServer)(nil)

func (b *blockServer) replica() blockstore.Replica { return b.s.opts.Replica }

// waitApplied waits for minIndex: the leader as long as the caller wants, since
// what it lacks is on its way; others hardly at all, since they learn of a commit late.
// KindNotReached if this node does not get there; KindNotLeader instead, naming the leader, if
// the caller took it for the leader (who alone is asked to wait).
func (b *blockServer) waitApplied(ctx context.Context, minIndex uint64, waitMillis uint32) error {
	if minIndex == 0 {
		return nil
	}
	leads := waitMillis == 0 || b.replica().Leadership().Self
	if !leads {
		waitMillis = 0
	}
	wait := max(followerWait, min(time.Duration(waitMillis)*time.Millisecond, readWaitMax))
	wctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := b.replica().WaitApplied(wctx, minIndex)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && !leads {
		if err := b.s.mustLead(); err != nil {
			return err
		}
	}
	if ctx.Err() == nil && wctx.Err() != nil {
		return errors.New(errors.KindNotReached, "node %s has not applied index %d yet (waited %v): ask the leader", b.s.opts.Node, minIndex, wait)
	}
	return err
}

// Read answers from this node's device.
func (b *blockServer) Read(ctx context.Context, in *blockpb.ReadRequest) (*blockpb.ReadResponse, error) {
	spans, err := spansOf(in.Spans)
	if err != nil {
		return nil, err
	}
	if err := b.waitApplied(ctx, in.MinIndex, in.WaitMillis); err != nil {
		return nil, err
	}
	results, index, err := b.replica().ReadLocal(ctx, spans, in.MinIndex)
	if err != nil {
		return nil, err
	}
	out := &blockpb.ReadResponse{Index: index, Data: make([][]byte, len(results)), Present: make([][]byte, len(results))}
	for i, r := range results {
		out.Data[i], out.Present[i] = r.Data, r.Present
	}
	return out, nil
}

// spansOf checks the spans of a Read.
func spansOf(in []*blockpb.Span) ([]blockstore.ReadSpan, error) {
	if len(in) == 0 {
		return nil, errors.New(errors.KindInvalid, "a read without spans")
	}
	spans := make([]blockstore.ReadSpan, len(in))
	total := uint64(0)
	for i, sp := range in {
		spans[i] = spanOf(sp)
		if err := checkSpan(spans[i], blockstore.ReadBlocksMax); err != nil {
			return nil, err
		}
		total += spans[i].Count
	}
	if total > blockstore.ReadBlocksMax {
		return nil, errors.New(errors.KindInvalid, "a read of %d blocks; at most %d are answered at once", total, blockstore.ReadBlocksMax)
	}
	return spans, nil
}

func spanOf(sp *blockpb.Span) wal.Span {
	return wal.Span{VDisk: sp.GetVdisk(), Block: sp.GetBlock(), Count: sp.GetCount()}
}

func checkSpan(sp wal.Span, blocksMax uint64) error {
	if sp.Count == 0 || sp.Count > blocksMax || sp.Block+sp.Count < sp.Block {
		return errors.New(errors.KindInvalid, "span of %d blocks from block %d of vdisk %d: the count must be 1 to %d and the end below 2^64", sp.Count, sp.Block, sp.VDisk, blocksMax)
	}
	return nil
}

// Presence answers from this node's device.
func (b *blockServer) Presence(ctx context.Context, in *blockpb.PresenceRequest) (*blockpb.PresenceResponse, error) {
	span := spanOf(in.Span)
	if err := checkSpan(span, presenceBlocksMax); err != nil {
		return nil, err
	}
	if err := b.waitApplied(ctx, in.MinIndex, in.WaitMillis); err != nil {
		return nil, err
	}
	present, index, err := b.replica().PresenceLocal(ctx, span, in.MinIndex)
	if err != nil {
		return nil, err
	}
	return &blockpb.PresenceResponse{Index: index, Present: present}, nil
}

// SkipAbsent answers from this node's device.
func (b *blockServer) SkipAbsent(ctx context.Context, in *blockpb.SkipAbsentRequest) (*blockpb.SkipAbsentResponse, error) {
	if err := b.waitApplied(ctx, in.MinIndex, in.WaitMillis); err != nil {
		return nil, err
	}
	next, index, err := b.replica().SkipAbsentLocal(ctx, in.Vdisk, in.Block, in.MinIndex)
	if err != nil {
		return nil, err
	}
	return &blockpb.SkipAbsentResponse{Index: index, Block: next}, nil
}

// commandKinds are the commands that a file server may send.
var commandKinds = map[blockpb.CommandRequest_Kind]blockstore.CommandKind{
	blockpb.CommandRequest_TAKE_INODES:    blockstore.CmdTakeInodes,
	blockpb.CommandRequest_RESERVE:        blockstore.CmdReserve,
	blockpb.CommandRequest_UNRESERVE:      blockstore.CmdUnreserve,
	blockpb.CommandRequest_FORGET_RETIRED: blockstore.CmdForgetRetired,
}

// Command proposes a numbered command.
func (b *blockServer) Command(ctx context.Context, in *blockpb.CommandRequest) (*blockpb.CommandResponse, error) {
	kind, ok := commandKinds[in.Kind]
	if !ok {
		return nil, errors.New(errors.KindInvalid, "command kind %d is none that a writer may send", in.Kind)
	}
	ses, err := sessionOf(in.Writer, in.Token)
	if err != nil {
		return nil, err
	}
	if in.Op == 0 {
		return nil, errors.New(errors.KindInvalid, "command of writer %d without a number", in.Writer)
	}
	if err := b.s.mustLead(); err != nil {
		return nil, err
	}
	res, err := b.replica().Propose(ctx, blockstore.Command{Kind: kind, Writer: ses.Writer, Token: ses.Token, Op: in.Op, Count: in.Count})
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, b.s.withLeader(err)
	}
	return &blockpb.CommandResponse{Index: res.Index, FirstInode: res.Inodes.First, InodeCount: res.Inodes.Count}, nil
}

func sessionOf(writer uint64, token []byte) (blockstore.Session, error) {
	ses := blockstore.Session{Writer: blockstore.WriterID(writer)}
	if writer == 0 || len(token) != len(ses.Token) {
		return ses, errors.New(errors.KindInvalid, "request without a writer and its token (writer %d, token of %d bytes)", writer, len(token))
	}
	copy(ses.Token[:], token)
	return ses, nil
}

// Space tells what the leader has applied.
func (b *blockServer) Space(context.Context, *blockpb.SpaceRequest) (*blockpb.SpaceResponse, error) {
	if err := b.s.mustLead(); err != nil {
		return nil, err
	}
	var sp blockstore.Space
	b.replica().View(func(st *blockstore.State, _ uint64) { sp = st.Space() })
	return &blockpb.SpaceResponse{CapacityBlocks: sp.CapacityBlocks, UsedBlocks: sp.UsedBlocks, ReservedBlocks: sp.ReservedBlocks}, nil
}

// Retired tells what the leader has applied.
func (b *blockServer) Retired(context.Context, *blockpb.RetiredRequest) (*blockpb.RetiredResponse, error) {
	if err := b.s.mustLead(); err != nil {
		return nil, err
	}
	out := &blockpb.RetiredResponse{}
	b.replica().View(func(st *blockstore.State, _ uint64) {
		for _, w := range st.Retired() {
			out.Writers = append(out.Writers, uint64(w))
		}
	})
	return out, nil
}

// clusterSource makes the Info of a node out of what it knows.
type clusterSource struct {
	opts      ServerOptions
	clusterID func() string
	members   func() ([]cluster.Member, uint64)
}

// NewInfoSource makes the cluster.Source of a node: clusterID and members must
// answer at once, from memory (members: the list and the log index it stands at).
func NewInfoSource(o ServerOptions, clusterID func() string, members func() ([]cluster.Member, uint64)) cluster.Source {
	return clusterSource{o, clusterID, members}
}

// Info implements cluster.Source.
func (c clusterSource) Info() cluster.Info {
	members, index := c.members()
	return cluster.Info{Node: c.opts.Node, ClusterID: c.clusterID(), Leadership: c.opts.Replica.Leadership(), Members: members, MembersIndex: index}
}
