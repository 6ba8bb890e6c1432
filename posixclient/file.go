package posixclient

import (
	"context"
	"io"
	"os"
	"syscall"

	"dfs/internal/errors"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// File is an open file or directory. It survives the failure of the node it
// was opened on: it is opened again on another, by inode number.
type File struct {
	c     *Client
	path  string
	open  *fileconn.Open
	flags uint32 // as opened, less O_CREAT, O_EXCL, O_TRUNC
	dir   bool

	position fileconn.Gate // held by who moves off or cookie

	off    int64  // guarded by position
	cookie uint64 // of directories, guarded by position
	ended  bool   // of directories, guarded by position
}

var (
	_ io.ReadWriteSeeker = (*File)(nil)
	_ io.ReaderAt        = (*File)(nil)
	_ io.WriterAt        = (*File)(nil)
	_ io.Closer          = (*File)(nil)
)

// errClosed is the error of every call on a file after Close.
func errClosed() error { return errors.New(errors.KindBadHandle, "%w", os.ErrClosed) }

// call runs one operation that changes nothing on the open file, opening it again first where the node changed.
func (f *File) call(what string, op func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error) error {
	return f.open.Call(f.c.ctx, what+" "+f.path, op)
}

// change is call of what changes something: it is done once.
func (f *File) change(what string, op func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error) error {
	return f.open.Change(f.c.ctx, what+" "+f.path, op)
}

// Name is the path it was opened by.
func (f *File) Name() string { return f.path }

// Ino is the inode number.
func (f *File) Ino() uint64 { return f.open.Ino() }

// Link gives the file a (further) name: the way to keep a file made with O_TMPFILE.
func (f *File) Link(newPath string) error {
	return linkError("link", f.path, newPath, f.c.link(f.open.Ino(), newPath))
}

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
	err = f.call("read", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		into := filepb.DataInto{Data: p}
		err := a.CC.Invoke(ctx, filepb.Files_Read_FullMethodName, &filepb.ReadRequest{Handle: h, Offset: off, Length: uint32(len(p))}, &into)
		n = into.N
		return err
	})
	if err != nil {
		n = 0
	}
	return n, err
}

// WriteAt implements io.WriterAt. It returns once the data is durable. Beside writes of others each MiB of p is whole (see the package comment).
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &os.PathError{Op: "write", Path: f.path, Err: syscall.EINVAL}
	}
	n, _, err := f.writeFrom(p, uint64(off))
	return n, pathError("write", f.path, err)
}

// writeFrom writes all of p and tells where the end of it is. What is sent is a copy: a call that
// its context ends may go on sending for a moment, while p is its owner's again.
func (f *File) writeFrom(p []byte, off uint64) (done int, end uint64, err error) {
	if f.dir {
		return 0, off, errors.Of(errors.KindBadHandle)
	}
	end = off
	buf := make([]byte, min(len(p), transferMax))
	for {
		part := buf[:copy(buf, p[done:])]
		err = f.change("write", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
			r, err := a.Files.Write(ctx, &filepb.WriteRequest{Handle: h, Offset: end, Data: part})
			if err == nil {
				end = r.GetAt() + uint64(len(part))
			}
			return err
		})
		if err != nil {
			return done, end, err
		}
		if done += len(part); done == len(p) {
			return done, end, nil
		}
	}
}

// Read implements io.Reader.
func (f *File) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := f.position.Enter(f.c.ctx); err != nil {
		return 0, pathError("read", f.path, err)
	}
	defer f.position.Leave()
	n, err := f.readSome(p, uint64(f.off))
	f.off += int64(n)
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
	if err := f.position.Enter(f.c.ctx); err != nil {
		return 0, pathError("write", f.path, err)
	}
	defer f.position.Leave()
	n, end, err := f.writeFrom(p, uint64(f.off))
	f.off = int64(end)
	return n, pathError("write", f.path, err)
}

// Whence values beyond io's, as in lseek(2).
const (
	SeekData = 3
	SeekHole = 4
)

// Seek implements io.Seeker, and takes SeekData and SeekHole. In a directory only a seek to its
// start means anything: it begins the listing anew.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	if err := f.position.Enter(f.c.ctx); err != nil {
		return 0, pathError("seek", f.path, err)
	}
	defer f.position.Leave()
	off, err := f.target(offset, whence)
	if err == nil && off < 0 {
		err = errors.Of(errors.KindInvalid)
	}
	if err != nil {
		return 0, pathError("seek", f.path, err)
	}
	if f.dir && whence != io.SeekCurrent {
		f.cookie, f.ended = 0, false
	}
	f.off = off
	return off, nil
}

// target is the offset that a Seek means.
func (f *File) target(offset int64, whence int) (off int64, err error) {
	if err := f.open.Alive(); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekStart:
		return offset, nil
	case io.SeekCurrent:
		return f.off + offset, nil
	case io.SeekEnd:
		attr, err := f.c.getAttr(f.open.Ino())
		return int64(attr.GetSize()) + offset, err
	case SeekData, SeekHole:
		if offset < 0 {
			return 0, errors.Of(errors.KindNoDevice)
		}
		err = f.call("seek", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
			r, err := a.Files.Seek(ctx, &filepb.SeekRequest{Handle: h, Offset: uint64(offset), Whence: uint32(whence)})
			off = int64(r.GetNumber())
			return err
		})
		return off, err
	}
	return 0, errors.Of(errors.KindInvalid)
}

// Stat tells the attributes of the open file, even when it has no name any more.
func (f *File) Stat() (os.FileInfo, error) {
	err := f.open.Alive()
	var attr *filepb.Attr
	if err == nil {
		attr, err = f.c.getAttr(f.open.Ino())
	}
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
	return pathError("truncate", f.path, f.change("truncate", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.SetAttr(ctx, &filepb.SetAttrRequest{Caller: f.c.caller(), Ino: f.open.Ino(), Handle: h, Size: &s})
		return err
	}))
}

// Allocate is fallocate(2).
func (f *File) Allocate(mode uint32, off, length int64) error {
	if off < 0 || length <= 0 {
		return &os.PathError{Op: "fallocate", Path: f.path, Err: syscall.EINVAL}
	}
	return pathError("fallocate", f.path, f.change("fallocate", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.Allocate(ctx, &filepb.RangeRequest{Handle: h, Offset: uint64(off), Length: uint64(length), Mode: mode})
		return err
	}))
}

// Sync makes the file durable. Writes are already when they return.
func (f *File) Sync() error {
	return pathError("sync", f.path, f.call("sync", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		sync := a.Files.Fsync
		if f.dir {
			sync = a.Files.FsyncDir
		}
		_, err := sync(ctx, &filepb.HandleRequest{Handle: h})
		return err
	}))
}

// Close closes the file. On a node that is gone there is nothing to close.
func (f *File) Close() error {
	if f.open.Alive() != nil {
		return &os.PathError{Op: "close", Path: f.path, Err: os.ErrClosed}
	}
	return pathError("close", f.path, f.open.Close(f.c.ctx, true, errClosed()))
}
