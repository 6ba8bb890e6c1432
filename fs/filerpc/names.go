package filerpc

import (
	"context"

	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// Calls about names. Each changing one is made durable before it is answered.

// entry answers a call that gives an entry.
func entry(e fs.Entry, err error) (*filepb.EntryResponse, error) {
	if err != nil {
		return nil, err
	}
	return &filepb.EntryResponse{Attr: attrToWire(&e.Attr)}, nil
}

func (s *Server) Lookup(ctx context.Context, r *filepb.NameRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	e, err := f.Lookup(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()))
	return entry(e, err)
}

func (s *Server) Mknod(ctx context.Context, r *filepb.MakeRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	return s.making(ctx, f, 0, func(ctx context.Context) (fs.Entry, error) {
		return f.Mknod(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()), r.GetMode(), r.GetRdev())
	})
}

func (s *Server) Mkdir(ctx context.Context, r *filepb.MakeRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	return s.making(ctx, f, 0, func(ctx context.Context) (fs.Entry, error) {
		return f.Mkdir(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()), r.GetMode())
	})
}

func (s *Server) Symlink(ctx context.Context, r *filepb.MakeRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	return s.making(ctx, f, 0, func(ctx context.Context) (fs.Entry, error) {
		return f.Symlink(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()), string(r.GetTarget()))
	})
}

func (s *Server) Link(ctx context.Context, r *filepb.LinkRequest) (*filepb.EntryResponse, error) {
	f, err := s.files(ctx, r.GetIno(), r.GetDir())
	if err != nil {
		return nil, err
	}
	return s.making(ctx, f, r.GetIno(), func(ctx context.Context) (fs.Entry, error) {
		return f.Link(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()), fs.Ino(r.GetDir()), string(r.GetName()))
	})
}

func (s *Server) Unlink(ctx context.Context, r *filepb.NameRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	return s.changing(ctx, f, func(ctx context.Context) error {
		return f.Unlink(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()))
	})
}

func (s *Server) Rmdir(ctx context.Context, r *filepb.NameRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetDir())
	if err != nil {
		return nil, err
	}
	return s.changing(ctx, f, func(ctx context.Context) error {
		return f.Rmdir(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()))
	})
}

func (s *Server) Rename(ctx context.Context, r *filepb.RenameRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetDir(), r.GetNewDir())
	if err != nil {
		return nil, err
	}
	return s.changing(ctx, f, func(ctx context.Context) error {
		return f.Rename(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetDir()), string(r.GetName()),
			fs.Ino(r.GetNewDir()), string(r.GetNewName()), r.GetFlags())
	})
}

func (s *Server) OpenDir(ctx context.Context, r *filepb.InodeRequest) (*filepb.OpenResponse, error) {
	f, err := s.files(ctx, r.GetIno())
	if err != nil {
		return nil, err
	}
	h, err := f.OpenDir(ctx, s.caller(r.GetCaller()), fs.Ino(r.GetIno()))
	if err != nil {
		return nil, err
	}
	return s.opened(r.GetClient(), handle{h: h, dir: true}, nil, nil)
}

// entriesMax bounds one ReadDir answer.
const entriesMax = 4096

func (s *Server) ReadDir(ctx context.Context, r *filepb.ReadDirRequest) (*filepb.ReadDirResponse, error) {
	h, err := s.dirHandle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	most := int(min(r.GetMax(), entriesMax))
	if most == 0 {
		most = entriesMax
	}
	out := &filepb.ReadDirResponse{End: true}
	err = s.fs.ReadDir(ctx, h, r.GetCookie(), r.GetPlus(), func(d fs.DirEntry) bool {
		if len(out.Entries) == most {
			out.End = false
			return false
		}
		e := &filepb.DirEntry{Name: []byte(d.Name), Ino: uint64(d.Ino), Type: d.Type, Cookie: d.Cookie}
		if d.Entry != nil {
			e.Attr = attrToWire(&d.Entry.Attr)
		}
		out.Entries = append(out.Entries, e)
		return true
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Server) FsyncDir(ctx context.Context, r *filepb.HandleRequest) (*filepb.Empty, error) {
	h, err := s.dirHandle(r.GetHandle())
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, s.fs.FsyncDir(ctx, h)
}

func (s *Server) ReleaseDir(ctx context.Context, r *filepb.HandleRequest) (*filepb.Empty, error) {
	return s.closing(ctx, r.GetHandle())
}

func (s *Server) SyncAll(ctx context.Context, _ *filepb.Empty) (*filepb.Empty, error) {
	f, err := s.files(ctx)
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, f.SyncAll(ctx)
}

func (s *Server) StatFS(ctx context.Context, _ *filepb.Empty) (*filepb.StatFSResponse, error) {
	f, err := s.files(ctx)
	if err != nil {
		return nil, err
	}
	st, err := f.StatFS(ctx)
	if err != nil {
		return nil, err
	}
	return &filepb.StatFSResponse{Blocks: st.Blocks, Free: st.Free, Avail: st.Avail, Files: st.Files, FilesFree: st.FilesFree}, nil
}

// checkLength refuses a transfer beyond DataBytesMax.
func checkLength(n uint64) error {
	if n > DataBytesMax {
		return errors.New(errors.KindInvalid, "one call carries at most %d bytes, not %d", DataBytesMax, n)
	}
	return nil
}
