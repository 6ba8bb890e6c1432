package device

import (
	stderrors "errors"
	"slices"
	"syscall"

	"dfs/blockstore"
	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/internal/pagemem"
	"dfs/wal"
)

// probeMax: a trim of at most so many chunks asks for each; a longer one lists those there are.
const probeMax = 8

// listPage is how many chunks a long trim takes from the map at a time.
const listPage = 8192

// Apply redoes rec as of log index, which must be above Applied. Long runs may be on their way to the disk still when it
// returns: reads wait for them, and so does the next checkpoint. After an error the device is dead. rec is not kept.
func (d *Device) Apply(index uint64, rec *wal.Record) error {
	if err := d.enterComplete(); err != nil {
		return err
	}
	defer d.leave()
	if at := d.applied.Load(); index <= at {
		return d.fail("apply", errors.New(errors.KindInvalid, "log entry %d given after %d", index, at))
	}
	if err := checkRecord(rec); err != nil {
		return d.fail("apply", errors.New(errors.KindInvalid, "log entry %d: %w", index, err))
	}
	if err := d.apply(index, rec); err != nil {
		return d.fail("apply", errors.New(errors.KindOf(err), "log entry %d: %w", index, err))
	}
	d.applied.Store(index)
	return nil
}

func checkRecord(rec *wal.Record) error {
	for _, spans := range [][]wal.Span{rec.Trims, rec.Zeros} {
		for _, s := range spans {
			if !spanValid(s) {
				return errors.New(errors.KindInvalid, "span of %d blocks from %d on ends beyond the last block", s.Count, s.Block)
			}
		}
	}
	for i := range rec.Ranges {
		r := &rec.Ranges[i]
		if len(r.Data) == 0 || len(r.Data) > blockSize || r.Off > blockSize-uint32(len(r.Data)) {
			return errors.New(errors.KindInvalid, "range of %d bytes at %d does not lie in a block", len(r.Data), r.Off)
		}
	}
	return nil
}

func (d *Device) apply(index uint64, rec *wal.Record) error {
	for _, s := range rec.Trims {
		if err := d.trim(index, s); err != nil {
			return err
		}
	}
	for _, s := range rec.Zeros {
		if s.Count == 0 {
			continue
		}
		lo, hi := chunkSpan(s)
		for n := lo; n <= hi; n++ {
			if err := d.zeroPiece(index, pieceIn(s, n)); err != nil {
				return err
			}
		}
	}
	rs := d.batch.group(rec.Ranges)
	defer clear(d.batch.sorted) // keep nothing of the record
	for len(rs) > 0 {
		id, n := chunkOf(rs[0].VDisk, rs[0].Block), 1
		for n < len(rs) && chunkOf(rs[n].VDisk, rs[n].Block) == id {
			n++
		}
		if err := d.write(index, id, rs[:n]); err != nil {
			return err
		}
		if err := d.writeLateDown(d.late.max); err != nil { // not once for all: a record can change parts of thousands of blocks
			return err
		}
		rs = rs[n:]
	}
	return nil
}

// trim costs by the chunks that are there, not by the length of s.
func (d *Device) trim(index uint64, s wal.Span) error {
	if s.Count == 0 {
		return nil
	}
	lo, hi := chunkSpan(s)
	if hi-lo < probeMax {
		for n := lo; n <= hi; n++ {
			if err := d.trimPiece(index, pieceIn(s, n)); err != nil {
				return err
			}
		}
		return nil
	}
	last := blockstore.ChunkID{VDisk: s.VDisk, Chunk: hi}
	for from := (blockstore.ChunkID{VDisk: s.VDisk, Chunk: lo}); ; {
		page, err := d.list(from, last, listPage)
		if err != nil {
			return err
		}
		for _, l := range page {
			if err := d.trimPiece(index, pieceIn(s, l.id.Chunk)); err != nil {
				return err
			}
		}
		if len(page) < listPage || page[len(page)-1].id == last {
			return nil
		}
		from.Chunk = page[len(page)-1].id.Chunk + 1
	}
}

