package fs

import (
	"context"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// trimWindow is how many blocks (256 MiB) one record of a large truncation frees.
const trimWindow = 65536

// dataBlocks is how many of an inode's blocks hold file data.
func dataBlocks(in *layout.Inode) uint64 {
	n := in.Blocks
	in.XattrBlocks(func(_, count uint64) { n -= count })
	return n
}

// truncate sets the size of n, a regular file locked exclusive and loaded. change, if not nil, changes the inode in the same record, after
// the size and the times are set; means is what that record is for a thin client's request (once.go).
//
// A large one goes in steps: the first record sets the size and FlagTruncating and puts the inode on the orphan list; the following ones
// free a window each; the last one clears the flag and the list.
func (ss *session) truncate(ctx context.Context, n *node, size uint64, means completion, change func(t *tx, in *layout.Inode) error) error {
	if size > layout.MaxFileSize {
		return errors.Of(errors.KindFileTooBig)
	}
	if err := ss.settleTruncate(ctx, n); err != nil {
		return err
	}
	t := ss.newTx()
	defer t.done()
	t.completion = means
	in := t.edit(n)
	commit := func() error {
		if change != nil {
			if err := change(t, in); err != nil {
				return err
			}
		}
		return t.commit(ctx)
	}
	if err := ss.clearPriv(ctx, t, n, in, false); err != nil {
		return err
	}
	ss.stampChange(in, true)
	if in.Flags&layout.FlagInline != 0 && size <= uint64(in.InlineRoom()) {
		fresh := make([]byte, size)
		copy(fresh, in.Inline)
		in.Inline, in.Size = fresh, size
		return commit()
	}
	if in.Flags&layout.FlagInline != 0 {
		if err := spillFile(ctx, t, n, in); err != nil {
			return err
		}
	}
	old := in.Size
	in.Size = size
	if size > old || dataBlocks(in) == 0 {
		if size == 0 {
			in.Flags |= layout.FlagInline
		}
		return commit()
	}
	return ss.shrink(ctx, t, n, in, commit)
}

// shrink frees what lies behind the new size, which in has already, and commits.
func (ss *session) shrink(ctx context.Context, t *tx, n *node, in *layout.Inode, commit func() error) error {
	keep := (in.Size + blockSize - 1) / blockSize
	if tail := int(in.Size % blockSize); tail != 0 {
		there, err := ss.isPresent(ctx, n, keep-1)
		if err != nil {
			return err
		}
		if there {
			if err := ss.patch(ctx, t, n, keep-1, tail, zeroBlock[tail:]); err != nil {
				return err
			}
		}
	}
	below, err := ss.countPresent(ctx, n, 0, keep)
	if err != nil {
		return err
	}
	above := dataBlocks(in) - below
	if above <= freeWholeBlocks {
		if err := ss.trimFrom(ctx, t, n, in, keep, above); err != nil {
			return err
		}
		return commit()
	}
	in.Flags |= layout.FlagTruncating
	in.TrimFrom = keep
	t.addOrphan(n.ino, layout.OrphanTruncating)
	if err := commit(); err != nil {
		return err
	}
	return ss.finishTruncate(ctx, n)
}

// trimFrom frees the `above` present data blocks from block keep on.
func (ss *session) trimFrom(ctx context.Context, t *tx, n *node, in *layout.Inode, keep, above uint64) error {
	if keep%presenceChunkBlocks != 0 {
		// The chunk that is cut must be known: the store cannot be asked about it until this record is applied.
		if _, err := ss.presenceOf(ctx, n, keep/presenceChunkBlocks); err != nil {
			return err
		}
	}
	if above > 0 {
		t.trims = append(t.trims, txTrim{span: wal.Span{VDisk: n.ino, Block: keep, Count: layout.DataBlocksMax - keep}})
		in.Blocks -= above
	}
	t.marks = append(t.marks, txMark{n: n, first: keep, toEnd: true})
	if in.Size == 0 {
		in.Flags |= layout.FlagInline
	}
	return nil
}

// settleTruncate finishes a truncation that was begun and not finished, by whomever.
func (ss *session) settleTruncate(ctx context.Context, n *node) error {
	if n.in.Load().Flags&layout.FlagTruncating == 0 {
		return nil
	}
	return ss.finishTruncate(ctx, n)
}

// finishTruncate frees the blocks from TrimFrom on, window by window, and clears FlagTruncating. n is locked exclusive. It may be
// broken off anywhere and be called again.
func (ss *session) finishTruncate(ctx context.Context, n *node) error {
	below, err := ss.countPresent(ctx, n, 0, n.in.Load().TrimFrom)
	if err != nil {
		return err
	}
	for pos := n.in.Load().TrimFrom; ; {
		done, next, err := ss.truncateWindow(ctx, n, pos, below)
		if err != nil || done {
			return err
		}
		pos = next
	}
}

func (ss *session) truncateWindow(ctx context.Context, n *node, pos, below uint64) (done bool, next uint64, err error) {
	t := ss.newTx()
	defer t.done()
	in := t.edit(n)
	above := dataBlocks(in) - below
	if above <= freeWholeBlocks || pos >= layout.DataBlocksMax {
		if err := ss.trimFrom(ctx, t, n, in, in.TrimFrom, above); err != nil {
			return false, 0, err
		}
		in.Flags &^= layout.FlagTruncating
		in.TrimFrom = 0
		t.clearOrphan(n.ino, layout.OrphanTruncating)
		return true, 0, t.commit(ctx)
	}
	if pos%(1<<20) == 0 {
		if there, err := ss.countPresent(ctx, n, pos, 1<<20); err != nil || there == 0 {
			if err == nil {
				next, err = ss.nextPresent(ctx, n, pos+1<<20, layout.DataBlocksMax)
			}
			return false, next, err
		}
	}
	stop := min((pos/trimWindow+1)*trimWindow, layout.DataBlocksMax)
	there, err := ss.present(ctx, n, pos, stop-pos)
	if err != nil || there == 0 {
		return false, stop, err
	}
	t.trims = append(t.trims, txTrim{span: wal.Span{VDisk: n.ino, Block: pos, Count: stop - pos}})
	in.Blocks -= there
	t.marks = append(t.marks, txMark{n: n, first: pos, count: stop - pos})
	return false, stop, t.commit(ctx)
}

// flushZeros makes the zeros of an fallocate durable before their blocks are read.
func (ss *session) flushZeros(ctx context.Context, n *node) error {
	gen := wal.Gen(n.zeroGen.Load())
	if gen == 0 || gen <= ss.be.Log.Durable() {
		return nil
	}
	return ss.flush(ctx, gen)
}
