package posixclient

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"

	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// File is an open file or directory. It survives the failure of the node it
// was opened on: it is opened again on another, by inode number.
type File struct {
	c     *Client
	path  string
	ino   uint64
	flags uint32 // as opened, less O_CREAT, O_EXCL, O_TRUNC
	dir   bool

	mu     sync.Mutex
	at     *attachment // where number is valid
	number uint64
	off    int64
	cookie uint64 // of directories
	ended  bool   // of directories
	closed bool
}

var (
	_ io.ReadWriteSeeker = (*File)(nil)
	_ io.ReaderAt        = (*File)(nil)
	_ io.WriterAt        = (*File)(nil)
	_ io.Closer          = (*File)(nil)
)

// reopenFlags are the flags that a file keeps when it is opened again.
const reopenFlags = ^uint32(syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC)

// Open opens path with O_* flags; perm is for a file that O_CREAT makes. O_DIRECTORY, O_NOFOLLOW,
// O_APPEND, O_EXCL, O_TRUNC, O_SYNC and O_DSYNC mean what they do in open(2).
func (c *Client) Open(path string, flags int, perm os.FileMode) (*File, error) {
	f, err := c.open(path, uint32(flags), perm)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return f, nil
}

func (c *Client) open(path string, flags uint32, perm os.FileMode) (*File, error) {
	if flags&syscall.O_CREAT != 0 {
		f, err := c.create(path, flags, perm)
		if !errors.Is(err, errors.KindExist) || flags&syscall.O_EXCL != 0 {
			return f, err
		}
	}
	attr, err := c.resolve(path, flags&syscall.O_NOFOLLOW == 0)
	if err != nil {
		return nil, err
	}
	isDir := attr.GetMode()&syscall.S_IFMT == syscall.S_IFDIR
	switch {
	case attr.GetMode()&syscall.S_IFMT == syscall.S_IFLNK:
		return nil, errors.Of(errors.KindLoop)
	case flags&syscall.O_DIRECTORY != 0 && !isDir:
		return nil, errors.Of(errors.KindNotDir)
	case isDir && (flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&syscall.O_CREAT != 0):
		return nil, errors.Of(errors.KindIsDir)
	}
	f := &File{c: c, path: path, ino: attr.GetIno(), flags: flags & reopenFlags, dir: isDir}
	// Truncating twice is truncating once, so the first open is idempotent, too.
	err = c.conn.call(c.ctx, true, "open "+path, func(ctx context.Context, a *attachment) error {
		return f.openOn(ctx, a, flags&^uint32(syscall.O_CREAT|syscall.O_EXCL), false)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// create makes the file; KindExist where it is there already.
func (c *Client) create(path string, flags uint32, perm os.FileMode) (*File, error) {
	f := &File{c: c, path: path, flags: flags & reopenFlags}
	exclusive := flags&syscall.O_EXCL != 0
	dir, name, err := c.parent(path)
	if err != nil {
		return nil, err
	}
	if _, err := c.lookup(dir, name); err == nil {
		return nil, errors.Of(errors.KindExist)
	}
	err = c.conn.call(c.ctx, !exclusive, "create "+path, func(ctx context.Context, a *attachment) error {
		r, err := a.files.Create(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: dir, Name: []byte(name), Mode: unixMode(perm),
			Flags: flags | syscall.O_EXCL, Client: c.conn.id})
		if err != nil {
			return err
		}
		f.at, f.number, f.ino = a, r.GetNumber(), r.GetAttr().GetIno()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// openOn opens the file's inode on attachment a.
func (f *File) openOn(ctx context.Context, a *attachment, flags uint32, again bool) error {
	var r *filepb.OpenResponse
	var err error
	if f.dir {
		r, err = a.files.OpenDir(ctx, &filepb.InodeRequest{Caller: f.c.caller(), Ino: f.ino, Client: f.c.conn.id})
	} else {
		r, err = a.files.Open(ctx, &filepb.OpenRequest{Caller: f.c.caller(), Ino: f.ino, Flags: flags, Client: f.c.conn.id, Reopen: again})
	}
	if err != nil {
		return err
	}
	f.at, f.number = a, r.GetNumber()
	return nil
}

// call runs one operation on the open file, opening it again first where the node changed.
func (f *File) call(idempotent bool, what string, op func(ctx context.Context, a *attachment, h *filepb.Handle) error) error {
	return f.c.conn.call(f.c.ctx, idempotent, what+" "+f.path, func(ctx context.Context, a *attachment) error {
		for {
			h, err := f.handleOn(ctx, a)
			if err != nil {
				return err
			}
			err = op(ctx, a, h)
			if !errors.Is(err, errors.KindStale) {
				return err
			}
			// The node forgot the handle before it did anything: open again, once more.
			f.mu.Lock()
			if f.at == a && f.number == h.GetNumber() {
				f.at = nil
			}
			f.mu.Unlock()
		}
	})
}

func (f *File) handleOn(ctx context.Context, a *attachment) (*filepb.Handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, errors.New(errors.KindBadHandle, "%s is closed", f.path)
	}
	if f.at != a {
		if err := f.openOn(ctx, a, f.flags, true); err != nil {
			return nil, err
		}
	}
	return &filepb.Handle{Client: f.c.conn.id, Number: f.number}, nil
}

// Name is the path it was opened by.
func (f *File) Name() string { return f.path }

// Ino is the inode number.
func (f *File) Ino() uint64 { return f.ino }

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &os.PathError{Op: "read", Path: f.path, Err: syscall.EINVAL}
	}
	done := 0
	for done < len(p) {
		n, err := f.readSome(p[done:], uint64(off)+uint64(done))
		done += n
		if err != nil {
			return done, pathError("read", f.path, err)
		}
		if n == 0 {
			return done, io.EOF
		}
	}
	return done, nil
}

func (f *File) readSome(p []byte, off uint64) (n int, err error) {
	if f.dir {
		return 0, errors.Of(errors.KindIsDir)
	}
	p = p[:min(len(p), transferMax)]
	err = f.call(true, "read", func(ctx context.Context, a *attachment, h *filepb.Handle) error {
		r, err := a.files.Read(ctx, &filepb.ReadRequest{Handle: h, Offset: off, Length: uint32(len(p))})
		n = copy(p, r.GetData())
		return err
	})
	return n, err
}

// WriteAt implements io.WriterAt. It returns once the data is durable.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &os.PathError{Op: "write", Path: f.path, Err: syscall.EINVAL}
	}
	n, _, err := f.writeFrom(p, uint64(off))
	return n, pathError("write", f.path, err)
}

