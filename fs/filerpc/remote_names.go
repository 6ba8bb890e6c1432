package filerpc

import (
	"context"

	"dfs/fs"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// Remote's calls about names and attributes.

// Lookup implements fs.FileSystem.
func (r *Remote) Lookup(ctx context.Context, c *fs.Caller, dir fs.Ino, name string) (e fs.Entry, err error) {
	req := &filepb.NameRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name)}
	err = r.read(ctx, "lookup", func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := a.Files.Lookup(ctx, req)
		e = entryOf(out)
		return err
	})
	return e, err
}

// GetAttr implements fs.FileSystem.
func (r *Remote) GetAttr(ctx context.Context, c *fs.Caller, ino fs.Ino) (e fs.Entry, err error) {
	req := &filepb.InodeRequest{Caller: caller(c), Ino: uint64(ino)}
	err = r.read(ctx, "stat", func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := a.Files.GetAttr(ctx, req)
		e = entryOf(out)
		return err
	})
	return e, err
}

// SetAttr implements fs.FileSystem.
func (r *Remote) SetAttr(ctx context.Context, c *fs.Caller, ino fs.Ino, h fs.Handle, s fs.SetAttr) (e fs.Entry, err error) {
	req := &filepb.SetAttrRequest{Caller: caller(c), Ino: uint64(ino), Mode: s.Mode, Uid: s.UID, Gid: s.GID, Size: s.Size,
		Atime: optionalTime(s.Atime), Mtime: optionalTime(s.Mtime), AtimeNow: s.AtimeNow, MtimeNow: s.MtimeNow, KillPriv: s.KillPriv}
	set := func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		req.Handle = h
		out, err := a.Files.SetAttr(ctx, req)
		e = entryOf(out)
		return err
	}
	if h != 0 {
		return e, r.changeThrough(ctx, h, "setattr", set)
	}
	return e, r.change(ctx, "setattr", func(ctx context.Context, a *fileconn.Attachment) error { return set(ctx, a, nil) })
}

// Access implements fs.FileSystem.
func (r *Remote) Access(ctx context.Context, c *fs.Caller, ino fs.Ino, mask uint32) error {
	req := &filepb.AccessRequest{Caller: caller(c), Ino: uint64(ino), Mask: mask}
	return r.read(ctx, "access", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.Access(ctx, req)
		return err
	})
}

// Readlink implements fs.FileSystem.
func (r *Remote) Readlink(ctx context.Context, c *fs.Caller, ino fs.Ino) (target string, err error) {
	req := &filepb.InodeRequest{Caller: caller(c), Ino: uint64(ino)}
	err = r.read(ctx, "readlink", func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := a.Files.Readlink(ctx, req)
		target = string(out.GetText())
		return err
	})
	return target, err
}

// making is a call that makes a name.
type making func(files filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.EntryResponse, error)

func (r *Remote) make(ctx context.Context, what string, req *filepb.MakeRequest, call making) (e fs.Entry, err error) {
	err = r.change(ctx, what, func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := call(a.Files, ctx, req)
		e = entryOf(out)
		return err
	})
	return e, err
}

// Mknod implements fs.FileSystem.
func (r *Remote) Mknod(ctx context.Context, c *fs.Caller, dir fs.Ino, name string, mode, rdev uint32) (fs.Entry, error) {
	req := &filepb.MakeRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name), Mode: mode, Rdev: rdev}
	return r.make(ctx, "mknod", req, func(f filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.EntryResponse, error) {
		return f.Mknod(ctx, req)
	})
}

// Mkdir implements fs.FileSystem.
func (r *Remote) Mkdir(ctx context.Context, c *fs.Caller, dir fs.Ino, name string, mode uint32) (fs.Entry, error) {
	req := &filepb.MakeRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name), Mode: mode}
	return r.make(ctx, "mkdir", req, func(f filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.EntryResponse, error) {
		return f.Mkdir(ctx, req)
	})
}

