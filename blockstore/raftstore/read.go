package raftstore

import (
	"context"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

const (
	presenceBlocksMax = 1 << 20
	// readRetries is how often a read is tried again because a record changed what it read, before it holds apply up.
	readRetries = 3
)

// waitReadable waits, at most Limits.ReadWait, until this replica may be read at index. KindNotReached.
func (n *Node) waitReadable(ctx context.Context, index uint64) error {
	p := &n.applier.progress
	// Without Raft there are no members, hence nobody to repair a damaged block from.
	ready := func() bool { return p.applied.Load() >= index && p.settled() && n.raft.Load() != nil }
	if ready() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, n.limits.ReadWait)
	defer cancel()
	if err := p.wait(ctx, n.closing, ready); err != nil {
		if p.copying.Load() {
			return errors.New(errors.KindNotReached, "node %s is copying from another replica; read elsewhere", n.opts.ID)
		}
		if n.raft.Load() == nil {
			return errors.New(errors.KindNotReached, "node %s is starting; read elsewhere", n.opts.ID)
		}
		return errors.New(errors.KindNotReached, "node %s has applied index %d, not yet what may be read at %d; read from the leader", n.opts.ID, p.applied.Load(), index)
	}
	return nil
}

// ReadLocal is blockstore.Replica's.
func (n *Node) ReadLocal(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, uint64, error) {
	total := uint64(0)
	for _, s := range spans {
		if s.Count == 0 || s.Count > blockstore.ReadBlocksMax || s.Block+s.Count < s.Block {
			return nil, 0, errors.New(errors.KindInvalid, "cannot read %d blocks from block %d on", s.Count, s.Block)
		}
		total += s.Count
	}
	if total == 0 || total > blockstore.ReadBlocksMax {
		return nil, 0, errors.New(errors.KindInvalid, "one read may ask for 1 to %d blocks, not %d", blockstore.ReadBlocksMax, total)
	}
	if err := n.waitReadable(ctx, minIndex); err != nil {
		return nil, 0, err
	}
	out := make([]blockstore.ReadResult, len(spans))
	for i, s := range spans {
		out[i] = blockstore.ReadResult{Data: make([]byte, s.Count*wal.BlockSize), Present: make([]byte, (s.Count+7)/8)}
	}
	index, err := n.steady(ctx, spans, func() ([]blockstore.BadBlock, error) {
		var bad []blockstore.BadBlock
		for i, s := range spans {
			b, err := n.applier.dev.Read(s, out[i].Data, out[i].Present)
			if err != nil {
				return nil, err
			}
			bad = append(bad, b...)
		}
		return bad, nil
	})
	if err != nil {
		return nil, 0, err
	}
	return out, index, nil
}

// PresenceLocal is blockstore.Replica's.
func (n *Node) PresenceLocal(ctx context.Context, span blockstore.ReadSpan, minIndex uint64) ([]byte, uint64, error) {
	if span.Count == 0 || span.Count > presenceBlocksMax || span.Block+span.Count < span.Block {
		return nil, 0, errors.New(errors.KindInvalid, "cannot tell the presence of %d blocks from block %d on; at most %d", span.Count, span.Block, presenceBlocksMax)
	}
	if err := n.waitReadable(ctx, minIndex); err != nil {
		return nil, 0, err
	}
	present := make([]byte, (span.Count+7)/8)
	index, err := n.steady(ctx, []wal.Span{span}, func() ([]blockstore.BadBlock, error) {
		return nil, n.applier.dev.Presence(span, present)
	})
	if err != nil {
		return nil, 0, err
	}
	return present, index, nil
}

// SkipAbsentLocal is blockstore.Replica's.
func (n *Node) SkipAbsentLocal(ctx context.Context, vdisk, block, minIndex uint64) (next, index uint64, err error) {
	if err := n.waitReadable(ctx, minIndex); err != nil {
		return 0, 0, err
	}
	index, err = n.steady(ctx, []wal.Span{{VDisk: vdisk, Block: block, Count: 1}}, func() (_ []blockstore.BadBlock, err error) {
		next, err = n.applier.dev.SkipAbsent(vdisk, block)
		return nil, err
	})
	return next, index, err
}

// steady runs read until no record touched the spans meanwhile and no block was bad, repairing bad ones,
// and returns the index that the result is of.
func (n *Node) steady(ctx context.Context, spans []wal.Span, read func() ([]blockstore.BadBlock, error)) (uint64, error) {
	a := n.applier
	for try, repairs := 0, 0; ; try++ {
		alone := try >= readRetries
		if alone {
			a.exclusive.RLock()
		}
		since := a.recent.start()
		bad, err := read()
		index := a.progress.applied.Load()
		disturbed := a.recent.disturbed(since, spans)
		if alone {
			a.exclusive.RUnlock()
		}
		switch {
		case a.progress.copying.Load():
			return 0, errors.New(errors.KindNotReached, "node %s is copying from another replica; read elsewhere", n.opts.ID)
		case err != nil:
			return 0, errors.New(errors.KindOf(err), "node %s cannot read its device: %w", n.opts.ID, err)
		case len(bad) > 0:
			if repairs++; repairs > readRetries {
				return 0, errors.New(errors.KindCorrupt, "block %d of vdisk %d stays damaged on node %s", bad[0].Block, bad[0].VDisk, n.opts.ID)
			}
			if err := n.repairAll(ctx, bad); err != nil {
				return 0, err
			}
		case !disturbed:
			return index, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
}