func (d *Device) trimPiece(index uint64, p piece) error {
	if p.whole() {
		return d.dropChunk(p.id)
	}
	c, err := d.lockAhead(p.id, 0, largeBlocks)
	if err != nil {
		return err
	}
	defer d.unlock(c)
	if c.entry.win == noWindow {
		return nil
	}
	d.dropLate(c, p.lo, p.hi)
	for slot := p.lo; slot < p.hi; slot++ {
		if sumAt(c.sums, slot) != sumAbsent {
			setSumAt(c.sums, slot, sumAbsent)
			c.present--
		}
		d.suspects.forget(c.id, slot)
	}
	if c.present == 0 && (c.truly() == 0 || !d.redone.Load()) {
		d.drop(c)
		return nil
	}
	if err := d.writeSums(c, p.lo, p.hi); err != nil {
		return err
	}
	if err := d.punch(c, p.lo, p.hi); err != nil {
		return err
	}
	d.setEntry(c, index)
	return nil
}

func (d *Device) zeroPiece(index uint64, p piece) error {
	c, err := d.lockAhead(p.id, 0, largeBlocks)
	if err != nil {
		return err
	}
	defer d.unlock(c)
	fresh, err := d.ensureWindow(c)
	if err != nil {
		return err
	}
	d.dropLate(c, p.lo, p.hi)
	round := d.double.round.Load()
	first := chunkFirst(p.id.Chunk)
	for slot := p.lo; slot < p.hi; slot++ {
		if sumAt(c.sums, slot) == sumAbsent {
			c.present++
		}
		setSumAt(c.sums, slot, blockSum(p.id.VDisk, first+uint64(slot), zeroBlock[:]))
		d.suspects.forget(c.id, slot)
		c.setSafe(slot, round)
	}
	if err := d.writeSums(c, p.lo, p.hi); err != nil {
		return err
	}
	if !fresh { // even where nothing is present: a crash may have left bytes there
		if err := d.punch(c, p.lo, p.hi); err != nil {
			return err
		}
	}
	d.setEntry(c, index)
	return nil
}

var zeroBlock [blockSize]byte

// batch is the scratch of write: the new content of the slots of one chunk.
type batch struct {
	data  [largeBlocks][]byte // nil: not changed. The record's bytes, or a part of arena
	crc   [largeBlocks]uint32 // of data, if the record brought it; 0: unknown
	state [largeBlocks]fit    // how the block fitted before a change of a part of it
	was   [largeBlocks]uint32 // where it did not: the sum of what it held before
	whole [largeBlocks]bool   // the record has all of the block
	late  [largeBlocks]bool   // it is not written now
	arena []byte              // block s of it is slot s's
	bufs  [][]byte

	sorted []wal.Range // the record's ranges in order of chunks
}

// group returns rs with the ranges of each chunk together, in their order. (Changes of different chunks do not meet.)
// So a block that a record changes in several places is read, summed and written once.
func (b *batch) group(rs []wal.Range) []wal.Range {
	byChunk := func(x, y wal.Range) int {
		return compareIDs(chunkOf(x.VDisk, x.Block), chunkOf(y.VDisk, y.Block))
	}
	if slices.IsSortedFunc(rs, byChunk) {
		return rs
	}
	b.sorted = append(b.sorted[:0], rs...)
	slices.SortStableFunc(b.sorted, byChunk)
	return b.sorted
}

