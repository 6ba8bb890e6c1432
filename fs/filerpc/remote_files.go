package filerpc

import (
	"context"
	"syscall"

	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// Remote's calls about open files and directories.

// direct says how a kernel may cache: not at all.
var direct = fs.OpenInfo{DirectIO: true}

// Open implements fs.FileSystem.
func (r *Remote) Open(ctx context.Context, c *fs.Caller, ino fs.Ino, flags uint32) (fs.Handle, fs.OpenInfo, error) {
	o := r.conn.NewOpen(uint64(ino), flags, false, caller(c))
	run := r.read
	if flags&syscall.O_TRUNC != 0 {
		run = r.change
	}
	err := run(ctx, "open", func(ctx context.Context, a *fileconn.Attachment) error { return o.First(ctx, a, flags) })
	if err != nil {
		return 0, fs.OpenInfo{}, err
	}
	return r.keep(o), direct, nil
}

// creating is a call that makes a file and opens it.
type creating func(files filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.OpenResponse, error)

func (r *Remote) createOpen(ctx context.Context, what string, req *filepb.MakeRequest, call creating) (fs.Entry, fs.Handle, fs.OpenInfo, error) {
	var e fs.Entry
	o := r.conn.NewOpen(0, req.Flags, false, req.Caller)
	req.Client = r.conn.ID()
	err := r.change(ctx, what, func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := call(a.Files, ctx, req)
		if err == nil {
			o.Made(a, out)
			e = fs.Entry{Attr: attrFromWire(out.GetAttr())}
		}
		return err
	})
	if err != nil {
		return e, 0, fs.OpenInfo{}, err
	}
	return e, r.keep(o), direct, nil
}

// Create implements fs.FileSystem.
func (r *Remote) Create(ctx context.Context, c *fs.Caller, dir fs.Ino, name string, mode, flags uint32) (fs.Entry, fs.Handle, fs.OpenInfo, error) {
	req := &filepb.MakeRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name), Mode: mode, Flags: flags}
	return r.createOpen(ctx, "create", req, func(f filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.OpenResponse, error) {
		return f.Create(ctx, req)
	})
}

// Tmpfile implements fs.FileSystem.
func (r *Remote) Tmpfile(ctx context.Context, c *fs.Caller, dir fs.Ino, mode, flags uint32) (fs.Entry, fs.Handle, fs.OpenInfo, error) {
	req := &filepb.MakeRequest{Caller: caller(c), Dir: uint64(dir), Mode: mode, Flags: flags}
	return r.createOpen(ctx, "tmpfile", req, func(f filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.OpenResponse, error) {
		return f.Tmpfile(ctx, req)
	})
}

// Read implements fs.FileSystem.
func (r *Remote) Read(ctx context.Context, h fs.Handle, dst []byte, off uint64) (n int, err error) {
	for done := 0; ; {
		part := dst[done:min(len(dst), done+DataBytesMax)]
		err = r.through(ctx, h, "read", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
			into := filepb.DataInto{Data: part}
			err := a.CC.Invoke(ctx, filepb.Files_Read_FullMethodName, &filepb.ReadRequest{Handle: h, Offset: off + uint64(done), Length: uint32(len(part))}, &into)
			n = into.N
			return err
		})
		if err != nil {
			return done, err
		}
		if done += n; n < len(part) || done == len(dst) {
			return done, nil
		}
	}
}

// Write implements fs.FileSystem.
func (r *Remote) Write(ctx context.Context, h fs.Handle, data []byte, off uint64, killPriv bool) (uint64, error) {
	o, err := r.open(h)
	if err != nil {
		return 0, err
	}
	return r.write(ctx, o, data, off, killPriv, o.Flags()&syscall.O_APPEND != 0)
}

// WriteAs implements fs.FileSystem.
func (r *Remote) WriteAs(ctx context.Context, h fs.Handle, data []byte, off uint64, killPriv, atEnd bool) (uint64, error) {
	o, err := r.open(h)
	if err != nil {
		return 0, err
	}
	return r.write(ctx, o, data, off, killPriv, atEnd)
}

// write goes in calls of at most DataBytesMax, each whole. What is sent is a copy: a call that its context ends
// may go on sending for a moment, while data is its owner's again.
func (r *Remote) write(ctx context.Context, o *fileconn.Open, data []byte, off uint64, killPriv, atEnd bool) (at uint64, err error) {
	flags := uint32(writeAs)
	if killPriv {
		flags |= writeKillPriv
	}
	if atEnd {
		flags |= writeAtEnd
	}
	buf := make([]byte, min(len(data), DataBytesMax))
	for done := 0; ; {
		part := buf[:copy(buf, data[done:])]
		begins := off + uint64(done)
		err = o.Change(ctx, "write", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
			out, err := a.Files.Write(ctx, &filepb.WriteRequest{Handle: h, Offset: begins, Data: part, Flags: flags})
			if err == nil {
				begins = out.GetAt()
			}
			return err
		})
		if err != nil {
			return at, err
		}
		if done == 0 {
			at = begins
		}
		if done += len(part); done == len(data) {
			return at, nil
		}
	}
}

