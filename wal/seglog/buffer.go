package seglog

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// buffer is memory outside Go's heap: aligned to pages as O_DIRECT needs it, and given back to the
// system at once when dropped. The zero value is empty. Not safe for concurrent use, held apart.
type buffer struct {
	mem  []byte
	held atomic.Int64 // bytes
}

// bufferUnit is what buffers are rounded up to, in bytes; those beyond hugeUnit to that: in huge pages, where the host has any, direct I/O
// finds the memory with far less work.
const (
	bufferUnit = 256 << 10
	hugeUnit   = 2 << 20
)

// grow returns at least n bytes; what they hold is undefined. Earlier slices die.
func (b *buffer) grow(n int64) ([]byte, error) {
	if int64(len(b.mem)) >= n {
		return b.mem[:n], nil
	}
	b.drop()
	unit := int64(bufferUnit)
	if n > hugeUnit/2 {
		unit = hugeUnit
	}
	size := (n + unit - 1) / unit * unit
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	if unit == hugeUnit {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // a kernel without them does as well
	}
	b.mem = mem
	b.held.Store(size)
	return mem[:n], nil
}

// drop gives the memory back.
func (b *buffer) drop() {
	if b.mem != nil {
		_ = unix.Munmap(b.mem)
		b.mem = nil
		b.held.Store(0)
	}
}
