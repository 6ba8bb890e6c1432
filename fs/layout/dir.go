package layout

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"

	"dfs/internal/errors"
)

// Blocks is how directory and attribute functions reach blocks of the inode's
// own vdisk inside an operation.
type Blocks interface {
	// Get returns the block as the operation sees it: BlockSize bytes, zeros if it
	// is absent. The callee never writes into it.
	Get(block uint64) ([]byte, error)
	// Put replaces the block; the implementation owns data from then on.
	Put(block uint64, data []byte)
	// Free makes the block absent.
	Free(block uint64)
}

// Dir is a directory during one operation: its inode, which the changing
// functions update (Dir, Size, Blocks, Inline, Flags; not the times), and its blocks.
//
// # Structure
//
// A small directory stands in its inode. A greater one is a hash table by
// linear hashing: bucket b is block b of the directory's vdisk, with overflow
// blocks chained to it where entries cluster. A name's position (hash and
// sequence number) never changes while the name stays; the bucket is taken from the reversed
// bits of the position, so a bucket holds one interval of positions, and a
// split of bucket b at level L makes b and b + 1<<L, which are neighbours in position order. Iteration goes by
// position; therefore it is stable across splits and merges.
//
// Growth: a split after an insert that leaves the buckets more than half full on the average (at most
// 1 at the end of a round for those that are not split yet), so lookups touch one block;
// a merge after a removal that leaves them less than a fifth full, so a directory that shrank is quick to list.
type Dir struct {
	In   *Inode
	B    Blocks
	hash func(seed uint64, name string) uint64
}

// The load of the buckets: LiveBytes in parts of their capacity.
const (
	splitLoad = 2 // split above 1/2
	mergeLoad = 5 // merge below 1/5
)

// OpenDir makes a Dir of a directory's inode. b may be nil if the directory is inline and is only read.
func OpenDir(in *Inode, b Blocks) *Dir { return &Dir{In: in, B: b, hash: hashName} }

// dirSize is the size that stat tells of a directory, in bytes.
func dirSize(h DirHeader) uint64 { return max(1, h.Buckets+h.Overflows) * BlockSize }

// Len is the number of names, without "." and "..".
func (d *Dir) Len() uint64 { return d.In.Dir.Entries }

// Empty reports whether no name is in it.
func (d *Dir) Empty() bool { return d.In.Dir.Entries == 0 }

// inline reports whether the entries stand in the inode.
func (d *Dir) inline() bool { return d.In.Flags&FlagInline != 0 }

// base is the position of name without its sequence number.
func (d *Dir) base(name string) uint64 {
	return d.hash(d.In.Dir.Seed, name) >> (64 - positionBits) &^ sequenceMax
}

// BlockOf is the block that a lookup of name reads first; ok is false if it reads none (inline).
func (d *Dir) BlockOf(name string) (block uint64, ok bool) {
	if d.inline() {
		return 0, false
	}
	return bucketOf(d.base(name), d.In.Dir.Buckets), true
}

// BlocksAfter returns the next blocks, at most n, that an iteration from cookie on reads, in its order (overflow
// blocks left out): for read-ahead.
func (d *Dir) BlocksAfter(cookie uint64, n int) []uint64 {
	var out []uint64
	if d.inline() {
		return nil
	}
	pos := max(cookie, cookieDotDot) - cookieDotDot
	for pos < positionLimit && len(out) < n {
		b := bucketOf(pos, d.In.Dir.Buckets)
		out = append(out, b)
		_, pos = bucketInterval(b, d.In.Dir.Buckets)
	}
	return out
}

// place is where an entry was found: its block and offset there, or the
// offset in Inline.
type place struct {
	no    uint64
	block bucketBlock // nil: inline
	off   int
}

// entry is the entry at the place.
func (d *Dir) entry(p place) entryView {
	if p.block == nil {
		return entryAt(d.In.Inline[p.off:])
	}
	return entryAt(p.block[p.off:])
}

// find looks name up. KindNotExist, KindCorrupt, or an error of Get.
func (d *Dir) find(name string) (place, error) {
	base := d.base(name)
	if d.inline() {
		off := findEntry(d.In.Inline, base, name)
		if off == -2 {
			return place{}, corruptInode(d.In.Ino, "directory entries")
		} else if off < 0 {
			return place{}, errors.Of(errors.KindNotExist)
		}
		return place{off: off}, nil
	}
	bucket := bucketOf(base, d.In.Dir.Buckets)
	found := place{}
	err := d.eachBlock(bucket, func(no uint64, b bucketBlock) (bool, error) {
		off := findEntry(b.body(), base, name)
		if off == -2 {
			return false, corruptDir(d.In.Ino, bucket, "entries")
		}
		if off >= 0 {
			found = place{no, b, bucketHeader + off}
		}
		return off < 0, nil
	})
	if err == nil && found.block == nil {
		err = errors.Of(errors.KindNotExist)
	}
	return found, err
}

