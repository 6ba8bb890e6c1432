package device

import (
	"encoding/binary"

	"dfs/internal/crc"
)

// A block's entry in the checksum file is a little-endian uint32:
//
//	0                   the block is absent and reads as zeros
//	s                   the block is present; s = CRC32C(vdisk, block, data)
//	s ^ suspectMask     the block is present, the data is as last written, but it was changed in
//	                    part while it did not fit its checksum: what was not changed may be wrong
//
// The address is part of the sum, so a block written to the wrong place does
// not fit. A sum that would be taken for 'absent' in either form is replaced by 1.
const (
	sumAbsent   = uint32(0)
	suspectMask = uint32(0x5a17c3e9)
	sumInstead  = uint32(1)
	sumSize     = 4
)

// blockSum returns the checksum of data as content of block; never sumAbsent.
func blockSum(vdisk, block uint64, data []byte) uint32 {
	return sumOf(vdisk, block, crc.Checksum(data))
}

// sumOf is blockSum of data whose own CRC32C is known.
func sumOf(vdisk, block uint64, data uint32) uint32 {
	var addr [16]byte
	binary.LittleEndian.PutUint64(addr[:], vdisk)
	binary.LittleEndian.PutUint64(addr[8:], block)
	s := crc.Join(crc.Checksum(addr[:]), data)
	if s == sumAbsent || s == suspectMask {
		return sumInstead
	}
	return s
}

// fit is how data compares with a stored entry.
type fit uint8

const (
	fits       fit = iota
	fitsInPart     // fits the suspect form: content known to be incomplete
	unfit          // damaged
)

// compareSum compares the sum of the data read with the stored entry, which is not sumAbsent.
func compareSum(stored, computed uint32) fit {
	switch stored {
	case computed:
		return fits
	case computed ^ suspectMask:
		return fitsInPart
	}
	return unfit
}

func sumAt(sums []byte, slot int) uint32       { return binary.LittleEndian.Uint32(sums[slot*sumSize:]) }
func setSumAt(sums []byte, slot int, s uint32) { binary.LittleEndian.PutUint32(sums[slot*sumSize:], s) }

// countPresent counts the entries of sums that are not sumAbsent.
func countPresent(sums []byte) int {
	n := 0
	for i := 0; i+sumSize <= len(sums); i += sumSize {
		if binary.LittleEndian.Uint32(sums[i:]) != sumAbsent {
			n++
		}
	}
	return n
}
