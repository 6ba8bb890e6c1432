// Package posixclient is the Go client of dfs: Open, Close, Read, Write and
// what goes with them, with POSIX flags and errors, against the file service of the
// nodes. It needs no mount, holds no lock and no block.
//
// # Contract
//
// A call that changes something returns once the change is durable on a
// majority of the nodes; every later call of any client or mount sees it.
// Errors are *os.PathError and *os.LinkError around a syscall.Errno, so
// errors.Is(err, fs.ErrNotExist) and errors.Is(err, syscall.ENOTEMPTY) work; where a
// context ended, errors.Is(err, context.Canceled) or DeadlineExceeded, too. When the node in use
// fails, the client goes on with another, and open files with it. A call that changes something is done once
// all the same: the nodes note its number with the change. Where they cannot tell its outcome any more (the client was away for
// minutes), that is told as an error (EIO); it is never repeated. Contexts bound every wait:
// see WithContext. All methods are safe for concurrent use.
//
// A write is sent in pieces of 1 MiB, each of them done whole and in one place: where two clients write one range at once, or append to one file, the
// bytes of a call of up to 1 MiB are all there, together, or have all been overwritten by the other's. Of a longer call this holds for each piece (the first MiB
// of the call, the next, …), and between the pieces other writes may come; programs that write more at once to what they share take turns.
// (A client that dies, or a context that ends, amid a call may leave the beginning of it.)
//
// An open file is opened again on another node by its inode number, with the permissions as they
// are then, as soon as the node in use fails. One without a name (unlinked, or made with O_TMPFILE) stays by that; if the
// client finds no node within half a minute it is gone, and calls say so (ENOENT or ESTALE).
package posixclient

import (
	"context"
	stderrors "errors"
	"os"
	"syscall"
	"time"

	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// rootIno is the root directory's inode number.
const rootIno = 1

// transferMax is the most one Read or Write call carries, in bytes.
const transferMax = 1 << 20

// Options says who the client is and how long it waits.
type Options struct {
	// UID, GID, Groups are claimed; the nodes squash them to nobody unless they allow them.
	UID, GID uint32
	Groups   []uint32
	Umask    uint32
	// Wait bounds the search for a node that answers (default 30 s; negative: for ever).
	Wait time.Duration
}

// Client is a connection to a cluster.
type Client struct {
	conn *fileconn.Conn
	opt  Options
	ctx  context.Context
}

// Dial makes a client of the cluster with these nodes ("host:port,host:port,…"
// split; any of them will do), and checks that one answers, and that they are of one cluster (KindForeign).
func Dial(ctx context.Context, addrs []string, opt Options) (*Client, error) {
	if len(addrs) == 0 {
		return nil, errors.New(errors.KindInvalid, "no node addresses given; write them as host:port,host:port")
	}
	if opt.Wait == 0 {
		opt.Wait = 30 * time.Second
	}
	conn, err := fileconn.Dial(ctx, addrs, opt.Wait)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, opt: opt, ctx: context.Background()}, nil
}

// ParseAddrs splits a CLUSTER argument.
func ParseAddrs(s string) ([]string, error) { return cluster.ParseAddrs(s) }

// WithContext returns a client whose calls end with ctx; it shares the connection.
func (c *Client) WithContext(ctx context.Context) *Client {
	d := *c
	d.ctx = ctx
	return &d
}

// Close gives the connection up; open files become unusable.
func (c *Client) Close() error {
	c.conn.Close()
	return nil
}

func (c *Client) caller() *filepb.Caller {
	return &filepb.Caller{Uid: c.opt.UID, Gid: c.opt.GID, Groups: c.opt.Groups, Umask: c.opt.Umask}
}

// pathError wraps err as os functions do.
func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: posix(err)}
}

// posix makes an error that is a syscall.Errno for errors.Is, and keeps the text of those
// that an errno says too little about.
func posix(err error) error {
	no := errors.Errno(err)
	switch no {
	case syscall.EIO, syscall.ETIMEDOUT, syscall.EINTR, syscall.EBADF, syscall.EMFILE, syscall.EINVAL, syscall.ESTALE:
		var de *errors.Error
		if stderrors.As(err, &de) && de.Text != "" {
			return &textErrno{no, de}
		}
	}
	return no
}

