package layout

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
)

// This file grows and shrinks a directory: into and out of the inode, splits and merges of buckets.

// shrink merges buckets that became too empty, and moves the entries back into the
// inode when they take less than half of the room there.
func (d *Dir) shrink() error {
	h := &d.In.Dir
	for range resizeMax {
		if h.Buckets == 1 || h.LiveBytes >= h.Buckets*bucketCapacity/mergeLoad {
			break
		}
		if err := d.merge(); err != nil {
			return err
		}
	}
	if h.Buckets > 1 || h.LiveBytes > uint64(d.In.InlineRoom()/2) {
		return nil
	}
	entries, blocks, err := d.gather(0, nil, nil)
	if err != nil {
		return err
	}
	d.freeBlocks(blocks)
	body := bytes.Join(entries, nil)
	*h = DirHeader{Seed: h.Seed, Entries: uint64(len(entries)), LiveBytes: uint64(len(body))}
	d.In.Inline, d.In.Flags, d.In.Size = body, d.In.Flags|FlagInline, dirSize(*h)
	return nil
}

// spill moves the entries of an inline directory into bucket 0.
func (d *Dir) spill() error {
	h := &d.In.Dir
	b := newBucket(d.In.Ino, 0)
	b.setCounts(int(h.Entries), bucketHeader+len(d.In.Inline), len(d.In.Inline))
	copy(b[bucketHeader:], d.In.Inline)
	d.B.Put(0, b)
	h.Buckets, h.NextOverflow, h.Overflows = 1, 0, 0
	d.In.Blocks++
	d.In.Inline, d.In.Flags, d.In.Size = nil, d.In.Flags&^FlagInline, dirSize(*h)
	return nil
}

// gather appends the entries of a bucket, squeezed, and the blocks of its chain.
func (d *Dir) gather(bucket uint64, entries [][]byte, blocks []uint64) ([][]byte, []uint64, error) {
	err := d.eachBlock(bucket, func(no uint64, b bucketBlock) (bool, error) {
		blocks = append(blocks, no)
		ok := entriesOf(b.body(), func(e entryView) bool {
			n := e.size()
			if n < len(e) { // it took a longer hole
				e = bytes.Clone(e[:n])
				binary.LittleEndian.PutUint16(e[16:], uint16(n))
			}
			entries = append(entries, e)
			return true
		})
		if !ok {
			return false, corruptDir(d.In.Ino, bucket, "entries")
		}
		return true, nil
	})
	return entries, blocks, err
}

// freeBlocks frees blocks of the directory.
func (d *Dir) freeBlocks(blocks []uint64) {
	for _, no := range blocks {
		d.B.Free(no)
		d.In.Blocks--
		if no >= OverflowBase {
			d.In.Dir.Overflows--
		}
	}
}

// rewrite makes the entries the content of a bucket, in its block `bucket` (which
// the caller has counted) and the overflow blocks `over`, of which it takes what it needs, and fresh
// ones after them; it returns those left over.
func (d *Dir) rewrite(bucket uint64, entries [][]byte, over []uint64) []uint64 {
	no, b := bucket, newBucket(d.In.Ino, bucket)
	for _, e := range entries {
		if BlockSize-b.end() < len(e) {
			var next uint64
			if len(over) > 0 {
				next, over = over[0], over[1:]
			} else {
				next = d.newOverflow()
			}
			b.setNext(next)
			d.B.Put(no, b)
			no, b = next, newBucket(d.In.Ino, bucket)
		}
		copy(b[b.end():], e)
		b.setCounts(b.count()+1, b.end()+len(e), b.live()+len(e))
	}
	d.B.Put(no, b)
	return over
}

// split adds a bucket: it takes the upper half of the positions of the one whose turn it is.
func (d *Dir) split() error {
	h := &d.In.Dir
	fresh := h.Buckets
	level := bits.Len64(fresh) - 1
	old := fresh &^ (1 << level)
	entries, blocks, err := d.gather(old, nil, nil)
	if err != nil {
		return err
	}
	var stay, move [][]byte
	for _, e := range entries {
		if bucketOf(entryView(e).position(), fresh+1) == old {
			stay = append(stay, e)
		} else {
			move = append(move, e)
		}
	}
	h.Buckets++
	d.In.Blocks++
	over := d.rewrite(old, stay, blocks[1:])
	d.freeBlocks(d.rewrite(fresh, move, over))
	d.In.Size = dirSize(*h)
	return nil
}

// merge removes the last bucket: its entries go back to the one it was split from.
func (d *Dir) merge() error {
	h := &d.In.Dir
	last := h.Buckets - 1
	into := last &^ (1 << (bits.Len64(last) - 1))
	entries, blocks, err := d.gather(into, nil, nil)
	if err != nil {
		return err
	}
	entries, blocks, err = d.gather(last, entries, blocks)
	if err != nil {
		return err
	}
	at := slices.Index(blocks, last)
	over := slices.Concat(blocks[1:at], blocks[at+1:])
	h.Buckets--
	d.freeBlocks(append(d.rewrite(into, entries, over), last))
	d.In.Size = dirSize(*h)
	return nil
}

// checkDirHeader checks the directory header of a decoded inode.
func (in *Inode) checkDirHeader() error {
	h := in.Dir
	if in.Parent == 0 || in.Parent > MaxIno || in.Size != dirSize(h) && !in.dying() || h.Entries > h.LiveBytes/entryHeader || h.LiveBytes > 1<<60 {
		return corruptInode(in.Ino, "directory header")
	}
	if in.Flags&FlagInline == 0 {
		if h.Buckets == 0 || h.Buckets > OverflowBase || h.Overflows > h.NextOverflow || h.NextOverflow >= XattrBase-OverflowBase {
			return corruptInode(in.Ino, "directory header")
		}
		return nil
	}
	entries, size := uint64(0), 0
	ok := entriesOf(in.Inline, func(e entryView) bool {
		entries, size = entries+1, size+e.size()
		return true
	})
	if !ok || entries != h.Entries || size != len(in.Inline) || uint64(size) != h.LiveBytes ||
		h.Buckets != 0 || h.NextOverflow != 0 || h.Overflows != 0 {
		return corruptInode(in.Ino, "inline directory entries")
	}
	return nil
}
