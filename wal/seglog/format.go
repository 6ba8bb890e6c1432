package seglog

import (
	"bytes"
	"encoding/binary"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// Block is the unit of writing, in bytes: groups begin at multiples of it.
const Block = 4096

// Version is the format version that this package writes.
const Version = 1

const (
	headerBytes    = 512 // one sector: a header is never half written on real disks
	groupHeadBytes = 64
	tableEntry     = 8
	groupMagic     = 0x67727031 // "grp1"
)

var (
	segMagic = [8]byte{'d', 'f', 's', 'S', 'E', 'G', 'L', 'G'}
	le       = binary.LittleEndian
)

// header is what block 0 of a segment holds.
//
//	 0  magic "dfsSEGLG"      40  first index (0: the log was empty, any may follow)
//	 8  version u32           48  first index of the log
//	12  flags u32             56  number of the segment before (0: none, older ones are void)
//	16  segment number u64    64  where its groups end
//	24  salt u64              72  its chain there u32
//	32  segment bytes u64    508  CRC32C of bytes 0..507, at this place in every version
type header struct {
	seq       uint64
	salt      uint64
	segBytes  uint64
	first     uint64
	logFirst  uint64
	prevSeq   uint64
	prevEnd   uint64
	prevChain uint32
	filled    bool // every block was written before this use
	noted     bool // a file newest-<n> is kept
}

// The flags of a header. Those that are not known are not looked at.
const (
	flagFilled = 1 // every block was written before this use
	flagNoted  = 2 // the directory has a file newest-<n>
)

// encode fills dst, of at least headerBytes, and returns the initial chain.
func (h *header) encode(dst []byte) uint32 {
	clear(dst)
	copy(dst, segMagic[:])
	le.PutUint32(dst[8:], Version)
	flags := uint32(0)
	if h.filled {
		flags |= flagFilled
	}
	if h.noted {
		flags |= flagNoted
	}
	le.PutUint32(dst[12:], flags)
	le.PutUint64(dst[16:], h.seq)
	le.PutUint64(dst[24:], h.salt)
	le.PutUint64(dst[32:], h.segBytes)
	le.PutUint64(dst[40:], h.first)
	le.PutUint64(dst[48:], h.logFirst)
	le.PutUint64(dst[56:], h.prevSeq)
	le.PutUint64(dst[64:], h.prevEnd)
	le.PutUint32(dst[72:], h.prevChain)
	sum := crc.Checksum(dst[:headerBytes-4])
	le.PutUint32(dst[headerBytes-4:], sum)
	return sum
}

// decodeHeader reads a header; name is for the error texts. The errors are
// KindForeign, KindCorrupt, KindTooNew.
func decodeHeader(name string, src []byte) (header, uint32, error) {
	var h header
	if len(src) < headerBytes || !bytes.Equal(src[:8], segMagic[:]) {
		return h, 0, errors.New(errors.KindForeign, "%s is not a log segment of dfs (wrong magic): remove it from the log's directory if it is not a damaged segment", name)
	}
	sum := crc.Checksum(src[:headerBytes-4])
	if sum != le.Uint32(src[headerBytes-4:]) {
		return h, 0, errors.New(errors.KindCorrupt, "log segment %s: header checksum does not fit (offset 0): this replica's log is damaged, fetch it anew from the others", name)
	}
	if v := le.Uint32(src[8:]); v != Version {
		return h, 0, errors.New(errors.KindTooNew, "log segment %s has format version %d, this binary knows %d: use a newer binary", name, v, Version)
	}
	h = header{
		seq: le.Uint64(src[16:]), salt: le.Uint64(src[24:]), segBytes: le.Uint64(src[32:]),
		first: le.Uint64(src[40:]), logFirst: le.Uint64(src[48:]),
		prevSeq: le.Uint64(src[56:]), prevEnd: le.Uint64(src[64:]), prevChain: le.Uint32(src[72:]),
		filled: le.Uint32(src[12:])&flagFilled != 0, noted: le.Uint32(src[12:])&flagNoted != 0,
	}
	if h.segBytes < 2*Block || h.segBytes > segmentBytesLimit || h.segBytes%Block != 0 || h.prevSeq >= h.seq {
		return h, 0, errors.New(errors.KindCorrupt, "log segment %s: header makes no sense (%d bytes, segment %d after %d)", name, h.segBytes, h.seq, h.prevSeq)
	}
	return h, sum, nil
}

// groupHead begins a group. Its table follows: per entry, length u32 and CRC32C
// u32 of the bytes (seeded by salt and index).
//
//	 0  magic u32                          32  first index of the log u64
//	 4  CRC32C of bytes 8..64+8*count u32  40  count u32
//	 8  salt u64                           44  chain: CRC (at 4) of the group before u32
//	16  position in the segment u64        48  bytes of all entries u64
//	24  index of the first entry u64       56  zero u64
type groupHead struct {
	pos      uint64
	first    uint64 // count 0: the next index, 0 if any
	logFirst uint64
	count    uint32
	chain    uint32
	body     uint64
	crc      uint32
}

func (g *groupHead) metaBytes() int64 { return groupHeadBytes + int64(g.count)*tableEntry }

// span is the bytes the group takes in the segment, padding included.
func (g *groupHead) span() int64 { return alignUp(g.metaBytes() + int64(g.body)) }

// seal writes the head over dst, whose table is filled in already, and returns
// the checksum, which is the chain value for the next group.
func (g *groupHead) seal(dst []byte, salt uint64) uint32 {
	le.PutUint32(dst, groupMagic)
	le.PutUint64(dst[8:], salt)
	le.PutUint64(dst[16:], g.pos)
	le.PutUint64(dst[24:], g.first)
	le.PutUint64(dst[32:], g.logFirst)
	le.PutUint32(dst[40:], g.count)
	le.PutUint32(dst[44:], g.chain)
	le.PutUint64(dst[48:], g.body)
	le.PutUint64(dst[56:], 0)
	g.crc = crc.Checksum(dst[8:g.metaBytes()])
	le.PutUint32(dst[4:], g.crc)
	return g.crc
}

// parseGroup reads the fixed part of a group head at position pos of a segment
// of segBytes with salt; ok is false if this cannot be one of this use. The
// checksum is not checked yet (checkGroup), but the sizes are within bounds.
func parseGroup(src []byte, salt, pos, segBytes uint64) (g groupHead, ok bool) {
	if len(src) < groupHeadBytes || le.Uint32(src) != groupMagic || le.Uint64(src[8:]) != salt || le.Uint64(src[16:]) != pos {
		return g, false
	}
	g = groupHead{
		pos: pos, first: le.Uint64(src[24:]), logFirst: le.Uint64(src[32:]),
		count: le.Uint32(src[40:]), chain: le.Uint32(src[44:]), body: le.Uint64(src[48:]), crc: le.Uint32(src[4:]),
	}
	room := segBytes - pos // pos < segBytes by the caller
	if g.body > room || uint64(g.metaBytes()) > room || uint64(g.metaBytes())+g.body > room {
		return g, false
	}
	return g, true
}

// checkGroup verifies head and table; meta holds at least g.metaBytes().
func checkGroup(g *groupHead, meta []byte) bool {
	if crc.Checksum(meta[8:g.metaBytes()]) != g.crc {
		return false
	}
	var sum uint64
	for i := range int(g.count) {
		sum += uint64(le.Uint32(meta[groupHeadBytes+i*tableEntry:]))
	}
	return sum == g.body && g.first+uint64(g.count) >= g.first && (g.count == 0 || g.first > 0)
}

// entrySeed starts the checksum of the entry at index.
func entrySeed(salt, index uint64) uint32 {
	var b [16]byte
	le.PutUint64(b[:], salt)
	le.PutUint64(b[8:], index)
	return crc.Update(0, b[:])
}

func entryCRC(salt, index uint64, data []byte) uint32 {
	return crc.Update(entrySeed(salt, index), data)
}

func alignUp(n int64) int64   { return (n + Block - 1) &^ (Block - 1) }
func alignDown(n int64) int64 { return n &^ (Block - 1) }