// textErrno is an errno with an explanation.
type textErrno struct {
	no  syscall.Errno
	err *errors.Error
}

func (e *textErrno) Error() string        { return e.no.Error() + ": " + e.err.Error() }
func (e *textErrno) Is(target error) bool { return target == e.no || e.no.Is(target) }
func (e *textErrno) Unwrap() error        { return e.err }
func (e *textErrno) Timeout() bool        { return e.no.Timeout() }

// Stat follows symlinks.
func (c *Client) Stat(path string) (os.FileInfo, error) { return c.stat("stat", path, true) }

// Lstat does not follow the last component.
func (c *Client) Lstat(path string) (os.FileInfo, error) { return c.stat("lstat", path, false) }

func (c *Client) stat(op, path string, follow bool) (os.FileInfo, error) {
	a, err := c.resolve(path, follow)
	if err != nil {
		return nil, pathError(op, path, err)
	}
	return fileInfo{name: baseName(path), attr: a}, nil
}

// Mkdir makes a directory.
func (c *Client) Mkdir(path string, perm os.FileMode) error {
	p, err := c.parent(path)
	if err == nil && !p.normal() {
		err = errors.Of(errors.KindExist)
	}
	if err == nil {
		err = c.change("mkdir "+path, func(ctx context.Context, files filepb.FilesClient) error {
			_, err := files.Mkdir(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name), Mode: unixMode(perm)})
			return err
		})
	}
	return pathError("mkdir", path, err)
}

// MkdirAll makes a directory and what is missing above it.
func (c *Client) MkdirAll(path string, perm os.FileMode) error {
	info, err := c.Stat(path)
	if err != nil {
		for _, prefix := range prefixes(path) {
			if err := c.Mkdir(prefix, perm); err != nil && !c.isDir(prefix) {
				if stderrors.Is(err, os.ErrExist) {
					err = &os.PathError{Op: "mkdir", Path: prefix, Err: syscall.ENOTDIR}
				}
				return err
			}
		}
		info, err = c.Stat(path)
	}
	if err == nil && !info.IsDir() {
		err = &os.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	return err
}

func (c *Client) isDir(path string) bool {
	info, err := c.Stat(path)
	return err == nil && info.IsDir()
}

// Symlink makes path a symbolic link to target.
func (c *Client) Symlink(target, path string) error {
	p, err := c.newName(path)
	if err == nil {
		err = c.change("symlink "+path, func(ctx context.Context, files filepb.FilesClient) error {
			_, err := files.Symlink(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name), Target: []byte(target)})
			return err
		})
	}
	return linkError("symlink", target, path, err)
}

// Mknod makes a FIFO, socket or device node: mode as mknod(2) takes it.
func (c *Client) Mknod(path string, mode, dev uint32) error {
	p, err := c.newName(path)
	if err == nil {
		err = c.change("mknod "+path, func(ctx context.Context, files filepb.FilesClient) error {
			_, err := files.Mknod(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name), Mode: mode, Rdev: dev})
			return err
		})
	}
	return pathError("mknod", path, err)
}

// Link gives the file at path one more name. A symlink at path is not followed.
func (c *Client) Link(path, newPath string) error {
	old, err := c.resolve(path, false)
	if err == nil {
		err = c.link(old.GetIno(), newPath)
	}
	return linkError("link", path, newPath, err)
}

func (c *Client) link(ino uint64, newPath string) error {
	p, err := c.newName(newPath)
	if err != nil {
		return err
	}
	return c.change("link "+newPath, func(ctx context.Context, files filepb.FilesClient) error {
		_, err := files.Link(ctx, &filepb.LinkRequest{Caller: c.caller(), Ino: ino, Dir: p.dir, Name: []byte(p.name)})
		return err
	})
}