// eachBlock calls f for the blocks of a bucket's chain, in order, until f returns false or an error.
func (d *Dir) eachBlock(bucket uint64, f func(no uint64, b bucketBlock) (bool, error)) error {
	no := bucket
	for steps := uint64(0); ; steps++ {
		raw, err := d.B.Get(no)
		if err != nil {
			return err
		}
		b, err := checkBucket(d.In.Ino, bucket, raw)
		if err != nil {
			return err
		}
		if more, err := f(no, b); !more || err != nil {
			return err
		}
		if no = b.next(); no == 0 {
			return nil
		}
		if steps >= d.In.Dir.Overflows {
			return corruptDir(d.In.Ino, bucket, "its chain is longer than all overflow blocks")
		}
	}
}

// Lookup finds name. KindNotExist, KindNameTooLong, KindCorrupt.
func (d *Dir) Lookup(name string) (Entry, error) {
	if len(name) > NameMax {
		return Entry{}, checkName(name)
	}
	p, err := d.find(name)
	if err != nil {
		return Entry{}, err
	}
	return d.entry(p).decode(), nil
}

// Replace makes name, which must be there, lead to another inode; its cookie stays.
// KindNotExist, KindNameTooLong (nothing changed), KindCorrupt.
func (d *Dir) Replace(name string, ino uint64, typ uint32) error {
	if len(name) > NameMax {
		return checkName(name)
	}
	if err := checkTarget(name, ino, typ); err != nil {
		return err
	}
	p, err := d.find(name)
	if err != nil {
		return err
	}
	if p.block == nil {
		d.In.Inline = bytes.Clone(d.In.Inline)
		d.entry(p).set(ino, typ)
		return nil
	}
	p.block = bytes.Clone(p.block)
	d.entry(p).set(ino, typ)
	d.B.Put(p.no, p.block)
	return nil
}

// checkTarget refuses what no entry may lead to.
func checkTarget(name string, ino uint64, typ uint32) error {
	if ino == 0 || ino > MaxIno || !validType(typ) || typ&0o7777 != 0 {
		return errors.New(errors.KindInvalid, "entry %q: inode %d of type %#o", name, ino, typ)
	}
	return nil
}

// Insert adds name. KindExist, KindNameTooLong, KindInvalid (nothing changed), KindNoSpace
// (256 names of equal hash: nothing changed), KindCorrupt.
func (d *Dir) Insert(name string, ino uint64, typ uint32) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := checkTarget(name, ino, typ); err != nil {
		return err
	}
	if d.inline() {
		pos, err := d.freePosition(name, func(see func([]byte) error) error { return see(d.In.Inline) })
		if err != nil {
			return err
		}
		need, used := entrySize(len(name)), len(d.In.Inline)
		if used+need <= d.In.InlineRoom() {
			fresh := make([]byte, used+need)
			copy(fresh, d.In.Inline)
			writeEntry(fresh[used:], name, ino, pos, typ)
			d.In.Inline = fresh
			d.count(1, need)
			return nil
		}
		if err := d.spill(); err != nil {
			return err
		}
	}
	if err := d.insertHashed(name, ino, typ); err != nil {
		return err
	}
	for h := &d.In.Dir; h.LiveBytes > h.Buckets*bucketCapacity/splitLoad; {
		if err := d.split(); err != nil {
			return err
		}
	}
	return nil
}

// count updates the header for n entries and the bytes of them more.
func (d *Dir) count(n, bytes int) {
	h := &d.In.Dir
	h.Entries += uint64(n)
	h.LiveBytes += uint64(bytes)
	d.In.Size = dirSize(*h)
}

