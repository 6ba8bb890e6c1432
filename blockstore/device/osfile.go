package device

import (
	stderrors "errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dfs/internal/errors"
	"dfs/internal/pagemem"
)

// osVolume is a directory of the host.
type osVolume struct {
	dir    string
	direct bool // write long runs past the page cache
}

func (v *osVolume) open(name string, create bool) (file, error) {
	path := filepath.Join(v.dir, name)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if stderrors.Is(err, os.ErrNotExist) && create {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			if err = syncDir(v.dir); err != nil {
				_ = f.Close()
			}
		}
	}
	if err != nil {
		return nil, err
	}
	of := &osFile{vol: v, f: f}
	if v.direct {
		// A host file system without direct I/O refuses the open; the page cache does then.
		if d, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0); err == nil {
			of.direct = d
		}
	}
	return of, nil
}

func (v *osVolume) free() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(v.dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: v.dir, Err: err}
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// osFile is a host file, open twice where direct I/O is possible. The kernel
// keeps both views coherent: a direct write drops the cached pages of its range.
type osFile struct {
	vol    *osVolume
	f      *os.File
	direct *os.File // nil: not available
}

func (o *osFile) readAt(p []byte, off int64) error { return readFull(o.f, p, off) }

func readFull(f *os.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		clear(p[n:])
		return nil
	}
	return err
}

func (o *osFile) readMedium(p []byte, off int64) error {
	if o.direct == nil || !pagemem.Aligned(p) || off%blockSize != 0 || len(p)%blockSize != 0 {
		return o.readAt(p, off)
	}
	err := readFull(o.direct, p, off)
	if stderrors.Is(err, unix.EINVAL) {
		return o.readAt(p, off)
	}
	return err
}

func (o *osFile) writeAt(bufs [][]byte, off int64) error {
	if len(bufs) == 1 {
		_, err := o.f.WriteAt(bufs[0], off)
		return err
	}
	return o.writeVector(bufs, off)
}

// writeVector writes bufs with as few system calls as the host allows.
func (o *osFile) writeVector(bufs [][]byte, off int64) error {
	const vectorMax = 1024 // IOV_MAX
	for len(bufs) > 0 {
		n, err := unix.Pwritev(int(o.f.Fd()), bufs[:min(len(bufs), vectorMax)], off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "pwritev", Path: o.f.Name(), Err: err}
		}
		if n <= 0 {
			return &os.PathError{Op: "pwritev", Path: o.f.Name(), Err: io.ErrShortWrite}
		}
		off += int64(n)
		for n > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		if n > 0 { // a short write: finish that buffer, then go on
			if _, err := o.f.WriteAt(bufs[0][n:], off); err != nil {
				return err
			}
			off += int64(len(bufs[0]) - n)
			bufs = bufs[1:]
		}
	}
	return nil
}

func (o *osFile) writeLong(p []byte, off int64) error {
	if o.direct != nil && off%blockSize == 0 && len(p)%blockSize == 0 {
		if _, err := o.direct.WriteAt(p, off); !stderrors.Is(err, unix.EINVAL) {
			return err
		} // a disk with other ideas of alignment
	}
	_, err := o.f.WriteAt(p, off)
	return err
}

func (o *osFile) punch(off, n int64) error {
	for {
		err := unix.Fallocate(int(o.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "fallocate(PUNCH_HOLE)", Path: o.f.Name(), Err: err}
		}
		return nil
	}
}

func (o *osFile) size() (int64, error) {
	st, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (o *osFile) grow(size int64) error { return o.f.Truncate(size) }

func (o *osFile) sync() error {
	if err := unix.Fdatasync(int(o.f.Fd())); err != nil {
		return &os.PathError{Op: "fdatasync", Path: o.f.Name(), Err: err}
	}
	return nil
}

func (o *osFile) used() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(o.f.Fd()), &st); err != nil {
		return 0, &os.PathError{Op: "fstat", Path: o.f.Name(), Err: err}
	}
	return uint64(st.Blocks) * 512, nil
}

func (o *osFile) close() error {
	err := o.f.Close()
	if o.direct != nil {
		err = stderrors.Join(err, o.direct.Close())
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeFileDurably puts data in the place of dir/name in one step.
func writeFileDurably(dir, name string, data []byte) error {
	tmp := filepath.Join(dir, name+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = stderrors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// lockDir takes the directory for this process. KindBusy, naming the holder, if another has it.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if err != unix.EWOULDBLOCK {
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		pid := make([]byte, 32)
		n, _ := f.ReadAt(pid, 0)
		return nil, errors.New(errors.KindBusy, "device directory %s is in use by process %s: stop that node first", dir, pidText(pid[:n]))
	}
	return f, writePID(f)
}
