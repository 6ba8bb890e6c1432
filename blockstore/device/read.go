package device

import (
	"crypto/sha256"
	"math"
	"math/bits"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/pagemem"
	"dfs/wal"
)

// BadBlock is blockstore's.
type BadBlock = blockstore.BadBlock

// PresenceMax is the greatest Count of a Presence call.
const PresenceMax = 1 << 20

func checkSpan(s wal.Span, countMax uint64, present []byte) error {
	if !spanValid(s) || s.Count > countMax {
		return errors.New(errors.KindInvalid, "device: cannot read %d blocks from %d on", s.Count, s.Block)
	}
	if uint64(len(present)) < (s.Count+7)/8 {
		return errors.New(errors.KindInvalid, "device: %d bytes cannot tell the presence of %d blocks", len(present), s.Count)
	}
	return nil
}

// Read reads span into dst (its bytes exactly) and checks every block; absent ones are zeros. present gets a bit for
// each block, LSB first. Each chunk is read as of one index; blocks that do not fit are in
// bad, in order, and their bytes in dst undefined.
func (d *Device) Read(span wal.Span, dst, present []byte) (bad []BadBlock, err error) {
	if err := checkSpan(span, uint64(len(dst)/blockSize), present); err != nil {
		return nil, err
	}
	if uint64(len(dst)) != span.Count*blockSize {
		return nil, errors.New(errors.KindInvalid, "device: a read of %d blocks into %d bytes", span.Count, len(dst))
	}
	if err := d.enterComplete(); err != nil {
		return nil, err
	}
	defer d.leave()
	clear(present)
	if span.Count == 0 {
		return nil, nil
	}
	lo, hi := chunkSpan(span)
	for n, done := lo, 0; n <= hi; n++ {
		p := pieceIn(span, n)
		b, err := d.readPiece(p, dst[done*blockSize:(done+p.hi-p.lo)*blockSize], present, done)
		if err != nil {
			return nil, err
		}
		bad = append(bad, b...)
		done += p.hi - p.lo
	}
	return bad, nil
}

// readPiece reads p into dst and, if present is not nil, sets its bits from bit `from` on.
func (d *Device) readPiece(p piece, dst, present []byte, from int) ([]BadBlock, error) {
	v, err := d.readView(p, dst, false)
	if err != nil {
		return nil, err
	}
	bad := v.check(dst)
	if present != nil {
		for i := range v.sums[:p.hi-p.lo] {
			if v.sums[i] != sumAbsent {
				present[(from+i)/8] |= 1 << ((from + i) % 8)
			}
		}
	}
	return bad, nil
}

// view is a piece as it was at one moment: what its checksums said while its data was read.
type view struct {
	p      piece
	last   uint64
	sums   [largeBlocks]uint32 // entry i is slot p.lo+i
	failed [largeBlocks]bool   // the disk could not read it, or its absence is in doubt
}

// readView reads the data of p into dst under the chunk's lock. What is absent becomes zeros.
func (d *Device) readView(p piece, dst []byte, medium bool) (*view, error) {
	c, err := d.lockShared(p.id)
	if err != nil {
		return nil, err
	}
	defer d.unlockShared(c)
	v := &view{p: p, last: c.entry.last}
	first, end, written := p.hi-p.lo, 0, false
	if c.entry.win != noWindow {
		for i := range p.hi - p.lo {
			if v.sums[i] = sumAt(c.sums, p.lo+i); v.sums[i] != sumAbsent {
				first, end = min(first, i), i+1
				written = written || c.late.data[p.lo+i] == nil
			} else {
				v.failed[i] = c.doubts(p.lo + i)
			}
		}
	}
	if first >= end {
		clear(dst)
		return v, nil
	}
	clear(dst[:first*blockSize])
	clear(dst[end*blockSize:])
	f, at, err := d.files.data(c.entry.win)
	if err != nil {
		return nil, err
	}
	read := f.readAt
	if medium {
		read = f.readMedium
	}
	at += int64(p.lo) * blockSize
	if written {
		err = read(dst[first*blockSize:end*blockSize], at+int64(first)*blockSize)
	}
	if err != nil && !mediumError(err) {
		return nil, err
	}
	for i := first; i < end; i++ {
		own := dst[i*blockSize : (i+1)*blockSize]
		switch {
		case v.sums[i] == sumAbsent:
			clear(own)
		case c.late.data[p.lo+i] != nil:
			copy(own, c.late.data[p.lo+i])
		case err != nil: // one of them cannot be read: find out which
			if e := read(own, at+int64(i)*blockSize); mediumError(e) {
				v.failed[i] = true
			} else if e != nil {
				return nil, e
			}
		}
	}
	return v, nil
}

// check compares dst, which readView filled, with the checksums.
func (v *view) check(dst []byte) (bad []BadBlock) {
	block := chunkFirst(v.p.id.Chunk) + uint64(v.p.lo)
	for i := range v.p.hi - v.p.lo {
		if v.sums[i] == sumAbsent && !v.failed[i] {
			continue
		}
		f := unfit
		if !v.failed[i] {
			f = compareSum(v.sums[i], blockSum(v.p.id.VDisk, block+uint64(i), dst[i*blockSize:(i+1)*blockSize]))
		}
		if f != fits {
			bad = append(bad, BadBlock{
				Addr:      wal.Addr{VDisk: v.p.id.VDisk, Block: block + uint64(i)},
				LastIndex: v.last, Suspect: f == fitsInPart, Sum: v.sums[i],
			})
		}
	}
	return bad
}

