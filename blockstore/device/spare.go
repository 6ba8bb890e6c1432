package device

import "slices"

// spareBytesMax bounds what the spare windows take on the host's disk; a sixteenth of what is free there does, too.
const spareBytesMax = 1 << 30

// releaseRun bounds the windows that are emptied in one go. The host holds its lock on the file meanwhile (100 us for each extent
// on ext4: a second for 10,000 removed small files), and Applies wait for that.
const releaseRun = 64

// spares is the windows of one class that no chunk has and whose data was not given back to the host: the host takes twice as long for a write
// that it has to find new space for, and giving it back takes long, too. Their sums are 0, as those of any free window: what they
// hold is never read. A restart gives them back.
type spares struct {
	set bitmap
	n   uint64
}

func (s *spares) add(n uint64) {
	s.set.mark(n)
	s.n++
}

// take tells whether window n was a spare; it is not any more.
func (s *spares) take(n uint64) bool {
	if !s.set.has(n) {
		return false
	}
	s.set.release(n)
	s.n--
	return true
}

// last returns the last spare; there is one.
func (s *spares) last() uint64 {
	for n := uint64(len(s.set.words)) * 64; ; n-- {
		if s.set.has(n - 1) {
			return n - 1
		}
	}
}

// releaseWindows gives windows back that no map names: as spares while there is room for them, emptied beyond that. commitMu is held.
func (d *Device) releaseWindows(ws []window) error {
	room, err := d.spareRoom()
	if err != nil {
		return err
	}
	slices.Sort(ws)
	for len(ws) > 0 {
		n := 1
		for n < len(ws) && n < releaseRun && ws[n] == ws[n-1]+1 {
			n++
		}
		c, lo, hi := ws[0].class(), ws[0].number(), ws[0].number()+uint64(n)
		size := uint64(n) * c.blocks() * blockSize
		keep := size <= room
		if keep {
			room -= size
			err = d.files.clearSums(c, lo, hi)
		} else {
			err = d.files.scrape(c, lo, hi)
		}
		if err != nil {
			return err
		}
		d.mapMu.Lock()
		for w := lo; w < hi; w++ {
			d.used[c].release(w)
			if keep {
				d.spare[c].add(w)
			}
		}
		d.mapMu.Unlock()
		ws = ws[n:]
	}
	return nil
}

// spareRoom returns how many bytes of windows may become spares. Where there are more spares than may be, because the host's disk fills, it gives
// the last of them back. commitMu is held.
func (d *Device) spareRoom() (uint64, error) {
	free, err := d.files.vol.free()
	if err != nil {
		return 0, err
	}
	limit := min(spareBytesMax, free/16)
	for {
		d.mapMu.Lock()
		c, size := small, uint64(0)
		for k := range classes {
			n := d.spare[k].n * k.blocks() * blockSize
			if size += n; n > 0 {
				c = k
			}
		}
		if size <= limit {
			d.mapMu.Unlock()
			return limit - size, nil
		}
		w := d.spare[c].last()
		d.spare[c].take(w)
		d.used[c].mark(w) // nobody else takes it meanwhile
		d.mapMu.Unlock()
		if err := d.files.punch(c, w, w+1); err != nil {
			return 0, err
		}
		d.mapMu.Lock()
		d.used[c].release(w)
		d.mapMu.Unlock()
	}
}
