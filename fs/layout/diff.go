package layout

import (
	"encoding/binary"

	"dfs/wal"
)

// diffGap is the longest run of equal bytes, in bytes, that is carried inside
// one range rather than split into two: what a range costs in a record.
const diffGap = 24

// DiffRanges returns the ranges that make old into new (both BlockSize long):
// the bytes that differ, small gaps between them included. A nil old is an absent
// block: its bytes count as zeros and at least one range is returned, so that
// the block becomes present. The ranges' Data alias new.
func DiffRanges(a wal.Addr, old, new []byte) []wal.Range {
	absent := old == nil
	if absent {
		old = zeroBlock[:]
	}
	old, new = old[:BlockSize], new[:BlockSize]
	var out []wal.Range
	start, end := -1, 0 // the open range, [start, end)
	for i := 0; i < BlockSize; {
		if i%8 == 0 && binary.LittleEndian.Uint64(old[i:]) == binary.LittleEndian.Uint64(new[i:]) {
			i += 8
			continue
		}
		if old[i] != new[i] {
			if start >= 0 && i-end > diffGap {
				out = append(out, wal.Range{Addr: a, Off: uint32(start), Data: new[start:end:end]})
				start = -1
			}
			if start < 0 {
				start = i
			}
			end = i + 1
		}
		i++
	}
	if start < 0 && absent {
		start, end = 0, 1
	}
	if start >= 0 {
		out = append(out, wal.Range{Addr: a, Off: uint32(start), Data: new[start:end:end]})
	}
	return out
}

// zeroBlock is never written.
var zeroBlock [BlockSize]byte
