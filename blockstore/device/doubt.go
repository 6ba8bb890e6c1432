package device

// doubt is about a chunk whose checksum entries tell of another number of present blocks than the map does. After a crash
// that is so wherever the sums are ahead of the map, and redo changes every such chunk,
// which ends the doubt (setEntry). A chunk that no redo changes has lost entries: a
// sector of the checksum file that the disk turned to zeros would make its blocks read as zeros, silently. So each absent
// block of it is told as bad until another replica has vouched for it (Repair). A change of the chunk after EndRedo keeps
// the difference in the map.
type doubt struct {
	missing int                      // what the map counts beyond the sums
	vouched [largeBlocks / 64]uint64 // slots whose absence another replica has confirmed
}

// doubts tells whether slot is absent here and may not be so in truth. c is locked.
func (c *chunk) doubts(slot int) bool {
	return c.doubt != nil && c.entry.win != noWindow && sumAt(c.sums, slot) == sumAbsent && c.doubt.vouched[slot/64]&(1<<(slot%64)) == 0
}

// truly is how many blocks of c are present in truth, as far as is known.
func (c *chunk) truly() uint32 {
	if c.doubt == nil {
		return uint32(c.present)
	}
	return uint32(max(0, c.present+c.doubt.missing))
}

// settle takes another replica's word for a slot in doubt. The last one ends the doubt, and so does the last one missing.
func (d *Device) settle(c *chunk, slot int, data []byte, present bool) error {
	if present {
		setSumAt(c.sums, slot, blockSum(c.id.VDisk, chunkFirst(c.id.Chunk)+uint64(slot), data))
		c.present++
		c.doubt.missing--
		if err := d.writeData(c, slot, [][]byte{data}); err != nil {
			return err
		}
		if err := d.writeSums(c, slot, slot+1); err != nil {
			return err
		}
	} else {
		c.doubt.vouched[slot/64] |= 1 << (slot % 64)
	}
	if !c.settled() {
		return nil
	}
	c.doubt = nil
	if c.present == 0 {
		d.drop(c)
		return nil
	}
	d.setEntry(c, c.entry.last)
	return nil
}

// settled tells whether a chunk in doubt need not be so any more.
func (c *chunk) settled() bool {
	for slot := range chunkBlocks(c.id.Chunk) {
		if c.doubt.missing != 0 && c.doubts(slot) {
			return false
		}
	}
	return true
}

// lessPresent notes that an entry of c that told of a block was wrong: by another replica's word there is none.
func (c *chunk) lessPresent(slot int) {
	c.present--
	if c.doubt == nil {
		return
	}
	c.doubt.missing++
	c.doubt.vouched[slot/64] |= 1 << (slot % 64)
	if c.settled() {
		c.doubt = nil
	}
}