// write applies rs, which all lie in chunk id, in order.
func (d *Device) write(index uint64, id blockstore.ChunkID, rs []wal.Range) error {
	first := chunkFirst(id.Chunk)
	lo, hi := largeBlocks, 0
	for i := range rs {
		slot := int(rs[i].Block - first)
		lo, hi = min(lo, slot), max(hi, slot+1)
	}
	c, err := d.lockAhead(id, lo, hi)
	if err != nil {
		return err
	}
	defer d.unlock(c)
	if _, err := d.ensureWindow(c); err != nil {
		return err
	}
	b := &d.batch
	defer b.reset()
	for i := range rs {
		if err := d.stage(c, int(rs[i].Block-first), &rs[i]); err != nil {
			return err
		}
	}
	round := d.double.round.Load()
	changed := 0
	for slot := lo; slot < hi; slot++ {
		if b.data[slot] == nil {
			continue
		}
		d.sealSlot(c, slot)
		changed++
		if b.whole[slot] {
			c.setSafe(slot, round)
		}
	}
	small := changed <= lateRun && changed*blockSize < d.behind.min
	for slot := lo; slot < hi; slot++ {
		b.late[slot] = b.data[slot] != nil && (small || !b.whole[slot])
	}
	d.putLate(c, lo, hi)
	if !small {
		if err := d.writeNow(c, lo, hi); err != nil {
			return err
		}
	}
	d.setEntry(c, index)
	return nil
}

// reset forgets the content.
func (b *batch) reset() {
	clear(b.data[:])
	clear(b.whole[:])
	clear(b.late[:])
}

// writeNow writes the batch's blocks of slots [lo, hi) of c that are not late. c is locked alone; long runs go behind.
func (d *Device) writeNow(c *chunk, lo, hi int) error {
	b := &d.batch
	for slot := lo; slot < hi; {
		b.bufs = b.bufs[:0]
		end := slot
		for ; end < hi && b.data[end] != nil && !b.late[end]; end++ {
			b.bufs = append(b.bufs, b.data[end])
		}
		if end == slot {
			slot++
			continue
		}
		d.dropLate(c, slot, end)
		// The sums go first: after a crash of the process alone, a block whose data is older
		// than its sum comes to fit it by the redo, and is not suspect then.
		if err := d.writeSums(c, slot, end); err != nil {
			return err
		}
		write := d.writeData
		if len(b.bufs)*blockSize >= d.behind.min {
			write = d.writeBehind
		}
		if err := write(c, slot, b.bufs); err != nil {
			return err
		}
		slot = end
	}
	return nil
}

// stage lays one range over the batch's content of slot.
func (d *Device) stage(c *chunk, slot int, r *wal.Range) error {
	b := &d.batch
	if len(r.Data) == blockSize {
		b.data[slot], b.crc[slot], b.state[slot], b.whole[slot] = r.Data, r.Sum, fits, true
		return nil
	}
	if b.arena == nil {
		b.arena = pagemem.Make(largeBlocks * blockSize)
	}
	own := b.arena[slot*blockSize : (slot+1)*blockSize]
	switch {
	case b.data[slot] == nil:
		f, err := d.readSlot(c, slot, own)
		if err != nil {
			return err
		}
		if b.state[slot] = f; f != fits {
			b.was[slot] = blockSum(c.id.VDisk, chunkFirst(c.id.Chunk)+uint64(slot), own)
		}
	case &b.data[slot][0] != &own[0]:
		copy(own, b.data[slot])
	}
	b.data[slot], b.crc[slot] = own, 0
	copy(own[r.Off:], r.Data)
	return nil
}

// readSlot reads a block as it is (absent: zeros) and tells how it fits.
func (d *Device) readSlot(c *chunk, slot int, buf []byte) (fit, error) {
	stored := sumAt(c.sums, slot)
	if stored == sumAbsent {
		clear(buf)
		return fits, nil
	}
	sum := func() fit { return compareSum(stored, blockSum(c.id.VDisk, chunkFirst(c.id.Chunk)+uint64(slot), buf)) }
	if late := c.late.data[slot]; late != nil {
		copy(buf, late)
		return sum(), nil
	}
	f, at, err := d.files.data(c.entry.win)
	if err != nil {
		return unfit, err
	}
	if err := f.readAt(buf, at+int64(slot)*blockSize); err != nil {
		if !mediumError(err) {
			return unfit, err
		}
		clear(buf)
		return unfit, nil
	}
	return sum(), nil
}

// mediumError tells whether a read failed because the disk cannot read that place.
func mediumError(err error) bool { return stderrors.Is(err, syscall.EIO) }

