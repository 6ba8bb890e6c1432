package posixclient

import (
	"context"
	"os"
	"syscall"

	"dfs/internal/errors"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// oTmpfile is the bit of O_TMPFILE beside O_DIRECTORY.
const oTmpfile = 0x400000

// createTries bounds how often O_CREAT looks again when others make and remove the name meanwhile.
const createTries = 100

// Open opens path with O_* flags; perm is for a file that O_CREAT or O_TMPFILE makes. O_DIRECTORY, O_NOFOLLOW,
// O_APPEND, O_EXCL, O_TRUNC, O_TMPFILE, O_SYNC and O_DSYNC mean what they do in open(2).
func (c *Client) Open(path string, flags int, perm os.FileMode) (*File, error) {
	f, err := c.open(path, uint32(flags), perm)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	return f, nil
}

// fileOf is a File of an inode, open nowhere yet.
func (c *Client) fileOf(path string, flags uint32, ino uint64, dir bool) *File {
	o := c.conn.NewOpen(ino, flags, dir, c.caller())
	return &File{c: c, path: path, open: o, flags: o.Flags(), dir: dir, position: fileconn.NewGate()}
}

func (c *Client) open(path string, flags uint32, perm os.FileMode) (*File, error) {
	switch {
	case flags&oTmpfile != 0:
		return c.tmpfile(path, flags, perm)
	case flags&syscall.O_CREAT != 0:
		return c.create(path, flags, perm)
	}
	attr, err := c.resolve(path, flags&syscall.O_NOFOLLOW == 0)
	if err != nil {
		return nil, err
	}
	return c.openFound(path, attr, flags)
}

// openFound opens the inode that path led to.
func (c *Client) openFound(path string, attr *filepb.Attr, flags uint32) (*File, error) {
	switch {
	case flags&syscall.O_DIRECTORY != 0 && !isDir(attr):
		return nil, errors.Of(errors.KindNotDir)
	case isLink(attr):
		return nil, errors.Of(errors.KindLoop)
	case isDir(attr) && (flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&(syscall.O_CREAT|syscall.O_TRUNC) != 0):
		return nil, errors.Of(errors.KindIsDir)
	}
	f := c.fileOf(path, flags, attr.GetIno(), isDir(attr))
	run := c.conn.Call
	if flags&syscall.O_TRUNC != 0 {
		run = c.conn.Change
	}
	err := run(c.ctx, "open "+path, func(ctx context.Context, a *fileconn.Attachment) error {
		return f.open.First(ctx, a, flags&^uint32(syscall.O_CREAT|syscall.O_EXCL))
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// create opens with O_CREAT: the file that is there, behind symlinks too, or a new one.
func (c *Client) create(path string, flags uint32, perm os.FileMode) (*File, error) {
	if flags&syscall.O_DIRECTORY != 0 {
		return nil, errors.Of(errors.KindInvalid)
	}
	exclusive := flags&syscall.O_EXCL != 0
	at, links := path, 0
	for range createTries {
		p, err := c.parent(at)
		if err != nil {
			return nil, err
		}
		if !p.normal() || p.slash {
			return nil, errors.Of(errors.KindIsDir)
		}
		attr, err := c.lookup(p.dir, p.name)
		switch {
		case errors.Is(err, errors.KindNotExist):
			f, err := c.createAt(path, p, flags, perm)
			if exclusive || !errors.Is(err, errors.KindExist) {
				return f, err
			}
		case err != nil:
			return nil, err
		case exclusive:
			return nil, errors.Of(errors.KindExist)
		case isLink(attr) && flags&syscall.O_NOFOLLOW == 0:
			if links++; links > symlinksMax {
				return nil, errors.Of(errors.KindLoop)
			}
			if at, err = c.readlink(attr.GetIno()); err != nil {
				return nil, err
			}
			if at[:1] != "/" {
				at = p.path + at
			}
		default:
			return c.openFound(path, attr, flags)
		}
	}
	return nil, errors.New(errors.KindAgain, "%s comes and goes all the time", path)
}

// createAt makes the file; KindExist where it is there already.
func (c *Client) createAt(path string, p place, flags uint32, perm os.FileMode) (*File, error) {
	f := c.fileOf(path, flags, 0, false)
	err := c.conn.Change(c.ctx, "create "+path, func(ctx context.Context, a *fileconn.Attachment) error {
		r, err := a.Files.Create(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name), Mode: unixMode(perm),
			Flags: flags | syscall.O_EXCL, Client: c.conn.ID()})
		return f.made(a, r, err)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// tmpfile makes a file without a name in the directory at path.
func (c *Client) tmpfile(path string, flags uint32, perm os.FileMode) (*File, error) {
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY || flags&syscall.O_CREAT != 0 {
		return nil, errors.Of(errors.KindInvalid)
	}
	dir, err := c.resolve(path, true)
	if err != nil {
		return nil, err
	}
	if !isDir(dir) {
		return nil, errors.Of(errors.KindNotDir)
	}
	flags &^= oTmpfile | syscall.O_DIRECTORY
	f := c.fileOf(path, flags, 0, false)
	err = c.conn.Change(c.ctx, "open "+path, func(ctx context.Context, a *fileconn.Attachment) error {
		r, err := a.Files.Tmpfile(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: dir.GetIno(), Mode: unixMode(perm), Flags: flags, Client: c.conn.ID()})
		return f.made(a, r, err)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// made takes the answer to a creating call.
func (f *File) made(a *fileconn.Attachment, r *filepb.OpenResponse, err error) error {
	if err == nil {
		f.open.Made(a, r)
	}
	return err
}
