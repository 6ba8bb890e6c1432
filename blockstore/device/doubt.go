package device

// doubt is about a chunk whose checksum entries tell of another number of present blocks than the map does. After a crash
// that is so wherever the sums are ahead of the map, and redo changes every such chunk,
// which ends the doubt (setEntry). A chunk that no redo changes has lost entries: a
// sector of the checksum file that the disk turned to zeros would make its blocks read as zeros, silently. So each absent
// block of it is told as bad until another replica has vouched for it (Repair).
type doubt struct {
	vouched [largeBlocks / 64]uint64 // slots whose absence another replica has confirmed
}

// doubts tells whether slot is absent here and may not be so in truth. c is locked.
func (c *chunk) doubts(slot int) bool {
	return c.doubt != nil && c.entry.win != noWindow && sumAt(c.sums, slot) == sumAbsent && c.doubt.vouched[slot/64]&(1<<(slot%64)) == 0
}

// settle takes another replica's word for a slot in doubt. The last one ends the doubt.
func (d *Device) settle(c *chunk, slot int, data []byte, present bool) error {
	if present {
		setSumAt(c.sums, slot, blockSum(c.id.VDisk, chunkFirst(c.id.Chunk)+uint64(slot), data))
		c.present++
		if err := d.writeData(c, slot, [][]byte{data}); err != nil {
			return err
		}
		if err := d.writeSums(c, slot, slot+1); err != nil {
			return err
		}
	} else {
		c.doubt.vouched[slot/64] |= 1 << (slot % 64)
	}
	for slot := range chunkBlocks(c.id.Chunk) {
		if c.doubts(slot) {
			return nil
		}
	}
	if c.present == 0 {
		d.drop(c)
		return nil
	}
	d.setEntry(c, c.entry.last)
	return nil
}
