package fs

import (
	"fmt"

	"dfs/internal/pagemem"
)

// slabBytes is what the arena asks of the kernel at a time.
const slabBytes = 1 << 20

// arena hands out 4 KiB buffers that the garbage collector does not see.
// Not safe for concurrent use.
type arena struct {
	slabs [][]byte
	free  [][]byte
}

// get returns a buffer of unspecified content.
func (a *arena) get() []byte {
	if len(a.free) == 0 {
		slab, err := pagemem.Map(slabBytes)
		if err != nil {
			panic(fmt.Sprintf("fs: no memory for the block cache: %v", err))
		}
		a.slabs = append(a.slabs, slab)
		for off := slabBytes - blockSize; off >= 0; off -= blockSize {
			a.free = append(a.free, slab[off:off+blockSize:off+blockSize])
		}
	}
	b := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	return b
}

func (a *arena) put(b []byte) { a.free = append(a.free, b) }

// close gives everything back; no buffer may be used any more.
func (a *arena) close() {
	for _, s := range a.slabs {
		pagemem.Unmap(s)
	}
	a.slabs, a.free = nil, nil
}