// Fits tells whether data is what a damaged block held when its checksum was made: that is as good a judgement as the check of a read. Of a
// block that was changed in part after it had rotted, the sum that it ought to have is known while the device is open (suspects.go).
func (d *Device) Fits(bad BadBlock, data []byte) bool {
	want := bad.Sum
	if bad.Suspect {
		id := chunkOf(bad.VDisk, bad.Block)
		want = d.suspects.whole(id, int(bad.Block-chunkFirst(id.Chunk)))
	}
	return want != sumAbsent && len(data) == blockSize && compareSum(want, blockSum(bad.VDisk, bad.Block, data)) == fits
}

// SkipAbsent returns the first block at or after block that may be present: no block before it is, from block on. MaxUint64
// if there is none.
func (d *Device) SkipAbsent(vdisk, block uint64) (uint64, error) {
	if err := d.enterComplete(); err != nil {
		return 0, err
	}
	defer d.leave()
	there, err := d.list(chunkOf(vdisk, block), blockstore.ChunkID{VDisk: vdisk, Chunk: chunkMax}, 1)
	if err != nil {
		return 0, err
	}
	if len(there) == 0 {
		return math.MaxUint64, nil
	}
	return max(block, chunkFirst(there[0].id.Chunk)), nil
}

// Presence sets a bit of present for each block of span (at most PresenceMax) that is present, LSB first. KindCorrupt
// where checksums were lost (doubt.go).
func (d *Device) Presence(span wal.Span, present []byte) error {
	if err := checkSpan(span, PresenceMax, present); err != nil {
		return err
	}
	if err := d.enterComplete(); err != nil {
		return err
	}
	defer d.leave()
	clear(present)
	if span.Count == 0 {
		return nil
	}
	lo, hi := chunkSpan(span)
	there, err := d.list(blockstore.ChunkID{VDisk: span.VDisk, Chunk: lo}, blockstore.ChunkID{VDisk: span.VDisk, Chunk: hi}, int(hi-lo+1))
	if err != nil {
		return err
	}
	for _, l := range there {
		p := pieceIn(span, l.id.Chunk)
		c, err := d.lockShared(l.id)
		if err != nil {
			return err
		}
		if c.doubt != nil {
			d.unlockShared(c)
			return errors.New(errors.KindCorrupt, "which blocks of chunk %d of vdisk %d are present is in doubt here: ask another replica, and repair this one", p.id.Chunk, p.id.VDisk)
		}
		if c.entry.win != noWindow {
			at := int(chunkFirst(l.id.Chunk) + uint64(p.lo) - span.Block)
			for slot := p.lo; slot < p.hi; slot++ {
				if sumAt(c.sums, slot) != sumAbsent {
					i := at + slot - p.lo
					present[i/8] |= 1 << (i % 8)
				}
			}
		}
		d.unlockShared(c)
	}
	return nil
}

// ReadChunk returns a chunk's content, checked. Bad blocks are left out of it and listed. A chunk that
// is not there has no present block and LastIndex 0.
func (d *Device) ReadChunk(id blockstore.ChunkID) (blockstore.ChunkData, []BadBlock, error) {
	if err := d.enterComplete(); err != nil {
		return blockstore.ChunkData{}, nil, err
	}
	defer d.leave()
	return d.readChunk(id, false)
}

func (d *Device) readChunk(id blockstore.ChunkID, medium bool) (blockstore.ChunkData, []BadBlock, error) {
	if id.Chunk > chunkMax {
		return blockstore.ChunkData{}, nil, errors.New(errors.KindInvalid, "device: there is no chunk %d", id.Chunk)
	}
	n := chunkBlocks(id.Chunk)
	buf := pagemem.Make(n * blockSize)
	v, err := d.readView(piece{id: id, hi: n}, buf, medium)
	if err != nil {
		return blockstore.ChunkData{}, nil, err
	}
	bad := v.check(buf)
	c := blockstore.ChunkData{Present: make([]byte, (n+7)/8)}
	c.ChunkID, c.LastIndex = id, v.last
	keep, skip := 0, bad
	for i := range n {
		if len(skip) > 0 && skip[0].Block == chunkFirst(id.Chunk)+uint64(i) {
			skip = skip[1:]
			continue
		}
		if v.sums[i] == sumAbsent {
			continue
		}
		c.Present[i/8] |= 1 << (i % 8)
		if keep != i {
			copy(buf[keep*blockSize:], buf[i*blockSize:(i+1)*blockSize])
		}
		keep++
	}
	c.Data = buf[:keep*blockSize]
	return c, bad, nil
}

// ChunkHash returns a hash of a chunk's presence and data, the same on every replica whose chunk
// has the same content, and the chunk's last index. KindCorrupt if a block of it is bad.
func (d *Device) ChunkHash(id blockstore.ChunkID) (hash [32]byte, last uint64, err error) {
	c, bad, err := d.ReadChunk(id)
	if err != nil {
		return hash, 0, err
	}
	if len(bad) > 0 {
		return hash, 0, errors.New(errors.KindCorrupt, "block %d of vdisk %d is damaged here: let the scrubber repair it first", bad[0].Block, bad[0].VDisk)
	}
	h := sha256.New()
	h.Write(c.Present)
	h.Write(c.Data)
	h.Sum(hash[:0])
	return hash, c.LastIndex, nil
}

// countBits counts the bits set in b.
func countBits(b []byte) int {
	n := 0
	for _, x := range b {
		n += bits.OnesCount8(x)
	}
	return n
}