// Unlink removes a name that is no directory.
func (c *Client) Unlink(path string) error { return pathError("unlink", path, c.unlink(path)) }

func (c *Client) unlink(path string) error {
	p, err := c.parent(path)
	if err != nil {
		return err
	}
	if !p.normal() {
		return errors.Of(errors.KindIsDir)
	}
	if p.slash {
		attr, err := c.lookup(p.dir, p.name)
		switch {
		case err != nil:
			return err
		case isDir(attr):
			return errors.Of(errors.KindIsDir)
		}
		return errors.Of(errors.KindNotDir)
	}
	return c.change("unlink "+path, func(ctx context.Context, files filepb.FilesClient) error {
		_, err := files.Unlink(ctx, &filepb.NameRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name)})
		return err
	})
}

// Rmdir removes an empty directory.
func (c *Client) Rmdir(path string) error { return pathError("rmdir", path, c.rmdir(path)) }

func (c *Client) rmdir(path string) error {
	p, err := c.parent(path)
	if err != nil {
		return err
	}
	switch p.name {
	case ".":
		return errors.Of(errors.KindInvalid)
	case "..":
		return errors.Of(errors.KindNotEmpty)
	case "/":
		return errors.Of(errors.KindBusy)
	}
	return c.change("rmdir "+path, func(ctx context.Context, files filepb.FilesClient) error {
		_, err := files.Rmdir(ctx, &filepb.NameRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name)})
		return err
	})
}

// Remove removes a file or an empty directory.
func (c *Client) Remove(path string) error {
	err := c.Unlink(path)
	if stderrors.Is(err, syscall.EISDIR) || stderrors.Is(err, syscall.EPERM) {
		if rerr := c.Rmdir(path); !stderrors.Is(rerr, syscall.ENOTDIR) {
			return rerr
		}
	}
	return err
}

// RemoveAll removes path and all below it; nil if there is nothing.
func (c *Client) RemoveAll(path string) error {
	err := c.Remove(path)
	if err == nil || stderrors.Is(err, os.ErrNotExist) {
		return nil
	}
	if !stderrors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	entries, err := c.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.RemoveAll(join(path, e.Name())); err != nil {
			return err
		}
	}
	return c.Rmdir(path)
}

// Flags of Rename2, as in renameat2(2).
const (
	RenameNoReplace uint32 = 1
	RenameExchange  uint32 = 2
)

// Rename moves a name, replacing what is at the new one.
func (c *Client) Rename(path, newPath string) error { return c.Rename2(path, newPath, 0) }

// Rename2 is Rename with flags.
func (c *Client) Rename2(path, newPath string, flags uint32) error {
	return linkError("rename", path, newPath, c.rename(path, newPath, flags))
}

func (c *Client) rename(path, newPath string, flags uint32) error {
	from, err := c.parent(path)
	if err != nil {
		return err
	}
	to, err := c.parent(newPath)
	if err != nil {
		return err
	}
	if !from.normal() || !to.normal() {
		return errors.Of(errors.KindBusy)
	}
	if from.slash || to.slash {
		attr, err := c.lookup(from.dir, from.name)
		if err != nil {
			return err
		}
		if !isDir(attr) {
			return errors.Of(errors.KindNotDir)
		}
	}
	return c.change("rename "+path, func(ctx context.Context, files filepb.FilesClient) error {
		_, err := files.Rename(ctx, &filepb.RenameRequest{Caller: c.caller(), Dir: from.dir, Name: []byte(from.name),
			NewDir: to.dir, NewName: []byte(to.name), Flags: flags})
		return err
	})
}

func linkError(op, path, newPath string, err error) error {
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: op, Old: path, New: newPath, Err: posix(err)}
}

// Readlink returns a symlink's target.
func (c *Client) Readlink(path string) (string, error) {
	a, err := c.resolve(path, false)
	if err != nil {
		return "", pathError("readlink", path, err)
	}
	target, err := c.readlink(a.GetIno())
	return target, pathError("readlink", path, err)
}

