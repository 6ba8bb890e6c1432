package layout

import (
	"encoding/binary"
	"fmt"
	"strings"

	"dfs/internal/errors"
)

// A bucket block, and likewise an overflow block of its chain, little-endian:
//
//	0  magic "DFSd"   4  version u16   6  live entries u16
//	8  directory's ino u64            16  bucket u64
//	24 next block of the chain u64 (0: none)
//	32 end of the entries u16 (offset in the block)   34 live bytes u16 (without holes and slack)   36 zeros
//	40 entries
//
// An entry; the entries of an inline directory have the same form:
//
//	0  ino u64 (0: a hole)   8  position u64   16  length u16   18  name length u8   19  type u8 (mode >> 12)
//	20 name, padded to a multiple of 4
//
// A removed entry becomes a hole that a later one of at most its length takes, so
// that a change touches few bytes; holes are squeezed out when room is short.
const (
	bucketMagic    = "DFSd"
	bucketVersion  = 1
	bucketHeader   = 40
	bucketCapacity = BlockSize - bucketHeader
	entryHeader    = 20
)

// entrySize is what an entry with a name of n bytes takes.
func entrySize(n int) int { return (entryHeader + n + 3) &^ 3 }

// Entry is one name of a directory.
type Entry struct {
	Name   string
	Ino    uint64
	Type   uint32 // S_IFMT bits of the mode
	Cookie uint64 // resumes an iteration after this entry; stable while the name stays
}

// Cookies: 0 is the start, 1 ".", 2 ".."; the entry at position p has p+cookieBase.
const (
	cookieDot    = 1
	cookieDotDot = 2
	cookieBase   = 3
)

// entryView is an entry in its block.
type entryView []byte

func (e entryView) ino() uint64      { return binary.LittleEndian.Uint64(e) }
func (e entryView) position() uint64 { return binary.LittleEndian.Uint64(e[8:]) }
func (e entryView) name() []byte     { return e[entryHeader : entryHeader+int(e[18])] }
func (e entryView) typ() uint32      { return uint32(e[19]) << 12 }
func (e entryView) size() int        { return entrySize(int(e[18])) } // without slack
func (e entryView) decode() Entry {
	return Entry{string(e.name()), e.ino(), e.typ(), e.position() + cookieBase}
}

// set writes ino and type.
func (e entryView) set(ino uint64, typ uint32) {
	binary.LittleEndian.PutUint64(e, ino)
	e[19] = byte(typ >> 12)
}

// entryAt returns the entry at the head of b (what is left of the entries), checked; nil if it is damaged.
func entryAt(b []byte) entryView {
	if len(b) < entryHeader {
		return nil
	}
	n := int(binary.LittleEndian.Uint16(b[16:]))
	if n%4 != 0 || n < entrySize(int(b[18])) || n > len(b) {
		return nil
	}
	e := entryView(b[:n:n])
	if ino := e.ino(); ino != 0 && (ino > MaxIno || b[18] == 0 || b[19] == 0 || b[19] > 15 || e.position() >= positionLimit) {
		return nil
	}
	return e
}

// writeEntry fills b, whose length becomes the entry's.
func writeEntry(b []byte, name string, ino, pos uint64, typ uint32) {
	binary.LittleEndian.PutUint64(b[8:], pos)
	binary.LittleEndian.PutUint16(b[16:], uint16(len(b)))
	b[18] = byte(len(name))
	entryView(b).set(ino, typ)
	copy(b[entryHeader:], name)
}

// bucketBlock is a bucket or overflow block. Its fields are trusted after checkBucket.
type bucketBlock []byte

func (b bucketBlock) count() int       { return int(binary.LittleEndian.Uint16(b[6:])) }
func (b bucketBlock) next() uint64     { return binary.LittleEndian.Uint64(b[24:]) }
func (b bucketBlock) end() int         { return int(binary.LittleEndian.Uint16(b[32:])) }
func (b bucketBlock) live() int        { return int(binary.LittleEndian.Uint16(b[34:])) }
func (b bucketBlock) body() []byte     { return b[bucketHeader:b.end()] }
func (b bucketBlock) setNext(n uint64) { binary.LittleEndian.PutUint64(b[24:], n) }
func (b bucketBlock) setCounts(count, end, live int) {
	binary.LittleEndian.PutUint16(b[6:], uint16(count))
	binary.LittleEndian.PutUint16(b[32:], uint16(end))
	binary.LittleEndian.PutUint16(b[34:], uint16(live))
}

// newBucket makes an empty block of bucket number bucket of directory ino.
func newBucket(ino, bucket uint64) bucketBlock {
	b := make(bucketBlock, BlockSize)
	copy(b, bucketMagic)
	binary.LittleEndian.PutUint16(b[4:], bucketVersion)
	binary.LittleEndian.PutUint64(b[8:], ino)
	binary.LittleEndian.PutUint64(b[16:], bucket)
	b.setCounts(0, bucketHeader, 0)
	return b
}