// sealSlot sets the stored entry of a slot from the batch's content and state.
func (d *Device) sealSlot(c *chunk, slot int) {
	b := &d.batch
	old := sumAt(c.sums, slot)
	if b.crc[slot] == 0 {
		b.crc[slot] = crc.Checksum(b.data[slot])
	}
	s := sumOf(c.id.VDisk, chunkFirst(c.id.Chunk)+uint64(slot), b.crc[slot])
	if old == sumAbsent {
		c.present++
	}
	entry := d.suspects.judge(c.id, slot, old, s, b.state[slot])
	setSumAt(c.sums, slot, entry)
	if entry != s && d.redone.Load() {
		d.suspects.carry(c.id, slot, old, b.was[slot], s, b.state[slot] == unfit)
	}
}

// ensureWindow gives c a window if it has none; fresh tells that it did and that the window reads as zeros. Its sums are 0 in any case.
func (d *Device) ensureWindow(c *chunk) (fresh bool, err error) {
	if c.entry.win != noWindow {
		return false, nil
	}
	cl := classOf(c.id.Chunk)
	d.mapMu.Lock()
	n := d.used[cl].take()
	spare := d.spare[cl].take(n)
	d.mapMu.Unlock()
	w := makeWindow(cl, n)
	if err := d.files.reach(w); err != nil {
		return false, err
	}
	c.entry = entry{win: w}
	c.allSafe(d.double.round.Load())
	c.sums, c.present = make([]byte, chunkBlocks(c.id.Chunk)*sumSize), 0
	return !spare, nil
}

// setEntry notes that c was changed by index. c is locked.
func (d *Device) setEntry(c *chunk, index uint64) {
	if !d.redone.Load() {
		c.doubt = nil
	}
	c.entry.last, c.entry.present = index, c.truly()
	d.mapMu.Lock()
	d.delta.set(c.id, c.entry)
	d.mapMu.Unlock()
}

// dropChunk removes a chunk without a look at its checksums.
func (d *Device) dropChunk(id blockstore.ChunkID) error {
	c := d.cache.pin(id)
	defer d.cache.unpin(c)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := d.await(c); err != nil { // the window is another chunk's one day
		return err
	}
	if !c.known {
		e, found, err := d.lookup(id)
		if err != nil {
			return err
		}
		if !found {
			e = entry{win: noWindow}
		}
		c.entry, c.known = e, true
	}
	if c.entry.win != noWindow {
		d.drop(c)
	}
	return nil
}

// drop removes c, which is locked. Its window goes into quarantine until a checkpoint that does not name it
// is finished: until then a restart would still look for the chunk there.
func (d *Device) drop(c *chunk) {
	d.mapMu.Lock()
	d.freed = append(d.freed, c.entry.win)
	d.delta.set(c.id, entry{win: noWindow})
	d.mapMu.Unlock()
	d.quarantine.Add(int64(c.entry.win.class().blocks()) * blockSize)
	d.suspects.forgetChunk(c.id)
	d.forgetLate(c)
	c.entry, c.sums, c.present, c.doubt = entry{win: noWindow}, nil, 0, nil
}

// writeSums writes the entries of slots [lo, hi).
func (d *Device) writeSums(c *chunk, lo, hi int) error {
	f, at, err := d.files.sums(c.entry.win)
	if err != nil {
		return err
	}
	return f.writeAt([][]byte{c.sums[lo*sumSize : hi*sumSize]}, at+int64(lo)*sumSize)
}

// writeData writes whole blocks from slot on.
func (d *Device) writeData(c *chunk, slot int, bufs [][]byte) error {
	f, at, err := d.files.data(c.entry.win)
	if err != nil {
		return err
	}
	return f.writeAt(bufs, at+int64(slot)*blockSize)
}

// punch empties the data of slots [lo, hi).
func (d *Device) punch(c *chunk, lo, hi int) error {
	f, at, err := d.files.data(c.entry.win)
	if err != nil {
		return err
	}
	return f.punch(at+int64(lo)*blockSize, int64(hi-lo)*blockSize)
}
