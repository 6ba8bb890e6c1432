// Package pagemem has memory on page boundaries, as direct I/O (O_DIRECT) needs it: of Go's heap (Make), or outside it (Map).
package pagemem

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Page is what memory is aligned to, in bytes: enough for direct I/O on any disk.
const Page = 4096

// HugePage is that of the host's huge pages, in bytes.
const HugePage = 2 << 20

// Aligned tells whether p begins on a page boundary.
func Aligned(p []byte) bool { return skip(p) == 0 }

// Make returns n zero bytes of Go's heap on a page boundary.
func Make(n int) []byte {
	b := make([]byte, n+Page)
	at := skip(b)
	return b[at : at+n : at+n]
}

// skip is how many bytes there are to the next boundary.
func skip(p []byte) int {
	return int(-uintptr(unsafe.Pointer(unsafe.SliceData(p))) % Page)
}

// Map returns n zero bytes outside Go's heap, which the garbage collector does not see and Unmap gives back at once. Those of HugePage
// and more are in huge pages, where the host has any: direct I/O finds such memory with far less work.
func Map(n int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil && n >= HugePage {
		_ = unix.Madvise(mem, unix.MADV_HUGEPAGE) // a kernel without them does as well
	}
	return mem, err
}

// Unmap gives back what Map returned, whole; nil is nothing. Nobody may use it, or a part of it, any more.
func Unmap(mem []byte) {
	if mem != nil {
		_ = unix.Munmap(mem)
	}
}
