package raftstore

import (
	"context"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// chunksPageMax bounds the chunks of one answer of ServeChunks.
const chunksPageMax = 4096

// ServeChunks answers PeerFetcher.FetchChunks. While others list and fetch here, the log behind
// the newest snapshot is kept.
func (n *Node) ServeChunks(ctx context.Context, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, uint64, error) {
	if err := n.waitReadable(ctx, 0); err != nil {
		return nil, 0, err
	}
	n.holdDeletes()
	list, err := n.applier.dev.Chunks(after, min(max, chunksPageMax))
	if err != nil {
		return nil, 0, err
	}
	return list, n.appliedTop(), nil
}

// ServeChunk answers PeerFetcher.FetchChunk.
func (n *Node) ServeChunk(ctx context.Context, id blockstore.ChunkID, minApplied uint64) (blockstore.ChunkData, uint64, error) {
	if err := n.waitReadable(ctx, minApplied); err != nil {
		return blockstore.ChunkData{}, 0, err
	}
	n.holdDeletes()
	for try := 0; ; try++ {
		c, bad, err := n.applier.dev.ReadChunk(id)
		if err != nil {
			return blockstore.ChunkData{}, 0, err
		}
		if len(bad) == 0 {
			return c, n.appliedTop(), nil
		}
		if try == readRetries {
			return blockstore.ChunkData{}, 0, errors.New(errors.KindCorrupt, "chunk %v is damaged on node %s: copy it from another", id, n.opts.ID)
		}
		if err := n.repairAll(ctx, bad); err != nil {
			return blockstore.ChunkData{}, 0, err
		}
	}
}

// ServeBlock answers PeerFetcher.FetchBlock. A block that is damaged here, too, is KindCorrupt: replicas do not
// send each other in circles. One that was torn on some may be agreed on meanwhile, by the asking of ServeSuspect, which asks nobody.
func (n *Node) ServeBlock(ctx context.Context, a wal.Addr, minApplied uint64) (PeerBlock, error) {
	return n.serveBlock(ctx, a, minApplied, false)
}

// ServeSuspect answers SuspectFetcher.FetchSuspect.
func (n *Node) ServeSuspect(ctx context.Context, a wal.Addr, minApplied uint64) (PeerBlock, error) {
	if n.isCopying() {
		return PeerBlock{Copying: true}, nil
	}
	return n.serveBlock(ctx, a, minApplied, true)
}

// isCopying tells whether this replica's content is to be replaced by that of another.
func (n *Node) isCopying() bool {
	if n.applier.progress.copying.Load() || incomplete(n.applier.dev) {
		return true
	}
	n.copying.mu.Lock()
	defer n.copying.mu.Unlock()
	return n.copying.mark != nil && n.copying.mark.Copying
}

func (n *Node) serveBlock(ctx context.Context, a wal.Addr, minApplied uint64, suspect bool) (PeerBlock, error) {
	if err := n.waitReadable(ctx, minApplied); err != nil {
		return PeerBlock{}, err
	}
	b := PeerBlock{Applied: n.Applied()}
	var present [1]byte
	data := make([]byte, wal.BlockSize)
	for agreed := false; ; agreed = true {
		bad, err := n.applier.dev.Read(wal.Span{VDisk: a.VDisk, Block: a.Block, Count: 1}, data, present[:])
		if err != nil {
			return PeerBlock{}, err
		}
		if len(bad) == 0 || suspect && bad[0].Suspect {
			break
		}
		if agreed || suspect || !n.agreeOnSuspect(ctx, bad[0]) {
			return PeerBlock{}, errors.New(errors.KindCorrupt, "block %d of vdisk %d is damaged on node %s, too", a.Block, a.VDisk, n.opts.ID)
		}
	}
	if b.Present = present[0]&1 != 0; b.Present {
		b.Data = data
	}
	return b, nil
}

// ServeApplied answers PeerFetcher.AppliedIndex.
func (n *Node) ServeApplied(ctx context.Context) (uint64, error) {
	if err := n.waitReadable(ctx, 0); err != nil {
		return 0, err
	}
	return n.appliedTop(), nil
}

// ServeUsage answers PeerFetcher.Usage.
func (n *Node) ServeUsage(context.Context) (PeerUsage, error) {
	u, err := n.applier.dev.Usage()
	if err != nil {
		return PeerUsage{}, err
	}
	fsid, err := hostFileSystem(n.opts.Dir)
	return PeerUsage{Used: u.Used - u.Scratch, Free: u.Free, FSID: fsid, LogToCome: n.logToCome() + u.ScratchMax - u.Scratch}, err
}

// appliedTop is an index that nothing read from the device so far is beyond: the entry being applied counts.
func (n *Node) appliedTop() uint64 {
	n.applier.exclusive.RLock()
	defer n.applier.exclusive.RUnlock()
	return n.Applied()
}
