package seglog

import (
	stderrors "errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dfs/internal/errors"
)

// FS is the one directory that a log lives in. Names are plain file names. A
// name made, renamed or removed is durable only after SyncDir.
type FS interface {
	// Open opens a file for reading and writing; create makes it (it must not be there).
	Open(name string, create bool) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	SyncDir() error
	// FreeBytes tells how much more the file system takes.
	FreeBytes() (int64, error)
	// Close lets the directory go; files stay open.
	Close() error
}

// File is one file of the log. Offsets, lengths and addresses of buffers are
// multiples of Block.
type File interface {
	// ReadAt reads len(p) bytes; short only at the end of the file, with an error.
	ReadAt(p []byte, off int64) (int, error)
	// WriteDurable writes p; it is on stable storage when it returns.
	WriteDurable(p []byte, off int64) error
	// WriteAt writes p; durable after Sync only.
	WriteAt(p []byte, off int64) (int, error)
	// Sync makes data and size durable.
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
	Close() error
}

// osFS is a directory of the host, flocked.
type osFS struct {
	dir      string
	lock     *os.File
	direct   bool          // O_DIRECT works here
	syncTime time.Duration // of one durable write of a block in place, as measured by OpenDir
}

var (
	_ FS   = (*osFS)(nil)
	_ File = (*osFile)(nil)
)

// probeName is a file that OpenDir writes to and removes.
const probeName = ".probe"

// OpenDir opens dir (made if missing) as the home of one log and locks it:
// KindBusy if another process has it. Files are written with O_DIRECT and O_DSYNC; where the
// file system refuses that, or with buffered set, through the page cache and fdatasync.
func OpenDir(dir string, buffered bool) (FS, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errors.New(errors.KindIO, "make the log directory %s: %w", dir, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, errors.New(errors.KindIO, "open the log directory %s: %w", dir, err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		return nil, errors.New(errors.KindBusy, "the log directory %s is in use by another process: stop it first: %w", dir, err)
	}
	o := &osFS{dir: dir, lock: d, direct: !buffered}
	if err := o.prepare(); err != nil {
		_ = d.Close()
		return nil, err
	}
	return o, nil
}

// prepare makes the directory's own name durable and finds out how to write here.
func (o *osFS) prepare() error {
	parent, err := os.Open(filepath.Dir(filepath.Clean(o.dir)))
	if err == nil {
		err = parent.Sync()
		_ = parent.Close()
	}
	if err != nil {
		return errors.New(errors.KindIO, "sync the parent of the log directory %s: %w", o.dir, err)
	}
	err = o.probe()
	if o.direct && stderrors.Is(err, unix.EINVAL) {
		o.direct = false
		err = o.probe()
	}
	if err != nil {
		return errors.New(errors.KindIO, "try a write in the log directory %s: %w", o.dir, err)
	}
	return nil
}

// probe writes a block twice, the second time in place, and takes the time of that.
func (o *osFS) probe() error {
	if err := o.Remove(probeName); err != nil && !stderrors.Is(err, os.ErrNotExist) {
		return err
	}
	defer func() { _ = o.Remove(probeName) }() // EINVAL may come with the file made
	f, err := o.Open(probeName, true)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var b buffer
	defer b.drop()
	block, err := b.grow(Block)
	if err != nil {
		return err
	}
	for range 2 {
		start := time.Now()
		if err := f.WriteDurable(block, 0); err != nil {
			return err
		}
		o.syncTime = time.Since(start)
	}
	return nil
}

func (o *osFS) path(name string) string { return filepath.Join(o.dir, name) }

func (o *osFS) Open(name string, create bool) (File, error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if o.direct {
		flags |= unix.O_DIRECT
	}
	made := 0
	if create {
		made = unix.O_CREAT | unix.O_EXCL
	}
	f, err := openFlags(o.path(name), flags|made)
	if err != nil {
		return nil, err
	}
	if !o.direct {
		return &osFile{f: f}, nil
	}
	s, err := openFlags(o.path(name), flags|unix.O_DSYNC)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &osFile{f: f, dsync: s}, nil
}

func openFlags(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags, 0o600)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if !stderrors.Is(err, unix.EINTR) {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

func (o *osFS) Rename(from, to string) error { return os.Rename(o.path(from), o.path(to)) }
func (o *osFS) Remove(name string) error     { return os.Remove(o.path(name)) }
func (o *osFS) SyncDir() error               { return o.lock.Sync() }
func (o *osFS) Close() error                 { return o.lock.Close() }

func (o *osFS) FreeBytes() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(o.dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: o.dir, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func (o *osFS) List() ([]string, error) {
	ents, err := os.ReadDir(o.dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(ents))
	for _, e := range ents {
		names = append(names, e.Name())
	}
	return names, nil
}

// osFile is a file of the host; dsync is a second descriptor with O_DSYNC, nil in buffered mode.
type osFile struct {
	f     *os.File
	dsync *os.File
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error)  { return f.f.ReadAt(p, off) }
func (f *osFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }
func (f *osFile) Sync() error                              { return f.f.Sync() }
func (f *osFile) Truncate(size int64) error                { return f.f.Truncate(size) }

func (f *osFile) WriteDurable(p []byte, off int64) error {
	if f.dsync != nil {
		_, err := f.dsync.WriteAt(p, off)
		return err
	}
	if _, err := f.f.WriteAt(p, off); err != nil {
		return err
	}
	for {
		if err := unix.Fdatasync(int(f.f.Fd())); !stderrors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (f *osFile) Size() (int64, error) {
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *osFile) Close() error {
	err := f.f.Close()
	if f.dsync != nil {
		err = stderrors.Join(err, f.dsync.Close())
	}
	return err
}

// modeOf names how fs writes, and tells what a durable write took when it was opened.
func modeOf(fs FS) (string, time.Duration) {
	o, ok := fs.(*osFS)
	switch {
	case !ok:
		return "custom", 0
	case o.direct:
		return "O_DIRECT|O_DSYNC", o.syncTime
	}
	return "buffered, fdatasync", o.syncTime
}