// Symlink implements fs.FileSystem.
func (r *Remote) Symlink(ctx context.Context, c *fs.Caller, dir fs.Ino, name, target string) (fs.Entry, error) {
	req := &filepb.MakeRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name), Target: []byte(target)}
	return r.make(ctx, "symlink", req, func(f filepb.FilesClient, ctx context.Context, req *filepb.MakeRequest) (*filepb.EntryResponse, error) {
		return f.Symlink(ctx, req)
	})
}

// Link implements fs.FileSystem.
func (r *Remote) Link(ctx context.Context, c *fs.Caller, ino, dir fs.Ino, name string) (e fs.Entry, err error) {
	req := &filepb.LinkRequest{Caller: caller(c), Ino: uint64(ino), Dir: uint64(dir), Name: []byte(name)}
	err = r.change(ctx, "link", func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := a.Files.Link(ctx, req)
		e = entryOf(out)
		return err
	})
	return e, err
}

// Unlink implements fs.FileSystem.
func (r *Remote) Unlink(ctx context.Context, c *fs.Caller, dir fs.Ino, name string) error {
	req := &filepb.NameRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name)}
	return r.change(ctx, "unlink", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.Unlink(ctx, req)
		return err
	})
}

// Rmdir implements fs.FileSystem.
func (r *Remote) Rmdir(ctx context.Context, c *fs.Caller, dir fs.Ino, name string) error {
	req := &filepb.NameRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name)}
	return r.change(ctx, "rmdir", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.Rmdir(ctx, req)
		return err
	})
}

// Rename implements fs.FileSystem.
func (r *Remote) Rename(ctx context.Context, c *fs.Caller, dir fs.Ino, name string, newDir fs.Ino, newName string, flags uint32) error {
	req := &filepb.RenameRequest{Caller: caller(c), Dir: uint64(dir), Name: []byte(name), NewDir: uint64(newDir), NewName: []byte(newName), Flags: flags}
	return r.change(ctx, "rename", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.Rename(ctx, req)
		return err
	})
}

// GetXattr implements fs.FileSystem.
func (r *Remote) GetXattr(ctx context.Context, c *fs.Caller, ino fs.Ino, name string) (value []byte, err error) {
	req := &filepb.XattrRequest{Caller: caller(c), Ino: uint64(ino), Name: name}
	err = r.read(ctx, "getxattr", func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := a.Files.GetXattr(ctx, req)
		value = out.GetData()
		return err
	})
	return value, err
}

// SetXattr implements fs.FileSystem.
func (r *Remote) SetXattr(ctx context.Context, c *fs.Caller, ino fs.Ino, name string, value []byte, flags uint32) error {
	req := &filepb.XattrRequest{Caller: caller(c), Ino: uint64(ino), Name: name, Value: value, Flags: flags}
	return r.change(ctx, "setxattr", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.SetXattr(ctx, req)
		return err
	})
}

// ListXattr implements fs.FileSystem.
func (r *Remote) ListXattr(ctx context.Context, c *fs.Caller, ino fs.Ino) (names []string, err error) {
	req := &filepb.InodeRequest{Caller: caller(c), Ino: uint64(ino)}
	err = r.read(ctx, "listxattr", func(ctx context.Context, a *fileconn.Attachment) error {
		out, err := a.Files.ListXattr(ctx, req)
		names = nil
		for _, n := range out.GetNames() {
			names = append(names, string(n))
		}
		return err
	})
	return names, err
}

// RemoveXattr implements fs.FileSystem.
func (r *Remote) RemoveXattr(ctx context.Context, c *fs.Caller, ino fs.Ino, name string) error {
	req := &filepb.XattrRequest{Caller: caller(c), Ino: uint64(ino), Name: name}
	return r.change(ctx, "removexattr", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.RemoveXattr(ctx, req)
		return err
	})
}
