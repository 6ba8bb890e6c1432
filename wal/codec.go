package wal

import (
	"encoding/binary"
	"math/bits"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// The encoded record. Integers are little-endian, "uv" is a minimal uvarint.
//
//	 0  u32  magic "dfsR"
//	 4  u16  version (1)
//	 6  u16  zero
//	 8  u32  CRC32C of every byte from 12 to the end
//	12  u32  length of the whole record in bytes
//	16  i64  AllocDelta
//	24  u32  number of extents
//	28  u32  number of trims
//	32  u32  number of zeros
//	36  extents, each: uv vdisk, uv block, u16 offset in block, u32 length, bytes
//	    trims, each:   uv vdisk, uv block, uv count
//	    zeros, each:   uv vdisk, uv block, uv count
//
// An extent is a run of bytes of one vdisk; it may run over the ends of blocks,
// and stands for one Range a block. So 128 consecutive whole blocks cost one
// header, and so does a file written in small pieces. The spans stand behind
// the extents because a running transaction appends extents and knows its spans
// only when it is sealed; they take effect first all the same.
const (
	recordMagic   = 0x52736664 // "dfsR"
	recordVersion = 1

	recordHeaderLen = 36
	checksummedFrom = 12 // the checksum is of what stands from there on
	extentFixedLen  = 6  // offset and length behind the address
)

// BlocksMax is the number of blocks of a vdisk: block numbers are below it.
const BlocksMax = 1 << 52

func uvarintLen(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func extentHeaderLen(a Addr) int {
	return uvarintLen(a.VDisk) + uvarintLen(a.Block) + extentFixedLen
}

func spanLen(s Span) int {
	return uvarintLen(s.VDisk) + uvarintLen(s.Block) + uvarintLen(s.Count)
}

// follows reports whether next begins at the byte at which prev ends.
func follows(prev, next *Range) bool {
	if prev.VDisk != next.VDisk {
		return false
	}
	end := prev.Off + uint32(len(prev.Data))
	if end == BlockSize {
		return next.Off == 0 && next.Block == prev.Block+1
	}
	return next.Block == prev.Block && next.Off == end
}

// EncodedSize is the number of bytes that AppendTo adds.
func (r *Record) EncodedSize() int {
	n := recordHeaderLen
	for i := range r.Ranges {
		g := &r.Ranges[i]
		if i == 0 || !follows(&r.Ranges[i-1], g) {
			n += extentHeaderLen(g.Addr)
		}
		n += len(g.Data)
	}
	for _, s := range r.Trims {
		n += spanLen(s)
	}
	for _, s := range r.Zeros {
		n += spanLen(s)
	}
	return n
}

// Validate tells whether the record can be encoded: KindInvalid for a range or
// span outside of its bounds, KindTooBig for a record above RecordBytesMax.
func (r *Record) Validate() error {
	for i := range r.Ranges {
		g := &r.Ranges[i]
		if g.Block >= BlocksMax || len(g.Data) == 0 || len(g.Data) > BlockSize || int(g.Off)+len(g.Data) > BlockSize {
			return errors.New(errors.KindInvalid, "wal: range %d (vdisk %d block %d offset %d length %d) does not lie inside a block; this is a defect of the caller",
				i, g.VDisk, g.Block, g.Off, len(g.Data))
		}
	}
	for _, list := range [2][]Span{r.Trims, r.Zeros} {
		for _, s := range list {
			if !validSpan(s) {
				return errors.New(errors.KindInvalid, "wal: span (vdisk %d block %d count %d) does not lie inside a vdisk; this is a defect of the caller",
					s.VDisk, s.Block, s.Count)
			}
		}
	}
	if n := r.EncodedSize(); n > RecordBytesMax {
		return errors.New(errors.KindTooBig, "wal: a record of %d bytes is above the maximum of %d; make the change in steps", n, RecordBytesMax)
	}
	return nil
}

func validSpan(s Span) bool {
	return s.Count > 0 && s.Block < BlocksMax && s.Count <= BlocksMax-s.Block
}

// AppendTo appends the encoded record to buf and returns the longer slice. The
// record must be valid (see Validate).
func (r *Record) AppendTo(buf []byte) []byte {
	start := len(buf)
	buf = append(buf, make([]byte, recordHeaderLen)...)
	extents := uint32(0)
	for i := 0; i < len(r.Ranges); {
		n, size := i+1, len(r.Ranges[i].Data)
		for n < len(r.Ranges) && follows(&r.Ranges[n-1], &r.Ranges[n]) {
			size += len(r.Ranges[n].Data)
			n++
		}
		buf = appendExtentHeader(buf, r.Ranges[i].Addr, r.Ranges[i].Off, uint32(size))
		for ; i < n; i++ {
			buf = append(buf, r.Ranges[i].Data...)
		}
		extents++
	}
	buf = appendSpans(buf, r.Trims)
	buf = appendSpans(buf, r.Zeros)
	putRecordHeader(buf[start:], r.AllocDelta, extents, uint32(len(r.Trims)), uint32(len(r.Zeros)))
	return buf
}

func appendExtentHeader(buf []byte, a Addr, off, size uint32) []byte {
	buf = binary.AppendUvarint(buf, a.VDisk)
	buf = binary.AppendUvarint(buf, a.Block)
	buf = binary.LittleEndian.AppendUint16(buf, uint16(off))
	return binary.LittleEndian.AppendUint32(buf, size)
}

func appendSpans(buf []byte, list []Span) []byte {
	for _, s := range list {
		buf = binary.AppendUvarint(buf, s.VDisk)
		buf = binary.AppendUvarint(buf, s.Block)
		buf = binary.AppendUvarint(buf, s.Count)
	}
	return buf
}

// putRecordHeader fills the header of b, a whole record otherwise complete.
func putRecordHeader(b []byte, allocDelta int64, extents, trims, zeros uint32) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], recordMagic)
	le.PutUint16(b[4:], recordVersion)
	le.PutUint16(b[6:], 0)
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint64(b[16:], uint64(allocDelta))
	le.PutUint32(b[24:], extents)
	le.PutUint32(b[28:], trims)
	le.PutUint32(b[32:], zeros)
	le.PutUint32(b[8:], crc.Checksum(b[checksummedFrom:]))
}

