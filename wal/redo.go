package wal

import "unsafe"

// Redo applies rec to dev, in the record's order: trims, zeros, ranges. Ranges
// reach the device in groups, one Write each: either a run of whole blocks that
// follow each other in address order, or ranges of which none begins such a run.
// Redo is physical, hence idempotent: a record may be redone any number of times, in order.
// It stops at the device's first error and returns it.
func Redo(rec *Record, dev Device) error {
	for _, s := range rec.Trims {
		if err := dev.Trim(s); err != nil {
			return err
		}
	}
	for _, s := range rec.Zeros {
		if err := dev.Zero(s); err != nil {
			return err
		}
	}
	for rest := rec.Ranges; len(rest) > 0; {
		n := WholeRun(rest)
		if n < 2 {
			n = 1
			for n < len(rest) && WholeRun(rest[n:]) < 2 {
				n++
			}
		}
		if err := dev.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// WholeRun is the number of ranges at the front of list that cover whole
// blocks and follow each other in address order.
func WholeRun(list []Range) int {
	n := 0
	for n < len(list) && list[n].Off == 0 && len(list[n].Data) == BlockSize {
		if n > 0 && (list[n].VDisk != list[0].VDisk || list[n].Block != list[n-1].Block+1) {
			break
		}
		n++
	}
	return n
}

// JoinRun returns the bytes of the ranges of a run as one slice if they lie
// behind each other in memory, as those of a decoded extent do; else nil.
func JoinRun(run []Range) []byte {
	if len(run) == 0 {
		return nil
	}
	size := 0
	for i := range run {
		size += len(run[i].Data)
	}
	first := run[0].Data
	if cap(first) < size {
		return nil
	}
	// Within first's capacity the bytes are one allocation; that the pieces are
	// those very bytes is checked one by one.
	joined := first[:size:size]
	at := 0
	for i := range run {
		if unsafe.SliceData(run[i].Data) != unsafe.SliceData(joined[at:]) {
			return nil
		}
		at += len(run[i].Data)
	}
	return joined
}
