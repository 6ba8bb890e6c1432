package device

// file is a sparse host file. Methods may be called concurrently; ranges do
// not overlap between a write and anything else at the same time.
type file interface {
	// readAt fills p from off; bytes never written, and beyond the end, are zeros.
	readAt(p []byte, off int64) error
	// readMedium is readAt from the disk itself, past the host's cache where the host can.
	readMedium(p []byte, off int64) error
	// writeAt writes bufs one after another from off on.
	writeAt(bufs [][]byte, off int64) error
	// writeLong writes p, which is aligned in memory, past the host's cache where the host can.
	writeLong(p []byte, off int64) error
	// punch makes [off, off+n) read as zeros and gives its space back; the size stays.
	punch(off, n int64) error
	// size and grow: the size in bytes, and raising it.
	size() (int64, error)
	grow(size int64) error
	// sync makes everything written so far durable. After an error the content is unknown.
	sync() error
	// used is the space taken on the host, in bytes.
	used() (uint64, error)
	close() error
}

// volume opens host files by name; those of one directory.
type volume interface {
	// open opens a file, creating it empty (durably) if create is set. os.ErrNotExist otherwise.
	open(name string, create bool) (file, error)
	// free is what is left for use on the host's disk, in bytes.
	free() (uint64, error)
}
