package fsck

import (
	"context"
	"fmt"
	"math"
	"math/bits"
	"sort"
	"syscall"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// node is what is kept of an inode: small, for there are many.
type node struct {
	ino, blocks, size uint64
	parent            uint64 // of a directory: its ".."
	from              uint64 // a directory that names it, 0: none met
	mode, nlink       uint32
	refs, subdirs     uint32 // names that lead to it; names in it that lead to directories
	xattrBlocks       uint32
	flags             layout.Flags
	state             nodeState
}

type nodeState uint8

const (
	damaged  nodeState = 1 << iota // the inode block does not decode: nothing else is said of it
	linked                         // reaches the root
	visiting                       // on the way up from some directory
	cutOff                         // does not reach the root
	hasVDisk                       // has present blocks
)

func (n *node) typ() uint32 { return n.mode & syscall.S_IFMT }
func (n *node) dir() bool   { return n.typ() == syscall.S_IFDIR && n.state&damaged == 0 }

// orphanState is how an inode is listed.
type orphanState struct {
	unlinked, truncating bool
}

// checker is one run of Check; the steps are its methods.
type checker struct {
	ctx     context.Context
	r       Reader
	o       Options
	rep     *Report
	nodes   []node // ascending by ino
	orphans map[uint64]orphanState
}

func (c *checker) problem(k Kind, ino uint64, format string, args ...any) {
	if len(c.rep.Problems) >= c.o.ProblemsMax {
		c.rep.Dropped++
		return
	}
	c.rep.Problems = append(c.rep.Problems, Problem{Kind: k, Ino: ino, Text: fmt.Sprintf(format, args...)})
}

func (c *checker) progress(step string, done uint64) {
	if c.o.Progress != nil {
		c.o.Progress(step, done)
	}
}

// node finds an inode, nil if there is none.
func (c *checker) node(ino uint64) *node {
	i := sort.Search(len(c.nodes), func(i int) bool { return c.nodes[i].ino >= ino })
	if i < len(c.nodes) && c.nodes[i].ino == ino {
		return &c.nodes[i]
	}
	return nil
}

// chunkSpan is the run of blocks of a chunk (see blockstore.ChunkID).
func chunkSpan(id blockstore.ChunkID) wal.Span {
	switch id.Chunk {
	case 0:
		return wal.Span{VDisk: id.VDisk, Block: 0, Count: 16}
	case 1:
		return wal.Span{VDisk: id.VDisk, Block: 16, Count: 240}
	}
	return wal.Span{VDisk: id.VDisk, Block: (id.Chunk - 1) * 256, Count: 256}
}

// eachChunk calls f for the chunks with present blocks of the vdisks first..last.
func (c *checker) eachChunk(first, last uint64, f func(wal.Span) error) error {
	var after *blockstore.ChunkID
	if first > 0 {
		after = &blockstore.ChunkID{VDisk: first - 1, Chunk: math.MaxUint64}
	}
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		list, err := c.r.Chunks(c.ctx, after, 256)
		if err != nil {
			return err
		}
		for _, info := range list {
			if info.VDisk > last {
				return nil
			}
			if err := f(chunkSpan(info.ChunkID)); err != nil {
				return err
			}
		}
		if len(list) == 0 {
			return nil
		}
		after = &list[len(list)-1].ChunkID
	}
}

// eachBlock calls f for every present block of a span, with its content. A
// block that cannot be read is reported, and f called with nil.
func (c *checker) eachBlock(span wal.Span, f func(block uint64, data []byte)) error {
	data, present, err := c.r.Read(c.ctx, span)
	if errors.Is(err, errors.KindCorrupt) && span.Count > 1 {
		for i := range span.Count { // find out which
			if err := c.eachBlock(wal.Span{VDisk: span.VDisk, Block: span.Block + i, Count: 1}, f); err != nil {
				return err
			}
		}
		return nil
	}
	if errors.Is(err, errors.KindCorrupt) {
		c.rep.UsedBlocks++
		c.problem(BadBlock, 0, "%v", err)
		f(span.Block, nil)
		return nil
	}
	if err != nil {
		return err
	}
	for i := range span.Count {
		if present[i/8]>>(i%8)&1 != 0 {
			c.rep.UsedBlocks++
			f(span.Block+i, data[i*wal.BlockSize:(i+1)*wal.BlockSize])
		}
	}
	return nil
}

// countBlocks counts the present blocks of a span.
func (c *checker) countBlocks(span wal.Span) (present []byte, n uint64, err error) {
	present, err = c.r.Presence(c.ctx, span)
	for _, b := range present {
		n += uint64(bits.OnesCount8(b))
	}
	c.rep.UsedBlocks += n
	return present, n, err
}

