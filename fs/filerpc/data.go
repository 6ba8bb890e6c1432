package filerpc

import (
	"context"
	"syscall"

	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// Calls about attributes, open files and their data.

func (s *Server) GetAttr(ctx context.Context, r *filepb.InodeRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	e, err := f.GetAttr(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()))
	return entry(e, err)
}

func (s *Server) SetAttr(ctx context.Context, r *filepb.SetAttrRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	var h fs.Handle
	if r.GetHandle() != nil {
		if h, err = s.handle(r.GetHandle()); err != nil {
			return nil, err
		}
	}
	who := s.caller(r.GetCaller())
	change := fs.SetAttr{
		Mode: r.Mode, UID: r.Uid, GID: r.Gid, Size: r.Size, Atime: timeFromWire(r.GetAtime()), Mtime: timeFromWire(r.GetMtime()),
		AtimeNow: r.GetAtimeNow(), MtimeNow: r.GetMtimeNow(), KillPriv: r.GetKillPriv() || r.Size != nil && who.KillPriv,
	}
	return s.making(ctx, f, r.GetIno(), func(ctx context.Context) (fs.Entry, error) {
		return f.SetAttr(ctx, who, fs.Ino(r.GetIno()), h, change)
	})
}

func (s *Server) Access(ctx context.Context, r *filepb.AccessRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, f.Access(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()), r.GetMask())
}

func (s *Server) Readlink(ctx context.Context, r *filepb.InodeRequest) (*filepb.TextResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	target, err := f.Readlink(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()))
	return &filepb.TextResponse{Text: []byte(target)}, err
}

func (s *Server) Open(ctx context.Context, r *filepb.OpenRequest) (*filepb.OpenResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	if r.GetReopen() && r.GetFlags()&(syscall.O_TRUNC|syscall.O_EXCL|syscall.O_CREAT) != 0 {
		return nil, errors.New(errors.KindInvalid, "opening again with O_TRUNC, O_EXCL or O_CREAT")
	}
	who := s.caller(r.GetCaller())
	if r.GetFlags()&syscall.O_TRUNC != 0 {
		return s.openOnce(ctx, f, r.GetClient(), who, r.GetFlags(), func(ctx context.Context) (*fs.Entry, fs.Handle, error) {
			h, _, err := f.Open(ctx, who, fs.Ino(r.GetIno()), r.GetFlags())
			return nil, h, err
		})
	}
	h, _, err := f.Open(ctx, who, fs.Ino(r.GetIno()), r.GetFlags())
	return s.opened(r.GetClient(), handle{h: h, killPriv: who.KillPriv}, nil, err)
}

// createFlags are the flags that mean nothing any more once the file is there (0x400000 is O_TMPFILE's own).
const createFlags = syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC | syscall.O_DIRECTORY | 0x400000

// Create implements filepb.FilesServer.
func (s *Server) Create(ctx context.Context, r *filepb.MakeRequest) (*filepb.OpenResponse, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	who := s.caller(r.GetCaller())
	return s.openOnce(ctx, f, r.GetClient(), who, r.GetFlags(), func(ctx context.Context) (*fs.Entry, fs.Handle, error) {
		e, h, _, err := f.Create(ctx, who, fs.Ino(r.GetDir()), string(r.GetName()), r.GetMode(), r.GetFlags())
		return &e, h, err
	})
}

// Tmpfile implements filepb.FilesServer.
func (s *Server) Tmpfile(ctx context.Context, r *filepb.MakeRequest) (*filepb.OpenResponse, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	who := s.caller(r.GetCaller())
	return s.openOnce(ctx, f, r.GetClient(), who, r.GetFlags(), func(ctx context.Context) (*fs.Entry, fs.Handle, error) {
		e, h, _, err := f.Tmpfile(ctx, who, fs.Ino(r.GetDir()), r.GetMode(), r.GetFlags())
		return &e, h, err
	})
}

// opened numbers what was opened with err, and answers.
func (s *Server) opened(client []byte, h handle, e *fs.Entry, err error) (*filepb.OpenResponse, error) {
	var n uint64
	if err == nil {
		n, err = s.keep(client, h)
	}
	if err != nil {
		if h.h != 0 {
			s.release([]*handle{&h})
		}
		return nil, err
	}
	out := &filepb.OpenResponse{Number: n}
	if e != nil {
		out.Attr = attrToWire(&e.Attr)
	}
	return out, nil
}

func (s *Server) Read(ctx context.Context, r *filepb.ReadRequest) (*filepb.DataResponse, error) {
	if err := checkLength(uint64(r.GetLength())); err != nil {
		return nil, err
	}
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	buf := make([]byte, r.GetLength())
	n, err := s.fs.Read(ctx, h, buf, r.GetOffset())
	return &filepb.DataResponse{Data: buf[:n]}, err
}