// DecodeRecord decodes b, which holds one record and nothing else. The Data of
// the ranges alias b: it must not change while the record is in use. The ranges
// of one extent lie behind each other in b (see JoinRun). Errors: KindForeign
// (no record), KindTooNew, KindCorrupt. It never panics and allocates in
// proportion to len(b). The bytes of whole blocks are summed once, for the record and for Range.Sum.
func DecodeRecord(b []byte) (*Record, error) {
	if err := checkRecordHeader(b); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	extents, trims, zeros := le.Uint32(b[24:]), le.Uint32(b[28:]), le.Uint32(b[32:])
	c := &cursor{b: b, at: recordHeaderLen}
	n := countRanges(c, extents)
	spansAt := c.at
	// A span takes three bytes or more, so no count can make us allocate much.
	if c.bad || uint64(trims)+uint64(zeros) > uint64(len(b)-spansAt)/3 {
		return nil, errors.New(errors.KindCorrupt, "wal: damaged record: its extents do not fit its %d bytes", len(b))
	}
	c.summed = checksummedFrom
	r := &Record{AllocDelta: int64(le.Uint64(b[16:]))}
	if n > 0 {
		r.Ranges = make([]Range, 0, n)
		c.at = recordHeaderLen
		for range extents {
			r.Ranges = c.ranges(r.Ranges)
		}
	}
	r.Trims = c.spans(trims)
	r.Zeros = c.spans(zeros)
	if c.bad || c.at != len(b) {
		return nil, errors.New(errors.KindCorrupt, "wal: damaged record: its spans do not fit its %d bytes", len(b))
	}
	if got, want := crc.Update(c.sum, b[c.summed:]), le.Uint32(b[8:]); got != want {
		return nil, errors.New(errors.KindCorrupt, "wal: damaged record: checksum %08x, expected %08x", got, want)
	}
	return r, nil
}

