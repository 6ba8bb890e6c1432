// Package boltfile looks at a bbolt file before bbolt opens it. bbolt reads through
// a memory map and checks little: a file that was cut off ends the process with a fault at some later read, and one of no
// bytes is taken for new.
package boltfile

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"os"

	"dfs/internal/errors"
)

// The meta pages, 0 and 1, hold behind a page header of 16 bytes, in the machine's byte order:
//
//	 0  magic u32      16  root bucket, 16 bytes
//	 4  version u32    32  page of the free list u64
//	 8  page size u32  40  pages in use, from the start of the file u64
//	12  flags u32      48  transaction u64
//	                   56  FNV-1a of bytes 0..55 u64
const (
	pageHeaderBytes = 16
	metaBytes       = 64
	metaMagic       = 0xED0CDAED
	pageSizeMax     = 64 << 10
)

// Check tells whether the file at path is whole as far as its newest meta page knows. A file that does not exist
// is fine. KindCorrupt: it is cut off, empty, or holds no meta page. KindIO.
func Check(path string) error {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return errors.New(errors.KindIO, "cannot read %s: %w", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return errors.New(errors.KindIO, "cannot read %s: %w", path, err)
	}
	need, err := bytesInUse(f)
	if err != nil {
		return errors.New(errors.KindOf(err), "%s (%d bytes): %w", path, st.Size(), err)
	}
	if st.Size() < need {
		return errors.New(errors.KindCorrupt, "%s is cut off: it has %d bytes and should have %d at least", path, st.Size(), need)
	}
	return nil
}

// bytesInUse is what the newest good meta page says of the file's length.
func bytesInUse(f io.ReaderAt) (int64, error) {
	var pages, size, newest uint64
	try := func(at int64) bool {
		var b [metaBytes]byte
		if _, err := f.ReadAt(b[:], at+pageHeaderBytes); err != nil {
			return false
		}
		ne := binary.NativeEndian
		h := fnv.New64a()
		_, _ = h.Write(b[:56])
		pageSize := uint64(ne.Uint32(b[8:]))
		if ne.Uint32(b[:]) != metaMagic || h.Sum64() != ne.Uint64(b[56:]) || pageSize == 0 || pageSize > pageSizeMax {
			return false
		}
		if txn := ne.Uint64(b[48:]); size == 0 || txn > newest {
			pages, size, newest = ne.Uint64(b[40:]), pageSize, txn
		}
		return true
	}
	if try(0) {
		try(int64(size))
	} else {
		for at := int64(1 << 10); at <= pageSizeMax && !try(at); at *= 2 {
		}
	}
	if size == 0 {
		return 0, errors.New(errors.KindCorrupt, "it holds no meta page of a bolt file")
	}
	if pages > 1<<40 {
		return 0, errors.New(errors.KindCorrupt, "its meta page tells of %d pages", pages)
	}
	return int64(pages * size), nil
}