func (c *Client) readlink(ino uint64) (target string, err error) {
	err = c.conn.Call(c.ctx, "readlink", func(ctx context.Context, a *fileconn.Attachment) error {
		r, err := a.Files.Readlink(ctx, &filepb.InodeRequest{Caller: c.caller(), Ino: ino})
		target = string(r.GetText())
		return err
	})
	return target, err
}

// setAttr changes attributes of the file at path.
func (c *Client) setAttr(op, path string, follow bool, r *filepb.SetAttrRequest) error {
	attr, err := c.resolve(path, follow)
	if err != nil {
		return pathError(op, path, err)
	}
	r.Caller, r.Ino = c.caller(), attr.GetIno()
	return pathError(op, path, c.conn.Change(c.ctx, op+" "+path, func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.SetAttr(ctx, r)
		return err
	}))
}

// Chmod changes the permission bits.
func (c *Client) Chmod(path string, mode os.FileMode) error {
	m := unixMode(mode)
	return c.setAttr("chmod", path, true, &filepb.SetAttrRequest{Mode: &m})
}

// Chown changes owner and group; -1 leaves one as it is.
func (c *Client) Chown(path string, uid, gid int) error {
	return c.setAttr("chown", path, true, chownRequest(uid, gid))
}

// Lchown is Chown of a symlink itself.
func (c *Client) Lchown(path string, uid, gid int) error {
	return c.setAttr("lchown", path, false, chownRequest(uid, gid))
}

func chownRequest(uid, gid int) *filepb.SetAttrRequest {
	r := &filepb.SetAttrRequest{}
	if uid >= 0 {
		u := uint32(uid)
		r.Uid = &u
	}
	if gid >= 0 {
		g := uint32(gid)
		r.Gid = &g
	}
	return r
}

// Chtimes sets access and modification time.
func (c *Client) Chtimes(path string, atime, mtime time.Time) error {
	return c.setAttr("chtimes", path, true, &filepb.SetAttrRequest{Atime: wireTime(atime), Mtime: wireTime(mtime)})
}

func wireTime(t time.Time) *filepb.Time {
	return &filepb.Time{Seconds: t.Unix(), Nanos: uint32(t.Nanosecond())}
}

// Truncate sets the size.
func (c *Client) Truncate(path string, size int64) error {
	if size < 0 {
		return &os.PathError{Op: "truncate", Path: path, Err: syscall.EINVAL}
	}
	s := uint64(size)
	return c.setAttr("truncate", path, true, &filepb.SetAttrRequest{Size: &s})
}

// Access checks as access(2) does: mask of 4 read, 2 write, 1 execute.
func (c *Client) Access(path string, mask uint32) error {
	attr, err := c.resolve(path, true)
	if err == nil {
		err = c.conn.Call(c.ctx, "access "+path, func(ctx context.Context, a *fileconn.Attachment) error {
			_, err := a.Files.Access(ctx, &filepb.AccessRequest{Caller: c.caller(), Ino: attr.GetIno(), Mask: mask})
			return err
		})
	}
	return pathError("access", path, err)
}

// Sync makes everything done through this client's node durable.
func (c *Client) Sync() error {
	err := c.conn.Call(c.ctx, "sync", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.SyncAll(ctx, &filepb.Empty{})
		return err
	})
	return syscallError("sync", err)
}

// syscallError wraps the error of a call that names no path.
func syscallError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.SyscallError{Syscall: op, Err: posix(err)}
}

// Usage is the space of the file system, in bytes.
type Usage struct{ Total, Free, Available uint64 }

// StatFS tells the space of the file system.
func (c *Client) StatFS() (u Usage, err error) {
	err = c.conn.Call(c.ctx, "statfs", func(ctx context.Context, a *fileconn.Attachment) error {
		r, err := a.Files.StatFS(ctx, &filepb.Empty{})
		u = Usage{Total: r.GetBlocks() * 4096, Free: r.GetFree() * 4096, Available: r.GetAvail() * 4096}
		return err
	})
	return u, syscallError("statfs", err)
}
