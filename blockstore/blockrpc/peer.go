package blockrpc

import (
	"context"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

// PeerSource is what a node tells the others; see raftstore.PeerFetcher.
type PeerSource interface {
	ServeChunks(ctx context.Context, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, uint64, error)
	ServeChunk(ctx context.Context, id blockstore.ChunkID, minApplied uint64) (blockstore.ChunkData, uint64, error)
	ServeBlock(ctx context.Context, a wal.Addr, minApplied uint64) (raftstore.PeerBlock, error)
	ServeSuspect(ctx context.Context, a wal.Addr, minApplied uint64) (raftstore.PeerBlock, error)
	ServeApplied(ctx context.Context) (uint64, error)
	ServeUsage(ctx context.Context) (raftstore.PeerUsage, error)
}

var (
	_ PeerSource               = (*raftstore.Node)(nil)
	_ raftstore.PeerFetcher    = (*Peers)(nil)
	_ raftstore.SuspectFetcher = (*Peers)(nil)
)

// peerServer is the service Peer.
type peerServer struct {
	blockpb.UnimplementedPeerServer
	src PeerSource
}

var _ blockpb.PeerServer = (*peerServer)(nil)

// FetchChunks lists chunks.
func (p *peerServer) FetchChunks(ctx context.Context, in *blockpb.FetchChunksRequest) (*blockpb.FetchChunksResponse, error) {
	var after *blockstore.ChunkID
	if in.After != nil {
		after = &blockstore.ChunkID{VDisk: in.After.Vdisk, Chunk: in.After.Chunk}
	}
	if in.Max == 0 {
		return nil, errors.New(errors.KindInvalid, "a list of no chunks was asked for")
	}
	list, applied, err := p.src.ServeChunks(ctx, after, int(min(in.Max, 1<<16)))
	if err != nil {
		return nil, err
	}
	out := &blockpb.FetchChunksResponse{Applied: applied, Chunks: make([]*blockpb.ChunkInfo, len(list))}
	for i, c := range list {
		out.Chunks[i] = &blockpb.ChunkInfo{Vdisk: c.VDisk, Chunk: c.Chunk, LastIndex: c.LastIndex}
	}
	return out, nil
}

// FetchChunk gives one chunk.
func (p *peerServer) FetchChunk(ctx context.Context, in *blockpb.FetchChunkRequest) (*blockpb.FetchChunkResponse, error) {
	id := blockstore.ChunkID{VDisk: in.GetId().GetVdisk(), Chunk: in.GetId().GetChunk()}
	c, applied, err := p.src.ServeChunk(ctx, id, in.MinApplied)
	if err != nil {
		return nil, err
	}
	return &blockpb.FetchChunkResponse{LastIndex: c.LastIndex, Applied: applied, Present: c.Present, Data: c.Data}, nil
}

// FetchBlock gives one block.
func (p *peerServer) FetchBlock(ctx context.Context, in *blockpb.FetchBlockRequest) (*blockpb.FetchBlockResponse, error) {
	b, err := p.src.ServeBlock(ctx, wal.Addr{VDisk: in.Vdisk, Block: in.Block}, in.MinApplied)
	if err != nil {
		return nil, err
	}
	return &blockpb.FetchBlockResponse{Present: b.Present, Data: b.Data, Applied: b.Applied}, nil
}

// FetchSuspect gives one block, be it suspect.
func (p *peerServer) FetchSuspect(ctx context.Context, in *blockpb.FetchSuspectRequest) (*blockpb.FetchSuspectResponse, error) {
	b, err := p.src.ServeSuspect(ctx, wal.Addr{VDisk: in.Vdisk, Block: in.Block}, in.MinApplied)
	if err != nil {
		return nil, err
	}
	return &blockpb.FetchSuspectResponse{Present: b.Present, Data: b.Data, Applied: b.Applied, Copying: b.Copying}, nil
}

// AppliedIndex tells what this node has applied.
func (p *peerServer) AppliedIndex(ctx context.Context, _ *blockpb.AppliedIndexRequest) (*blockpb.AppliedIndexResponse, error) {
	applied, err := p.src.ServeApplied(ctx)
	if err != nil {
		return nil, err
	}
	return &blockpb.AppliedIndexResponse{Applied: applied}, nil
}

// Usage tells how full this node is.
func (p *peerServer) Usage(ctx context.Context, _ *blockpb.UsageRequest) (*blockpb.UsageResponse, error) {
	u, err := p.src.ServeUsage(ctx)
	if err != nil {
		return nil, err
	}
	return &blockpb.UsageResponse{UsedBytes: u.Used, FreeBytes: u.Free, Fsid: u.FSID, LogToComeBytes: u.LogToCome}, nil
}

// Peers asks other nodes: raftstore.PeerFetcher over the connections of a
// cluster.Cluster. Safe for concurrent use; it starts nothing.
type Peers struct {
	conns interface {
		Conn(addr string) (*grpc.ClientConn, error)
	}
}

// NewPeers makes Peers; cl stays the caller's to close.
func NewPeers(cl *cluster.Cluster) *Peers { return &Peers{conns: cl} }

func (p *Peers) client(addr string) (blockpb.PeerClient, error) {
	cc, err := p.conns.Conn(addr)
	if err != nil {
		return nil, err
	}
	return blockpb.NewPeerClient(cc), nil
}

// FetchChunks implements raftstore.PeerFetcher.
func (p *Peers) FetchChunks(ctx context.Context, addr string, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, uint64, error) {
	cl, err := p.client(addr)
	if err != nil {
		return nil, 0, err
	}
	if max <= 0 {
		return nil, 0, errors.New(errors.KindInvalid, "a list of %d chunks was asked for", max)
	}
	req := &blockpb.FetchChunksRequest{Max: uint32(min(max, 1<<16))}
	if after != nil {
		req.After = &blockpb.ChunkID{Vdisk: after.VDisk, Chunk: after.Chunk}
	}
	in, err := cl.FetchChunks(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	out := make([]blockstore.ChunkInfo, len(in.Chunks))
	for i, c := range in.Chunks {
		out[i] = blockstore.ChunkInfo{ChunkID: blockstore.ChunkID{VDisk: c.Vdisk, Chunk: c.Chunk}, LastIndex: c.LastIndex}
	}
	return out, in.Applied, nil
}

// FetchChunk implements raftstore.PeerFetcher.
func (p *Peers) FetchChunk(ctx context.Context, addr string, id blockstore.ChunkID, minApplied uint64) (blockstore.ChunkData, uint64, error) {
	out := blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: id}}
	cl, err := p.client(addr)
	if err != nil {
		return out, 0, err
	}
	in, err := cl.FetchChunk(ctx, &blockpb.FetchChunkRequest{Id: &blockpb.ChunkID{Vdisk: id.VDisk, Chunk: id.Chunk}, MinApplied: minApplied})
	if err != nil {
		return out, 0, err
	}
	if in.Applied < minApplied {
		return out, 0, errors.New(errors.KindNotReached, "the node at %s has applied %d, not %d", addr, in.Applied, minApplied)
	}
	out.LastIndex, out.Present, out.Data = in.LastIndex, in.Present, in.Data
	return out, in.Applied, nil
}

