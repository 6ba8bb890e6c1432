package device

import (
	"math"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// putsPerCommit is after how many PutChunks (1 GiB at most) they are made durable, so that an interrupted
// catch-up goes on from there.
const putsPerCommit = 1024

// Chunks lists chunks with present blocks, in order, after `after` (nil: from the start), up to max.
// It works on an incomplete device too: a catch-up that goes on compares by it.
func (d *Device) Chunks(after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, error) {
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	return d.chunks(after, max)
}

func (d *Device) chunks(after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, error) {
	var from blockstore.ChunkID
	if after != nil {
		from = *after
		if from.Chunk++; from.Chunk == 0 {
			if from.VDisk++; from.VDisk == 0 {
				return nil, nil
			}
		}
	}
	if max <= 0 {
		return nil, nil
	}
	page, err := d.list(from, lastID, max)
	if err != nil {
		return nil, err
	}
	infos := make([]blockstore.ChunkInfo, len(page))
	for i, l := range page {
		infos[i] = blockstore.ChunkInfo{ChunkID: l.id, LastIndex: l.e.last}
	}
	return infos, nil
}

// PutChunk replaces a chunk's content by another replica's. From the first one on the device is
// incomplete, also after a restart, until ResetTo. Every 1024 they are made durable. After an
// error the device is dead, but for KindInvalid: c is impossible and nothing was done.
func (d *Device) PutChunk(c blockstore.ChunkData) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if err := checkChunk(&c); err != nil {
		return err
	}
	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	if err := d.beginCatchUp(); err != nil {
		return err
	}
	if err := d.putChunk(&c); err != nil {
		return d.fail("catch-up", err)
	}
	d.mapMu.Lock()
	many := len(d.delta.entries) >= putsPerCommit
	index, meta := d.index, d.meta
	d.mapMu.Unlock()
	if !many {
		return nil
	}
	d.freeze()
	return d.commit(mapState{index: index, meta: meta, deviceID: d.deviceID, incomplete: true})
}

func checkChunk(c *blockstore.ChunkData) error {
	if c.Chunk > chunkMax {
		return errors.New(errors.KindInvalid, "device: there is no chunk %d", c.Chunk)
	}
	n := chunkBlocks(c.Chunk)
	if len(c.Present) != (n+7)/8 || len(c.Data) != countBits(c.Present)*blockSize {
		return errors.New(errors.KindInvalid, "device: chunk %d of vdisk %d comes with %d bytes of presence and %d of data, which do not belong together",
			c.Chunk, c.VDisk, len(c.Present), len(c.Data))
	}
	return nil
}

// beginCatchUp makes it durable that the content is no longer whole, before the first change of it, and everything applied before, with the last
// indices of its chunks: by those a catch-up that goes on after a restart compares.
func (d *Device) beginCatchUp() error {
	if d.incomplete.Load() {
		return nil
	}
	if err := d.writeAll(); err != nil {
		return err
	}
	index, meta := d.Meta()
	d.incomplete.Store(true)
	d.freeze()
	return d.commit(mapState{index: index, meta: meta, deviceID: d.deviceID, incomplete: true})
}

func (d *Device) putChunk(in *blockstore.ChunkData) error {
	if len(in.Data) == 0 {
		return d.dropChunk(in.ChunkID)
	}
	c, err := d.lockAhead(in.ChunkID, 0, largeBlocks)
	if err != nil {
		return err
	}
	defer d.unlock(c)
	d.forgetLate(c)
	fresh, err := d.ensureWindow(c)
	if err != nil {
		return err
	}
	n, first := chunkBlocks(in.Chunk), chunkFirst(in.Chunk)
	if !fresh {
		if err := d.punch(c, 0, n); err != nil {
			return err
		}
	}
	d.suspects.forgetChunk(c.id)
	clear(c.sums)
	c.doubt = nil // all of it is another replica's now
	c.present = 0
	for i := range n {
		if in.Present[i/8]&(1<<(i%8)) != 0 {
			setSumAt(c.sums, i, blockSum(in.VDisk, first+uint64(i), in.Data[c.present*blockSize:(c.present+1)*blockSize]))
			c.present++
		}
	}
	if err := d.writeSums(c, 0, n); err != nil {
		return err
	}
	for slot, data := 0, in.Data; slot < n; slot++ {
		end := slot
		for end < n && sumAt(c.sums, end) != sumAbsent {
			end++
		}
		if end > slot {
			size := (end - slot) * blockSize
			if err := d.writeData(c, slot, [][]byte{data[:size]}); err != nil {
				return err
			}
			data, slot = data[size:], end
		}
	}
	d.setEntry(c, in.LastIndex)
	return nil
}