// super checks the superblock.
func (c *checker) super() error {
	data, _, err := c.r.Read(c.ctx, wal.Span{VDisk: layout.SuperVDisk, Count: 1})
	if err == nil {
		var s *layout.Super
		if s, err = layout.DecodeSuper(data); err == nil && !s.RootMade {
			c.problem(BadSuper, 0, "it says that the root has not been made")
		}
		if err != nil {
			c.problem(BadSuper, 0, "%v", err)
		}
		return nil
	}
	if errors.Is(err, errors.KindCorrupt) {
		return nil // reported where the blocks are counted
	}
	return err
}

// tables reads all inodes.
func (c *checker) tables() error {
	return c.eachChunk(layout.TableVDiskBit, math.MaxUint64, func(span wal.Span) error {
		if layout.KindOfVDisk(span.VDisk) != layout.VDiskTable {
			return c.unknown(span)
		}
		c.progress("inodes", uint64(len(c.nodes)))
		return c.eachBlock(span, func(block uint64, data []byte) {
			ino, ok := layout.InodeAt(wal.Addr{VDisk: span.VDisk, Block: block})
			if !ok {
				c.problem(Ownerless, 0, "block %d of inode table %#x belongs to no inode", block, span.VDisk)
				return
			}
			if data == nil { // reported
				c.nodes = append(c.nodes, node{ino: ino, state: damaged})
				return
			}
			c.inode(ino, data)
		})
	})
}

// inode takes note of one inode.
func (c *checker) inode(ino uint64, data []byte) {
	in, err := layout.DecodeInode(ino, data)
	if err != nil {
		c.problem(BadInode, ino, "%v", err)
		c.nodes = append(c.nodes, node{ino: ino, state: damaged})
		return
	}
	n := node{ino: ino, blocks: in.Blocks, size: in.Size, parent: in.Parent, mode: in.Mode, nlink: in.Nlink, flags: in.Flags}
	in.XattrBlocks(func(_, count uint64) { n.xattrBlocks += uint32(count) })
	c.nodes = append(c.nodes, n)
	if in.Flags&layout.FlagClient != 0 {
		if err := layout.CheckClient(in); err != nil {
			c.problem(BadInode, ino, "%v", err)
		}
	}
	if in.Nlink == 0 {
		return
	}
	switch {
	case in.IsDir():
		c.rep.Dirs++
	case in.IsRegular():
		c.rep.Files++
		c.rep.Bytes += in.Size
	case in.IsSymlink():
		c.rep.Symlinks++
	default:
		c.rep.Others++
	}
}

// unknown counts and reports blocks of a vdisk that the layout does not know.
func (c *checker) unknown(span wal.Span) error {
	_, n, err := c.countBlocks(span)
	if err == nil && n > 0 {
		c.problem(Ownerless, 0, "vdisk %#x, blocks from %d on: %d present, but the layout knows no such vdisk", span.VDisk, span.Block, n)
	}
	return err
}

// fixedVDisks reads the orphan lists, and looks at what else is beside the inodes' vdisks.
func (c *checker) fixedVDisks() error {
	return c.eachChunk(layout.SuperVDisk, layout.TableVDiskBit-1, func(span wal.Span) error {
		switch layout.KindOfVDisk(span.VDisk) {
		case layout.VDiskSuper:
			return c.eachBlock(span, func(block uint64, _ []byte) {
				if block != 0 {
					c.problem(Ownerless, 0, "block %d of the superblock's vdisk is present", block)
				}
			})
		case layout.VDiskOrphans:
			return c.eachBlock(span, func(_ uint64, data []byte) {
				if data != nil {
					c.orphanPage(layout.WriterOf(span.VDisk), data)
				}
			})
		}
		return c.unknown(span)
	})
}

// orphanPage takes note of a page of a writer's orphan list.
func (c *checker) orphanPage(writer uint64, data []byte) {
	list, err := layout.DecodeOrphans(writer, data)
	if err != nil {
		c.problem(BadOrphans, 0, "writer %d: %v", writer, err)
		return
	}
	for _, o := range list {
		if o == (layout.Orphan{}) {
			continue
		}
		s := c.orphans[o.Ino]
		if o.Kind == layout.OrphanUnlinked && s.unlinked || o.Kind == layout.OrphanTruncating && s.truncating {
			c.problem(BadOrphans, o.Ino, "listed twice, last by writer %d", writer)
		}
		s.unlinked = s.unlinked || o.Kind == layout.OrphanUnlinked
		s.truncating = s.truncating || o.Kind == layout.OrphanTruncating
		// A free inode may be listed: who closes an unlinked file last frees it, and the list's owner clears the slot when it next looks.
		c.orphans[o.Ino] = s
	}
}
