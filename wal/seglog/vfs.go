package seglog

import (
	stderrors "errors"
	"os"
	"path/filepath"
	"sync"

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
	dir  string
	lock *os.File

	mu     sync.Mutex
	direct bool // O_DIRECT works here (until refused once)
}

var (
	_ FS   = (*osFS)(nil)
	_ File = (*osFile)(nil)
)

// OpenDir opens dir (made if missing) as the home of one log and locks it:
// KindBusy if another process has it. Files are opened with O_DIRECT; where the
// file system refuses that, or with buffered set, they are written through the page cache and fdatasync.
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
	if p, err := os.Open(filepath.Dir(filepath.Clean(dir))); err == nil { // the directory's own name
		err = p.Sync()
		_ = p.Close()
		if err != nil {
			_ = d.Close()
			return nil, errors.New(errors.KindIO, "sync the parent of the log directory %s: %w", dir, err)
		}
	}
	return &osFS{dir: dir, lock: d, direct: !buffered}, nil
}

func (o *osFS) path(name string) string { return filepath.Join(o.dir, name) }

func (o *osFS) isDirect() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.direct
}

func (o *osFS) Open(name string, create bool) (File, error) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if create {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	if o.isDirect() {
		f, err := openFlags(o.path(name), flags|unix.O_DIRECT)
		switch {
		case err == nil:
			s, err := openFlags(o.path(name), unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT|unix.O_DSYNC)
			if err != nil {
				_ = f.Close()
				return nil, err
			}
			return &osFile{f: f, dsync: s}, nil
		case !stderrors.Is(err, unix.EINVAL):
			return nil, err
		}
		// Some file systems make the file before they refuse the flag.
		flags &^= unix.O_EXCL
		o.mu.Lock()
		o.direct = false
		o.mu.Unlock()
	}
	f, err := openFlags(o.path(name), flags)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f}, nil
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

// modeOf names how fs writes, for the log line at Open.
func modeOf(fs FS) string {
	if o, ok := fs.(*osFS); ok {
		if o.isDirect() {
			return "O_DIRECT|O_DSYNC"
		}
		return "buffered, fdatasync"
	}
	return "custom"
}