// writeFrom writes all of p and tells where the end of it is.
func (f *File) writeFrom(p []byte, off uint64) (done int, end uint64, err error) {
	end = off
	appending := f.flags&syscall.O_APPEND != 0
	for done < len(p) || len(p) == 0 {
		part := p[done:min(len(p), done+transferMax)]
		err = f.call(!appending, "write", func(ctx context.Context, a *attachment, h *filepb.Handle) error {
			r, err := a.files.Write(ctx, &filepb.WriteRequest{Handle: h, Offset: end, Data: part})
			if err == nil {
				end = r.GetAt() + uint64(len(part))
			}
			return err
		})
		if err != nil || len(p) == 0 {
			break
		}
		done += len(part)
	}
	return done, end, err
}

// Read implements io.Reader.
func (f *File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.mu.Lock()
	off := f.off
	f.mu.Unlock()
	n, err := f.readSome(p, uint64(off))
	f.mu.Lock()
	f.off = off + int64(n)
	f.mu.Unlock()
	if err != nil {
		return n, pathError("read", f.path, err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	off := f.off
	f.mu.Unlock()
	n, end, err := f.writeFrom(p, uint64(off))
	f.mu.Lock()
	f.off = int64(end)
	f.mu.Unlock()
	return n, pathError("write", f.path, err)
}

// Whence values beyond io's, as in lseek(2).
const (
	SeekData = 3
	SeekHole = 4
)

// Seek implements io.Seeker, and takes SeekData and SeekHole.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	off := f.off
	f.mu.Unlock()
	var err error
	switch whence {
	case io.SeekStart:
		off = offset
	case io.SeekCurrent:
		off += offset
	case io.SeekEnd:
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			off = info.Size() + offset
		}
	case SeekData, SeekHole:
		err = f.call(true, "seek", func(ctx context.Context, a *attachment, h *filepb.Handle) error {
			r, err := a.files.Seek(ctx, &filepb.SeekRequest{Handle: h, Offset: uint64(offset), Whence: uint32(whence)})
			off = int64(r.GetNumber())
			return err
		})
	default:
		err = errors.Of(errors.KindInvalid)
	}
	if err == nil && off < 0 {
		err = errors.Of(errors.KindInvalid)
	}
	if err != nil {
		return 0, pathError("seek", f.path, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off, f.cookie, f.ended = off, 0, false
	return off, nil
}

// Stat tells the attributes of the open file, even when it has no name any more.
func (f *File) Stat() (os.FileInfo, error) {
	attr, err := f.c.getAttr(f.ino)
	if err != nil {
		return nil, pathError("stat", f.path, err)
	}
	return fileInfo{name: baseName(f.path), attr: attr}, nil
}

// Truncate sets the size.
func (f *File) Truncate(size int64) error {
	if size < 0 || f.flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return &os.PathError{Op: "truncate", Path: f.path, Err: syscall.EINVAL}
	}
	s := uint64(size)
	return pathError("truncate", f.path, f.call(true, "truncate", func(ctx context.Context, a *attachment, h *filepb.Handle) error {
		_, err := a.files.SetAttr(ctx, &filepb.SetAttrRequest{Caller: f.c.caller(), Ino: f.ino, Handle: h, Size: &s})
		return err
	}))
}

// Allocate is fallocate(2).
func (f *File) Allocate(mode uint32, off, length int64) error {
	if off < 0 || length <= 0 {
		return &os.PathError{Op: "fallocate", Path: f.path, Err: syscall.EINVAL}
	}
	return pathError("fallocate", f.path, f.call(true, "fallocate", func(ctx context.Context, a *attachment, h *filepb.Handle) error {
		_, err := a.files.Allocate(ctx, &filepb.RangeRequest{Handle: h, Offset: uint64(off), Length: uint64(length), Mode: mode})
		return err
	}))
}

// Sync makes the file durable. Writes are already when they return.
func (f *File) Sync() error {
	return pathError("sync", f.path, f.call(true, "sync", func(ctx context.Context, a *attachment, h *filepb.Handle) error {
		sync := a.files.Fsync
		if f.dir {
			sync = a.files.FsyncDir
		}
		_, err := sync(ctx, &filepb.HandleRequest{Handle: h})
		return err
	}))
}

// Close closes the file. On a node that is gone there is nothing to close.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return &os.PathError{Op: "close", Path: f.path, Err: os.ErrClosed}
	}
	f.closed = true
	if f.at == nil {
		return nil
	}
	select {
	case <-f.at.dead:
		return nil
	default:
	}
	r := &filepb.HandleRequest{Handle: &filepb.Handle{Client: f.c.conn.id, Number: f.number}}
	var err error
	if f.dir {
		_, err = f.at.files.ReleaseDir(f.c.ctx, r)
	} else {
		if _, err = f.at.files.Flush(f.c.ctx, r); err == nil {
			_, err = f.at.files.Release(f.c.ctx, r)
		} else {
			_, _ = f.at.files.Release(f.c.ctx, r)
		}
	}
	if err != nil && (lost(err) || errors.Is(err, errors.KindStale)) {
		return nil
	}
	return pathError("close", f.path, err)
}
