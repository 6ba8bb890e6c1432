package layout

import (
	"bytes"
	"cmp"
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
	// resizeMax bounds the splits or merges of one operation. One keeps the load
	// where it should be; the bound is for headers that are damaged.
	resizeMax = 2
)

// Chains: an insert does not make one longer than chainMax blocks (which takes
// hundreds of thousands of names chosen with the seed known); a reader takes one of more than chainLimit, or with more overflow
// blocks than the directory has, for a loop.
const (
	chainMax   = 1 << 10
	chainLimit = 1 << 12
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

// BucketWidth is about how far apart two names at the two ends of a bucket are, in cookies.
func (d *Dir) BucketWidth() uint64 {
	if d.inline() {
		return positionLimit
	}
	return positionLimit / max(1, d.In.Dir.Buckets)
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
		if steps >= min(d.In.Dir.Overflows, chainLimit) {
			return corruptDir(d.In.Ino, bucket, "its chain of overflow blocks has no end")
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
// (256 names of equal hash, or a chain of chainMax blocks: nothing changed but perhaps the
// move out of the inode), KindCorrupt.
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
	h := &d.In.Dir
	for range resizeMax {
		if h.LiveBytes <= h.Buckets*bucketCapacity/splitLoad {
			break
		}
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
	need, chain := entrySize(len(name)), 0
	var room, last place // the first block with room, and the end of the chain
	pos, err := d.freePosition(name, func(see func([]byte) error) error {
		return d.eachBlock(bucket, func(no uint64, b bucketBlock) (bool, error) {
			last = place{no: no, block: b}
			chain++
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
		if chain >= chainMax {
			return errors.New(errors.KindNoSpace, "directory %d: bucket %d, where %q belongs, is full", d.In.Ino, bucket, name)
		}
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
