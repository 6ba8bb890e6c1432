package posixclient

import (
	"context"
	"os"
	"syscall"

	"dfs/internal/errors"
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

func (c *Client) newFile(path string, flags uint32) *File {
	return &File{c: c, path: path, flags: flags & reopenFlags, opening: newGate(), position: newGate(), numbers: map[string]uint64{}}
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
	f := c.newFile(path, flags)
	f.ino, f.dir = attr.GetIno(), isDir(attr)
	// Truncating twice is truncating once, so the first open is idempotent, too.
	err := c.conn.call(c.ctx, true, "open "+path, func(ctx context.Context, a *attachment) error {
		_, err := f.openOn(ctx, a, flags&^uint32(syscall.O_CREAT|syscall.O_EXCL), false)
		return err
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
	f := c.newFile(path, flags)
	// Without O_EXCL a second try finds what a first one made and opens it.
	err := c.conn.call(c.ctx, flags&syscall.O_EXCL == 0, "create "+path, func(ctx context.Context, a *attachment) error {
		r, err := a.files.Create(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: p.dir, Name: []byte(p.name), Mode: unixMode(perm),
			Flags: flags | syscall.O_EXCL, Client: c.conn.id})
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
	f := c.newFile(path, flags)
	// A file without a name that nobody got to know is freed: making two is making one.
	err = c.conn.call(c.ctx, true, "open "+path, func(ctx context.Context, a *attachment) error {
		r, err := a.files.Tmpfile(ctx, &filepb.MakeRequest{Caller: c.caller(), Dir: dir.GetIno(), Mode: unixMode(perm), Flags: flags, Client: c.conn.id})
		return f.made(a, r, err)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// made takes the answer to a creating call.
func (f *File) made(a *attachment, r *filepb.OpenResponse, err error) error {
	if err == nil {
		f.ino = r.GetAttr().GetIno()
		f.setNumber(a, r.GetNumber())
	}
	return err
}

// openOn opens the file's inode on attachment a and gives its number there.
func (f *File) openOn(ctx context.Context, a *attachment, flags uint32, again bool) (uint64, error) {
	var r *filepb.OpenResponse
	var err error
	if f.dir {
		r, err = a.files.OpenDir(ctx, &filepb.InodeRequest{Caller: f.c.caller(), Ino: f.ino, Client: f.c.conn.id})
	} else {
		r, err = a.files.Open(ctx, &filepb.OpenRequest{Caller: f.c.caller(), Ino: f.ino, Flags: flags, Client: f.c.conn.id, Reopen: again})
	}
	if err != nil {
		return 0, err
	}
	f.setNumber(a, r.GetNumber())
	return r.GetNumber(), nil
}