// FetchBlock implements raftstore.PeerFetcher.
func (p *Peers) FetchBlock(ctx context.Context, addr string, block wal.Addr, minApplied uint64) (raftstore.PeerBlock, error) {
	cl, err := p.client(addr)
	if err != nil {
		return raftstore.PeerBlock{}, err
	}
	in, err := cl.FetchBlock(ctx, &blockpb.FetchBlockRequest{Vdisk: block.VDisk, Block: block.Block, MinApplied: minApplied})
	if err != nil {
		return raftstore.PeerBlock{}, err
	}
	return peerBlock(addr, raftstore.PeerBlock{Data: in.Data, Present: in.Present, Applied: in.Applied}, minApplied)
}

// FetchSuspect implements raftstore.SuspectFetcher.
func (p *Peers) FetchSuspect(ctx context.Context, addr string, block wal.Addr, minApplied uint64) (raftstore.PeerBlock, error) {
	cl, err := p.client(addr)
	if err != nil {
		return raftstore.PeerBlock{}, err
	}
	in, err := cl.FetchSuspect(ctx, &blockpb.FetchSuspectRequest{Vdisk: block.VDisk, Block: block.Block, MinApplied: minApplied})
	if err != nil {
		return raftstore.PeerBlock{}, err
	}
	if in.Copying {
		return raftstore.PeerBlock{Copying: true}, nil
	}
	return peerBlock(addr, raftstore.PeerBlock{Data: in.Data, Present: in.Present, Applied: in.Applied}, minApplied)
}

// peerBlock checks what the node at addr sent.
func peerBlock(addr string, b raftstore.PeerBlock, minApplied uint64) (raftstore.PeerBlock, error) {
	if b.Present != (len(b.Data) == wal.BlockSize) || (!b.Present && len(b.Data) > 0) {
		return raftstore.PeerBlock{}, errors.New(errors.KindCorrupt, "the node at %s sent a block of %d bytes", addr, len(b.Data))
	}
	if b.Applied < minApplied {
		return raftstore.PeerBlock{}, errors.New(errors.KindNotReached, "the node at %s has applied %d, not %d", addr, b.Applied, minApplied)
	}
	return b, nil
}

// AppliedIndex implements raftstore.PeerFetcher.
func (p *Peers) AppliedIndex(ctx context.Context, addr string) (uint64, error) {
	cl, err := p.client(addr)
	if err != nil {
		return 0, err
	}
	in, err := cl.AppliedIndex(ctx, &blockpb.AppliedIndexRequest{})
	return in.GetApplied(), err
}

// Usage implements raftstore.PeerFetcher.
func (p *Peers) Usage(ctx context.Context, addr string) (raftstore.PeerUsage, error) {
	cl, err := p.client(addr)
	if err != nil {
		return raftstore.PeerUsage{}, err
	}
	in, err := cl.Usage(ctx, &blockpb.UsageRequest{})
	return raftstore.PeerUsage{Used: in.GetUsedBytes(), Free: in.GetFreeBytes(), FSID: in.GetFsid(), LogToCome: in.GetLogToComeBytes()}, err
}