// checkBucket checks the header of block as one of bucket number bucket of
// directory ino. The entries are checked as they are walked.
func checkBucket(ino, bucket uint64, block []byte) (bucketBlock, error) {
	le, b := binary.LittleEndian, bucketBlock(block)
	switch {
	case len(block) != BlockSize:
		return nil, corruptDir(ino, bucket, "short block")
	case string(block[:4]) != bucketMagic:
		return nil, errors.New(errors.KindForeign, "directory %d: block of bucket %d is no directory block; run dfs fsck", ino, bucket)
	case le.Uint16(b[4:]) > bucketVersion:
		return nil, errors.New(errors.KindTooNew, "directory %d: bucket %d has format version %d, this binary knows %d: upgrade it",
			ino, bucket, le.Uint16(b[4:]), bucketVersion)
	case le.Uint16(b[4:]) == 0 || le.Uint64(b[8:]) != ino || le.Uint64(b[16:]) != bucket:
		return nil, corruptDir(ino, bucket, "the block is another's")
	case b.end() < bucketHeader || b.end() > BlockSize || b.live() > b.end()-bucketHeader || b.count()*entryHeader > b.live():
		return nil, corruptDir(ino, bucket, "counts out of range")
	case b.next() != 0 && (b.next() < OverflowBase || b.next() >= XattrBase):
		return nil, corruptDir(ino, bucket, "chain leads out of the directory")
	}
	return b, nil
}

// entriesOf calls f for every live entry in body (of a bucket, or inline) until f returns
// false; it reports whether what it walked was well formed.
func entriesOf(body []byte, f func(e entryView) bool) bool {
	for len(body) > 0 {
		e := entryAt(body)
		if e == nil {
			return false
		}
		if e.ino() != 0 && !f(e) {
			return true
		}
		body = body[len(e):]
	}
	return true
}

// findEntry returns the offset in body of name, whose position without its sequence is
// base; -1 if it is not there, -2 if body is damaged.
func findEntry(body []byte, base uint64, name string) int {
	for off := 0; off < len(body); {
		e := entryAt(body[off:])
		if e == nil {
			return -2
		}
		if e.ino() != 0 && e.position()&^sequenceMax == base && string(e.name()) == name {
			return off
		}
		off += len(e)
	}
	return -1
}

// add puts an entry into b if it has room; b is written in place.
func (b bucketBlock) add(name string, ino, pos uint64, typ uint32) bool {
	need := entrySize(len(name))
	if bucketCapacity-b.live() < need {
		return false
	}
	for off := bucketHeader; off < b.end(); {
		e := entryAt(b[off:b.end()])
		if e == nil {
			return false
		}
		if e.ino() == 0 && len(e) >= need {
			writeEntry(e, name, ino, pos, typ) // keeps the hole's length
			b.setCounts(b.count()+1, b.end(), b.live()+need)
			return true
		}
		off += len(e)
	}
	if BlockSize-b.end() < need {
		b.squeeze()
	}
	writeEntry(b[b.end():b.end()+need], name, ino, pos, typ)
	b.setCounts(b.count()+1, b.end()+need, b.live()+need)
	return true
}

// squeeze removes the holes and the slack of entries that took one.
func (b bucketBlock) squeeze() {
	out, count, end := bucketHeader, 0, b.end()
	for off := bucketHeader; off < end; {
		e := entryAt(b[off:end])
		if e == nil {
			break
		}
		off += len(e)
		if e.ino() != 0 {
			n := e.size()
			copy(b[out:], e[:n])
			binary.LittleEndian.PutUint16(b[out+16:], uint16(n))
			out, count = out+n, count+1
		}
	}
	clear(b[out:end])
	b.setCounts(count, out, out-bucketHeader)
}

// remove makes the entry at off (in the block) a hole.
func (b bucketBlock) remove(off int) {
	e := entryAt(b[off:b.end()])
	binary.LittleEndian.PutUint64(e, 0)
	count, end, live := b.count()-1, b.end(), b.live()-e.size()
	if off+len(e) == end {
		end = off
	}
	if count == 0 {
		end, live = bucketHeader, 0
	}
	b.setCounts(count, end, live)
}

// checkName refuses names that no directory may hold.
func checkName(name string) error {
	switch {
	case len(name) > NameMax:
		return errors.New(errors.KindNameTooLong, "name of %d bytes: at most %d are allowed", len(name), NameMax)
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return errors.New(errors.KindInvalid, "%q is no name for a directory entry", name)
	}
	return nil
}

// corruptDir is the error for damage in a directory.
func corruptDir(ino, bucket uint64, format string, args ...any) error {
	return errors.New(errors.KindCorrupt, "directory %d is damaged in bucket %d: %s; run dfs fsck", ino, bucket, fmt.Sprintf(format, args...))
}