// ResetTo declares that the content is that of index (or newer, to be brought to one index by redo from
// there) and makes it durable with meta: a finished checkpoint. It ends a catch-up. After an error the device is dead.
func (d *Device) ResetTo(index uint64, meta []byte) error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	if err := d.writeAll(); err != nil { // chunks that did not differ may have been applied just before the catch-up
		return err
	}
	d.freeze()
	if err := d.files.sync(); err != nil {
		return d.fail("catch-up", err)
	}
	if err := d.emptyDouble(); err != nil {
		return d.fail("catch-up", err)
	}
	if err := d.commit(mapState{index: index, meta: meta, deviceID: d.deviceID}); err != nil {
		return err
	}
	d.applied.Store(index)
	d.incomplete.Store(false)
	return nil
}

// Repair puts another replica's content (data, or absent if !present) in the place of a bad block, if its chunk did
// not change since bad was found and the block is still bad. done tells whether it did. The device is dead
// after an error other than KindInvalid.
func (d *Device) Repair(bad BadBlock, data []byte, present bool) (done bool, err error) {
	if present && len(data) != blockSize {
		return false, errors.New(errors.KindInvalid, "device: a repair with %d bytes", len(data))
	}
	if err := d.enterComplete(); err != nil {
		return false, err
	}
	defer d.leave()
	done, err = d.repair(bad, data, present)
	if err != nil {
		return false, d.fail("repair", err)
	}
	if done {
		d.log.Warn("damaged block repaired from another replica", "vdisk", bad.VDisk, "block", bad.Block, "suspect", bad.Suspect)
	}
	return done, nil
}

func (d *Device) repair(bad BadBlock, data []byte, present bool) (bool, error) {
	id := chunkOf(bad.VDisk, bad.Block)
	c, err := d.lock(id)
	if err != nil {
		return false, err
	}
	defer d.unlock(c)
	if c.entry.win == noWindow || c.entry.last != bad.LastIndex {
		return false, nil
	}
	slot := int(bad.Block - chunkFirst(id.Chunk))
	var buf [blockSize]byte
	if c.doubts(slot) {
		return true, d.settle(c, slot, data, present)
	}
	if f, err := d.readSlot(c, slot, buf[:]); err != nil || f == fits {
		return false, err
	}
	d.suspects.forget(id, slot)
	c.saved = saved{} // an image may be of what is bad
	if present {
		setSumAt(c.sums, slot, blockSum(bad.VDisk, bad.Block, data))
		if err := d.writeData(c, slot, [][]byte{data}); err != nil {
			return false, err
		}
		return true, d.writeSums(c, slot, slot+1)
	}
	setSumAt(c.sums, slot, sumAbsent)
	if c.lessPresent(slot); c.present == 0 && c.doubt == nil {
		d.drop(c)
		return true, nil
	}
	if err := d.writeSums(c, slot, slot+1); err != nil {
		return false, err
	}
	if err := d.punch(c, slot, slot+1); err != nil {
		return false, err
	}
	d.setEntry(c, c.entry.last)
	return true, nil
}

// ScrubNext reads the next chunks after `after` (nil: from the start), at most maxChunks, from the disk itself, and
// returns their bad blocks and where to go on (nil at the end).
func (d *Device) ScrubNext(after *blockstore.ChunkID, maxChunks int) (bad []BadBlock, next *blockstore.ChunkID, err error) {
	if err := d.enterComplete(); err != nil {
		return nil, nil, err
	}
	defer d.leave()
	infos, err := d.chunks(after, max(maxChunks, 1))
	if err != nil {
		return nil, nil, err
	}
	for i := range infos {
		_, b, err := d.readChunk(infos[i].ChunkID, true)
		if err != nil {
			return nil, nil, err
		}
		bad = append(bad, b...)
		next = &infos[i].ChunkID
	}
	if next != nil && next.VDisk == math.MaxUint64 && next.Chunk == chunkMax {
		next = nil
	}
	return bad, next, nil
}
