package seglog

import (
	"sync/atomic"

	"dfs/internal/pagemem"
)

// buffer is memory outside Go's heap (pagemem.Map), given back to the system at once when dropped. The zero value is empty. Not safe for concurrent use, held apart.
type buffer struct {
	mem  []byte
	held atomic.Int64 // bytes
}

// bufferUnit is what buffers are rounded up to, in bytes; those beyond half a huge page to whole huge pages.
const bufferUnit = 256 << 10

// grow returns at least n bytes; what they hold is undefined. Earlier slices die.
func (b *buffer) grow(n int64) ([]byte, error) {
	if int64(len(b.mem)) >= n {
		return b.mem[:n], nil
	}
	b.drop()
	unit := int64(bufferUnit)
	if n > pagemem.HugePage/2 {
		unit = pagemem.HugePage
	}
	size := (n + unit - 1) / unit * unit
	mem, err := pagemem.Map(int(size))
	if err != nil {
		return nil, err
	}
	b.mem = mem
	b.held.Store(size)
	return mem[:n], nil
}

// drop gives the memory back.
func (b *buffer) drop() {
	pagemem.Unmap(b.mem)
	b.mem = nil
	b.held.Store(0)
}
