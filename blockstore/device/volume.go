package device

// Volume takes the place of the directory's data and checksum files: for tests that lose power, fail and fill disks.
type Volume interface {
	// Open opens a file, creating it empty (durably) if create is set; os.ErrNotExist otherwise.
	Open(name string, create bool) (File, error)
	// Free is what is left for use, in bytes.
	Free() (uint64, error)
	// CommitMap makes a commit of the chunk map, which stays in a file of the host: atomic, durable when it returns.
	CommitMap(commit func() error) error
}

// File is a sparse file of a Volume. Methods may be called concurrently; ranges do not overlap between a write and anything
// else at the same time.
type File interface {
	// ReadAt fills p from off; bytes never written, and beyond the end, are zeros.
	ReadAt(p []byte, off int64) error
	// WriteAt writes p; durable after Sync only.
	WriteAt(p []byte, off int64) error
	// Punch makes [off, off+n) read as zeros; the size stays. Durable after Sync only.
	Punch(off, n int64) error
	// Size and Grow: the size in bytes, and raising it (durable after Sync only).
	Size() (int64, error)
	Grow(size int64) error
	Sync() error
	// Used is the space taken, in bytes.
	Used() (uint64, error)
	Close() error
}

// givenVolume is Options.Volume as the device uses it.
type givenVolume struct{ v Volume }

func (g givenVolume) open(name string, create bool) (file, error) {
	f, err := g.v.Open(name, create)
	if err != nil {
		return nil, err
	}
	return givenFile{f}, nil
}

func (g givenVolume) free() (uint64, error) { return g.v.Free() }

type givenFile struct{ f File }

func (g givenFile) readAt(p []byte, off int64) error     { return g.f.ReadAt(p, off) }
func (g givenFile) readMedium(p []byte, off int64) error { return g.f.ReadAt(p, off) }
func (g givenFile) writeLong(p []byte, off int64) error  { return g.f.WriteAt(p, off) }
func (g givenFile) punch(off, n int64) error             { return g.f.Punch(off, n) }
func (g givenFile) size() (int64, error)                 { return g.f.Size() }
func (g givenFile) grow(size int64) error                { return g.f.Grow(size) }
func (g givenFile) sync() error                          { return g.f.Sync() }
func (g givenFile) used() (uint64, error)                { return g.f.Used() }
func (g givenFile) close() error                         { return g.f.Close() }

func (g givenFile) writeAt(bufs [][]byte, off int64) error {
	for _, b := range bufs {
		if err := g.f.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

// givenMap is the chunk map beside a given volume.
type givenMap struct {
	chunkMap
	v Volume
}

func (m givenMap) commit(d *delta, st mapState) error {
	return m.v.CommitMap(func() error { return m.chunkMap.commit(d, st) })
}