// freePosition chooses the position of a new name; chain calls see with the entries of every block of its bucket.
func (d *Dir) freePosition(name string, chain func(see func([]byte) error) error) (uint64, error) {
	base := d.base(name)
	var taken [(sequenceMax + 1) / 64]uint64
	err := chain(func(body []byte) error {
		exists := false
		ok := entriesOf(body, func(e entryView) bool {
			if p := e.position(); p&^sequenceMax == base {
				exists = exists || string(e.name()) == name
				taken[p&sequenceMax/64] |= 1 << (p % 64)
			}
			return true
		})
		if !ok {
			return corruptInode(d.In.Ino, "directory entries")
		} else if exists {
			return errors.Of(errors.KindExist)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for i, w := range taken {
		if w != ^uint64(0) {
			return base | uint64(i*64+bits.TrailingZeros64(^w)), nil
		}
	}
	return 0, errors.New(errors.KindNoSpace, "directory %d holds %d names of the same hash as %q", d.In.Ino, sequenceMax+1, name)
}

// insertHashed adds name to its bucket, and an overflow block to that if it is full.
func (d *Dir) insertHashed(name string, ino uint64, typ uint32) error {
	bucket := bucketOf(d.base(name), d.In.Dir.Buckets)
	need := entrySize(len(name))
	var room, last place // the first block with room, and the end of the chain
	pos, err := d.freePosition(name, func(see func([]byte) error) error {
		return d.eachBlock(bucket, func(no uint64, b bucketBlock) (bool, error) {
			last = place{no: no, block: b}
			if room.block == nil && bucketCapacity-b.live() >= need {
				room = last
			}
			return true, see(b.body())
		})
	})
	if err != nil {
		return err
	}
	if room.block == nil {
		room.no = d.newOverflow()
		room.block = newBucket(d.In.Ino, bucket)
		last.block = bytes.Clone(last.block)
		last.block.setNext(room.no)
		d.B.Put(last.no, last.block)
	} else {
		room.block = bytes.Clone(room.block)
	}
	if !room.block.add(name, ino, pos, typ) {
		return corruptDir(d.In.Ino, bucket, "entries do not add up to the counts")
	}
	d.B.Put(room.no, room.block)
	d.count(1, need)
	return nil
}

// newOverflow takes the number of a fresh overflow block.
func (d *Dir) newOverflow() uint64 {
	h := &d.In.Dir
	no := OverflowBase + h.NextOverflow
	h.NextOverflow++
	h.Overflows++
	d.In.Blocks++
	return no
}

// Remove takes name out. KindNotExist, KindNameTooLong (nothing changed), KindCorrupt.
func (d *Dir) Remove(name string) error {
	if len(name) > NameMax {
		return checkName(name)
	}
	p, err := d.find(name)
	if err != nil {
		return err
	}
	n := d.entry(p).size()
	if p.block == nil {
		d.In.Inline = slices.Concat(d.In.Inline[:p.off], d.In.Inline[p.off+n:])
		d.count(-1, -n)
		return nil
	}
	if p.block.count() < 1 || p.block.live() < n {
		return corruptDir(d.In.Ino, bucketOf(d.base(name), d.In.Dir.Buckets), "entries do not add up to the counts")
	}
	p.block = bytes.Clone(p.block)
	p.block.remove(p.off)
	d.B.Put(p.no, p.block)
	d.count(-1, -n)
	return d.shrink()
}

// shrink merges buckets that became too empty, and moves the entries back into the
// inode when they take less than half of the room there.
func (d *Dir) shrink() error {
	h := &d.In.Dir
	for h.Buckets > 1 && h.LiveBytes < h.Buckets*bucketCapacity/mergeLoad {
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

// checkDirHeader checks the directory header of a decoded inode.
func (in *Inode) checkDirHeader() error {
	h := in.Dir
	if in.Parent == 0 || in.Parent > MaxIno || in.Size != dirSize(h) || h.Entries > h.LiveBytes/entryHeader || h.LiveBytes > 1<<60 {
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
	if h.Overflows == 0 {
		h.NextOverflow = 0
	}
	d.In.Size = dirSize(*h)
	return nil
}

// Iterate calls yield for the entries after cookie (0: from the start), first
// "." and "..", then by position, until yield returns false. An entry present all
// the time is seen exactly once over calls that go on from the last cookie seen, whatever changes
// between them; the directory must not change during a call.
func (d *Dir) Iterate(cookie uint64, yield func(Entry) bool) error {
	dots := [...]Entry{{".", d.In.Ino, modeDir, cookieDot}, {"..", d.In.Parent, modeDir, cookieDotDot}}
	for _, e := range dots {
		if cookie < e.Cookie && !yield(e) {
			return nil
		}
	}
	pos := max(cookie, cookieDotDot) - cookieDotDot // the least position wanted
	var found []Entry
	collect := func(e entryView) bool {
		if e.position() >= pos {
			found = append(found, e.decode())
		}
		return true
	}
	for pos < positionLimit {
		found = found[:0]
		next := positionLimit
		if d.inline() {
			if !entriesOf(d.In.Inline, collect) {
				return corruptInode(d.In.Ino, "directory entries")
			}
		} else {
			bucket := bucketOf(pos, d.In.Dir.Buckets)
			_, next = bucketInterval(bucket, d.In.Dir.Buckets)
			err := d.eachBlock(bucket, func(_ uint64, b bucketBlock) (bool, error) {
				if !entriesOf(b.body(), collect) {
					return false, corruptDir(d.In.Ino, bucket, "entries")
				}
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		slices.SortFunc(found, func(a, b Entry) int { return cmp.Compare(a.Cookie, b.Cookie) })
		for _, e := range found {
			if !yield(e) {
				return nil
			}
		}
		pos = next
	}
	return nil
}
