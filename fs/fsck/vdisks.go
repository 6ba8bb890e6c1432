package fsck

import (
	"bytes"
	"syscall"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// regions counts the present blocks of one inode's vdisk by what they are for.
type regions struct {
	vdisk                       uint64
	data, overflow, xattr, none uint64
	pastEnd                     uint64 // data blocks past what the inode may have
}

// inodeVDisks counts the blocks of every inode's vdisk and compares.
func (c *checker) inodeVDisks() error {
	var cur regions
	var n *node
	done := uint64(0)
	err := c.eachChunk(0, layout.MaxIno, func(span wal.Span) error {
		if span.VDisk == 0 {
			return c.unknown(span)
		}
		if span.VDisk != cur.vdisk {
			c.vdiskDone(n, cur)
			cur, n = regions{vdisk: span.VDisk}, c.node(span.VDisk)
			done++
			c.progress("vdisks", done)
		}
		return c.chunk(n, &cur, span)
	})
	if err != nil {
		return err
	}
	c.vdiskDone(n, cur)
	for i := range c.nodes { // inodes that should have blocks and have none
		if n := &c.nodes[i]; n.state&(hasVDisk|damaged) == 0 {
			c.vdiskDone(n, regions{vdisk: n.ino})
		}
	}
	return nil
}

// chunk counts one chunk of an inode's vdisk, and looks at file data past the end.
func (c *checker) chunk(n *node, cur *regions, span wal.Span) error {
	present, _, err := c.countBlocks(span)
	if err != nil {
		return err
	}
	for i := range span.Count {
		if present[i/8]>>(i%8)&1 == 0 {
			continue
		}
		switch block := span.Block + i; {
		case block >= layout.XattrEnd:
			cur.none++
		case block >= layout.XattrBase:
			cur.xattr++
		case block >= layout.OverflowBase:
			cur.overflow++
		case block >= layout.DataBlocksMax:
			cur.none++
		default:
			cur.data++
			if n == nil || n.typ() != syscall.S_IFREG || n.state&damaged != 0 {
				continue
			}
			if err := c.pastEnd(n, cur, block); err != nil {
				return err
			}
		}
	}
	return nil
}

// pastEnd looks at a data block of a file that may reach past the file's end: it
// must hold zeros there (it was allocated ahead), or the file is being truncated.
func (c *checker) pastEnd(n *node, cur *regions, block uint64) error {
	if n.flags&layout.FlagTruncating != 0 {
		return nil
	}
	if n.flags&layout.FlagInline != 0 {
		cur.pastEnd++
		return nil
	}
	if (block+1)*layout.BlockSize <= n.size || c.o.SkipData {
		return nil
	}
	data, _, err := c.r.Read(c.ctx, wal.Span{VDisk: n.ino, Block: block, Count: 1})
	if errors.Is(err, errors.KindCorrupt) {
		c.problem(BadBlock, n.ino, "block %d: %v", block, err)
		return nil
	}
	if err != nil {
		return err
	}
	tail := uint64(0)
	if block*layout.BlockSize < n.size {
		tail = n.size % layout.BlockSize
	}
	if len(bytes.TrimLeft(data[tail:], "\x00")) > 0 {
		c.problem(StaleData, n.ino, "block %d holds bytes past the end of the file (%d bytes)", block, n.size)
	}
	return nil
}

// vdiskDone compares what is present in a vdisk with its inode (nil: none).
func (c *checker) vdiskDone(n *node, r regions) {
	total := r.data + r.overflow + r.xattr + r.none
	if n == nil {
		if total > 0 {
			c.problem(Ownerless, 0, "vdisk %d has %d blocks, but inode %d is free", r.vdisk, total, r.vdisk)
		}
		return
	}
	if n.state&damaged != 0 {
		return
	}
	n.state |= hasVDisk
	if total != n.blocks {
		c.problem(BlockCount, n.ino, "it counts %d blocks, %d are present", n.blocks, total)
	}
	if r.xattr != uint64(n.xattrBlocks) && n.flags&layout.FlagTruncating == 0 {
		c.problem(Misplaced, n.ino, "its extended attributes have %d blocks, %d are present", n.xattrBlocks, r.xattr)
	}
	misplaced := r.none + r.pastEnd
	switch typ := n.typ(); {
	case n.flags&layout.FlagTruncating != 0: // some are gone, some not yet
		misplaced = r.none
	case typ == syscall.S_IFREG:
		misplaced += r.overflow
	case typ == syscall.S_IFDIR: // the walk of the directory tells more
		if n.flags&layout.FlagInline != 0 {
			misplaced += r.data + r.overflow
		} else if want := n.size / layout.BlockSize; r.data+r.overflow != want {
			c.problem(Misplaced, n.ino, "the directory has %d blocks, %d are present", want, r.data+r.overflow)
		}
	case typ == syscall.S_IFLNK:
		misplaced += r.overflow
		want := uint64(1)
		if n.flags&layout.FlagInline != 0 {
			want = 0
		}
		if r.data != want {
			c.problem(Misplaced, n.ino, "the symlink's target has %d blocks, %d are present", want, r.data)
		}
	default:
		misplaced += r.data + r.overflow
	}
	if misplaced > 0 {
		c.problem(Misplaced, n.ino, "%d blocks are where such an inode has none", misplaced)
	}
}