func (s *Server) Write(ctx context.Context, r *filepb.WriteRequest) (*filepb.WriteResponse, error) {
	if err := checkLength(uint64(len(r.GetData()))); err != nil {
		return nil, err
	}
	open, err := s.find(r.GetHandle(), false)
	if err != nil {
		return nil, err
	}
	if open.dir {
		return nil, errors.Of(errors.KindBadHandle)
	}
	var at uint64
	done, err := s.once(ctx, func(ctx context.Context) (err error) {
		if at, err = s.write(ctx, open, r); err != nil {
			return err
		}
		return s.fs.Fsync(ctx, open.h, false)
	})
	if done != nil {
		at = done.At
	}
	return &filepb.WriteResponse{At: at}, err
}

// The flags of a WriteRequest.
const (
	writeKillPriv = 1 // clear set-id bits, whoever opened the file
	writeAs       = 2 // writeAtEnd decides whether it appends, not the open
	writeAtEnd    = 4
)

func (s *Server) write(ctx context.Context, open *handle, r *filepb.WriteRequest) (uint64, error) {
	flags := r.GetFlags()
	kill := open.killPriv || flags&writeKillPriv != 0
	if flags&writeAs != 0 {
		return s.fs.WriteAs(ctx, open.h, r.GetData(), r.GetOffset(), kill, flags&writeAtEnd != 0)
	}
	return s.fs.Write(ctx, open.h, r.GetData(), r.GetOffset(), kill)
}

func (s *Server) Allocate(ctx context.Context, r *filepb.RangeRequest) (*filepb.Empty, error) {
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	return s.changing(ctx, s.fs, func(ctx context.Context) error {
		return s.fs.Allocate(ctx, h, r.GetOffset(), r.GetLength(), r.GetMode())
	})
}

func (s *Server) Seek(ctx context.Context, r *filepb.SeekRequest) (*filepb.NumberResponse, error) {
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	at, err := s.fs.Seek(ctx, h, r.GetOffset(), int(r.GetWhence()))
	return &filepb.NumberResponse{Number: at}, err
}

func (s *Server) CopyRange(ctx context.Context, r *filepb.CopyRequest) (*filepb.NumberResponse, error) {
	from, err := s.handle(r.GetFrom())
	if err != nil {
		return nil, err
	}
	to, err := s.handle(r.GetTo())
	if err != nil {
		return nil, err
	}
	var n uint64
	done, err := s.once(ctx, func(ctx context.Context) (err error) {
		if n, err = s.fs.CopyRange(ctx, from, r.GetFromOffset(), to, r.GetToOffset(), r.GetLength()); err != nil {
			return err
		}
		return s.fs.Fsync(ctx, to, false)
	})
	if done != nil {
		n = done.At
	}
	return &filepb.NumberResponse{Number: n}, err
}

func (s *Server) Fsync(ctx context.Context, r *filepb.HandleRequest) (*filepb.Empty, error) {
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, s.fs.Fsync(ctx, h, r.GetDataOnly())
}

func (s *Server) Flush(ctx context.Context, r *filepb.HandleRequest) (*filepb.Empty, error) {
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, s.fs.Flush(ctx, h, ownerOf(r.GetHandle().GetClient(), r.GetOwner()))
}

func (s *Server) Release(ctx context.Context, r *filepb.HandleRequest) (*filepb.Empty, error) {
	return s.closing(ctx, r.GetHandle())
}

func (s *Server) GetXattr(ctx context.Context, r *filepb.XattrRequest) (*filepb.DataResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	value, err := f.GetXattr(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()), r.GetName())
	return &filepb.DataResponse{Data: value}, err
}

func (s *Server) SetXattr(ctx context.Context, r *filepb.XattrRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	return s.changing(ctx, f, func(ctx context.Context) error {
		return f.SetXattr(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()), r.GetName(), r.GetValue(), r.GetFlags())
	})
}

func (s *Server) ListXattr(ctx context.Context, r *filepb.InodeRequest) (*filepb.NamesResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	names, err := f.ListXattr(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()))
	out := &filepb.NamesResponse{}
	for _, n := range names {
		out.Names = append(out.Names, []byte(n))
	}
	return out, err
}

func (s *Server) RemoveXattr(ctx context.Context, r *filepb.XattrRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	return s.changing(ctx, f, func(ctx context.Context) error {
		return f.RemoveXattr(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()), r.GetName())
	})
}

func (s *Server) TestLock(ctx context.Context, r *filepb.LockRequest) (*filepb.LockResponse, error) {
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	found, err := s.fs.TestLock(ctx, h, lockOf(r))
	return &filepb.LockResponse{Lock: lockToWire(found)}, err
}

// lockOf is the lock that a request is about.
func lockOf(r *filepb.LockRequest) fs.FileLock {
	l := lockFromWire(r.GetLock())
	l.Owner = ownerOf(r.GetHandle().GetClient(), l.Owner)
	return l
}

func (s *Server) SetLock(ctx context.Context, r *filepb.LockRequest) (*filepb.Empty, error) {
	h, err := s.handle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	l := lockOf(r)
	err = s.fs.SetLock(ctx, h, l, r.GetWait())
	if err == nil && ctx.Err() != nil && l.Type != fs.LockUnlock {
		// Whoever asked has gone, and lets go what it was granted, too, if this is what it is told by (Remote.SetLock).
		l.Type = fs.LockUnlock
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWait)
		defer cancel()
		err = s.fs.SetLock(undo, h, l, false)
	}
	return &filepb.Empty{}, err
}