func checkRecordHeader(b []byte) error {
	le := binary.LittleEndian
	if len(b) < 8 || le.Uint32(b) != recordMagic {
		return errors.New(errors.KindForeign, "wal: %d bytes that are not a record (no magic)", len(b))
	}
	v := le.Uint16(b[4:])
	if v > recordVersion {
		return errors.New(errors.KindTooNew, "wal: a record of version %d; this binary knows versions up to %d: upgrade it", v, recordVersion)
	}
	if v == 0 || le.Uint16(b[6:]) != 0 || len(b) < recordHeaderLen || len(b) > RecordBytesMax || uint64(le.Uint32(b[12:])) != uint64(len(b)) {
		return errors.New(errors.KindCorrupt, "wal: damaged record: its header does not fit its %d bytes", len(b))
	}
	return nil
}

// countRanges walks the extents, checks them, and returns how many ranges they are.
func countRanges(c *cursor, extents uint32) int {
	n := 0
	for i := uint32(0); i < extents && !c.bad; i++ {
		_, off, size := c.extent()
		n += (int(off) + int(size) + BlockSize - 1) / BlockSize
	}
	return n
}

// cursor reads b from at on; bad is set, and stays, at the first thing that
// does not fit. sum is the checksum of what comes before summed.
type cursor struct {
	b      []byte
	at     int
	bad    bool
	sum    uint32
	summed int
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b[c.at:])
	if n <= 0 || n != uvarintLen(v) {
		c.bad = true
		return 0
	}
	c.at += n
	return v
}

// extent reads a header and steps over its bytes, which end at c.at.
func (c *cursor) extent() (a Addr, off, size uint32) {
	a = Addr{VDisk: c.uvarint(), Block: c.uvarint()}
	if c.bad || len(c.b)-c.at < extentFixedLen {
		c.bad = true
		return a, 0, 0
	}
	off = uint32(binary.LittleEndian.Uint16(c.b[c.at:]))
	size = binary.LittleEndian.Uint32(c.b[c.at+2:])
	c.at += extentFixedLen
	if size == 0 || off >= BlockSize || uint64(size) > uint64(len(c.b)-c.at) ||
		a.Block >= BlocksMax || (uint64(off)+uint64(size)+BlockSize-1)/BlockSize > BlocksMax-a.Block {
		c.bad = true
		return a, 0, 0
	}
	c.at += int(size)
	return a, off, size
}

// ranges reads an extent and appends its ranges, one a block.
func (c *cursor) ranges(to []Range) []Range {
	a, off, size := c.extent()
	if c.bad {
		return to
	}
	data := c.b[c.at-int(size) : c.at : c.at]
	for len(data) > 0 {
		n := min(BlockSize-int(off), len(data))
		r := Range{Addr: a, Off: off, Data: data[:n]}
		if n == BlockSize {
			r.Sum = c.block(c.at - len(data))
		}
		to = append(to, r)
		data, off = data[n:], 0
		a.Block++
	}
	return to
}

// block sums the whole block at at, and takes that into the sum of all.
func (c *cursor) block(at int) uint32 {
	s := crc.Checksum(c.b[at : at+BlockSize])
	c.sum = crc.Join(crc.Update(c.sum, c.b[c.summed:at]), s)
	c.summed = at + BlockSize
	return s
}

func (c *cursor) spans(n uint32) []Span {
	if n == 0 || c.bad {
		return nil
	}
	list := make([]Span, 0, n)
	for range n {
		s := Span{VDisk: c.uvarint(), Block: c.uvarint(), Count: c.uvarint()}
		if c.bad || !validSpan(s) {
			c.bad = true
			return nil
		}
		list = append(list, s)
	}
	return list
}