// Allocate implements fs.FileSystem.
func (r *Remote) Allocate(ctx context.Context, h fs.Handle, off, length uint64, mode uint32) error {
	return r.changeThrough(ctx, h, "fallocate", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.Allocate(ctx, &filepb.RangeRequest{Handle: h, Offset: off, Length: length, Mode: mode})
		return err
	})
}

// Seek implements fs.FileSystem.
func (r *Remote) Seek(ctx context.Context, h fs.Handle, off uint64, whence int) (at uint64, err error) {
	err = r.through(ctx, h, "seek", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		out, err := a.Files.Seek(ctx, &filepb.SeekRequest{Handle: h, Offset: off, Whence: uint32(whence)})
		at = out.GetNumber()
		return err
	})
	return at, err
}

// CopyRange implements fs.FileSystem.
func (r *Remote) CopyRange(ctx context.Context, from fs.Handle, fromOff uint64, to fs.Handle, toOff, length uint64) (n uint64, err error) {
	src, err := r.open(from)
	if err != nil {
		return 0, err
	}
	err = r.changeThrough(ctx, to, "copy", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		sh, err := src.On(ctx, a)
		if err != nil {
			return err
		}
		out, err := a.Files.CopyRange(ctx, &filepb.CopyRequest{From: sh, FromOffset: fromOff, To: h, ToOffset: toOff, Length: length})
		n = out.GetNumber()
		return err
	})
	return n, err
}

// Fsync implements fs.FileSystem.
func (r *Remote) Fsync(ctx context.Context, h fs.Handle, dataOnly bool) error {
	return r.through(ctx, h, "fsync", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.Fsync(ctx, &filepb.HandleRequest{Handle: h, DataOnly: dataOnly})
		return err
	})
}

// Flush implements fs.FileSystem.
func (r *Remote) Flush(ctx context.Context, h fs.Handle, owner uint64) error {
	o, err := r.open(h)
	if err != nil {
		return err
	}
	err = o.Call(ctx, "close", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.Flush(ctx, &filepb.HandleRequest{Handle: h, Owner: owner})
		if err == nil {
			o.NoteLock(a, owner, false, false)
		}
		return err
	})
	return err
}

// Release implements fs.FileSystem.
func (r *Remote) Release(ctx context.Context, h fs.Handle) error {
	r.mu.Lock()
	o := r.table[h]
	delete(r.table, h)
	r.mu.Unlock()
	if o == nil {
		return errors.Of(errors.KindBadHandle)
	}
	return o.Close(ctx, false, errors.Of(errors.KindBadHandle))
}

// OpenDir implements fs.FileSystem.
func (r *Remote) OpenDir(ctx context.Context, c *fs.Caller, ino fs.Ino) (fs.Handle, error) {
	o := r.conn.NewOpen(uint64(ino), syscall.O_RDONLY, true, caller(c))
	err := r.read(ctx, "opendir", func(ctx context.Context, a *fileconn.Attachment) error { return o.First(ctx, a, 0) })
	if err != nil {
		return 0, err
	}
	return r.keep(o), nil
}

// dirPage is how many entries are asked for at a time.
const dirPage = 512

// ReadDir implements fs.FileSystem.
func (r *Remote) ReadDir(ctx context.Context, h fs.Handle, cookie uint64, plus bool, yield func(fs.DirEntry) bool) error {
	for {
		var out *filepb.ReadDirResponse
		err := r.through(ctx, h, "readdir", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) (err error) {
			out, err = a.Files.ReadDir(ctx, &filepb.ReadDirRequest{Handle: h, Cookie: cookie, Plus: plus, Max: dirPage})
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range out.GetEntries() {
			d := fs.DirEntry{Name: string(e.GetName()), Ino: fs.Ino(e.GetIno()), Type: e.GetType(), Cookie: e.GetCookie()}
			if e.GetAttr() != nil {
				d.Entry = &fs.Entry{Attr: attrFromWire(e.GetAttr())}
			}
			if !yield(d) {
				return nil
			}
			cookie = d.Cookie
		}
		if out.GetEnd() || len(out.GetEntries()) == 0 {
			return nil
		}
	}
}

// FsyncDir implements fs.FileSystem.
func (r *Remote) FsyncDir(ctx context.Context, h fs.Handle) error {
	return r.through(ctx, h, "fsync", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		_, err := a.Files.FsyncDir(ctx, &filepb.HandleRequest{Handle: h})
		return err
	})
}

// ReleaseDir implements fs.FileSystem.
func (r *Remote) ReleaseDir(ctx context.Context, h fs.Handle) error { return r.Release(ctx, h) }
