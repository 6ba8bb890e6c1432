package fuse

import (
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/internal/errors"
)

// Requests about names: lookup, creation, removal, directories.

func (c *conn) String() string      { return "dfs" }
func (c *conn) SetDebug(bool)       {}
func (c *conn) Init(*gofuse.Server) {}
func (c *conn) OnUnmount()          {}

// Forget comes once for an inode, when the kernel lets go of it: the counts add up to all there were.
func (c *conn) Forget(nodeid, nlookup uint64) {
	c.lookups.forgotten(nodeid, nlookup)
	c.fs.Forgotten(fs.Ino(nodeid))
}

func (c *conn) creating(r *inflight, mask uint32) *fs.Caller {
	r.caller.Umask = mask
	return &r.caller
}

func (c *conn) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	r := c.begin(cancel, h, opLookup)
	defer c.end(r)
	lease := c.fs.LeaseLeft()
	e, err := c.fs.Lookup(r, &r.caller, fs.Ino(h.NodeId), name)
	switch c.passes.answer(h.Pid, c.names, c.lookedUp(r, name, &e, err, lease)) {
	case stale:
		return gofuse.Status(unix.ESTALE)
	case hide:
		return gofuse.ENOENT
	}
	if errors.Is(err, errors.KindNotExist) && e.NameCacheable {
		out.SetEntryTimeout(c.names.offer(r.mark, h.NodeId, name, c.ttl(), true)) // a negative entry: node id 0
		return gofuse.OK
	}
	if err != nil {
		return c.status(r, err)
	}
	c.fillEntry(r, h.NodeId, name, &e, out)
	return gofuse.OK
}

func (c *conn) Mknod(cancel <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "mknod")
	defer c.end(r)
	e, err := c.fs.Mknod(r, c.creating(r, in.Umask), fs.Ino(in.NodeId), name, in.Mode, in.Rdev)
	return c.named(r, in.NodeId, name, e, err, out)
}

func (c *conn) Mkdir(cancel <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "mkdir")
	defer c.end(r)
	e, err := c.fs.Mkdir(r, c.creating(r, in.Umask), fs.Ino(in.NodeId), name, in.Mode)
	return c.named(r, in.NodeId, name, e, err, out)
}

func (c *conn) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, target, name string, out *gofuse.EntryOut) gofuse.Status {
	r := c.begin(cancel, h, "symlink")
	defer c.end(r)
	e, err := c.fs.Symlink(r, &r.caller, fs.Ino(h.NodeId), name, target)
	return c.named(r, h.NodeId, name, e, err, out)
}

func (c *conn) Link(cancel <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "link")
	defer c.end(r)
	e, err := c.fs.Link(r, &r.caller, fs.Ino(in.Oldnodeid), fs.Ino(in.NodeId), name)
	e.AttrCacheable = false // the kernel takes them without a look at their age (drop.go)
	return c.named(r, in.NodeId, name, e, err, out)
}

// named answers a request that made name in dir.
func (c *conn) named(r *inflight, dir uint64, name string, e fs.Entry, err error, out *gofuse.EntryOut) gofuse.Status {
	if err != nil {
		return c.status(r, err)
	}
	c.fillEntry(r, dir, name, &e, out)
	return gofuse.OK
}

func (c *conn) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	r := c.begin(cancel, h, "unlink")
	defer c.end(r)
	return c.status(r, c.fs.Unlink(r, &r.caller, fs.Ino(h.NodeId), name))
}

func (c *conn) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	r := c.begin(cancel, h, "rmdir")
	defer c.end(r)
	at := entryName{h.NodeId, name}
	r.caller.Takes = fs.Ino(c.passes.takes(h.Pid, at))
	c.passes.over(h.Pid, at)
	err := c.fs.Rmdir(r, &r.caller, fs.Ino(h.NodeId), name)
	if r.caller.Takes != 0 && errors.Is(err, errors.KindStale) {
		c.passes.stale(h.Pid, at, ending)
	}
	return c.status(r, err)
}

// lookedUp is a LOOKUP that began with so much of the lease left.
func (c *conn) lookedUp(r *inflight, name string, e *fs.Entry, err error, lease time.Duration) looked {
	n := looked{entryName: entryName{r.ino, name}, since: r.since, lease: lease, mark: r.mark, sure: e.NameCacheable, until: time.Now().Add(c.fs.LeaseLeft())}
	if err == nil {
		n.ino, n.folder = uint64(e.Attr.Ino), e.Attr.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return n
}

func (c *conn) Rename(cancel <-chan struct{}, in *gofuse.RenameIn, oldName, newName string) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "rename")
	defer c.end(r)
	from, to := entryName{in.NodeId, oldName}, entryName{in.Newdir, newName}
	if in.Flags&unix.RENAME_EXCHANGE == 0 {
		r.caller.Takes = fs.Ino(c.passes.takes(in.Pid, to))
	}
	hidden := c.passes.over(in.Pid, to)
	c.concerns(r, in.Newdir)
	c.names.move(from, to, in.Flags&unix.RENAME_EXCHANGE != 0)
	defer c.names.moved(from, to)
	err := c.fs.Rename(r, &r.caller, fs.Ino(in.NodeId), oldName, fs.Ino(in.Newdir), newName, in.Flags)
	if r.caller.Takes != 0 && errors.Is(err, errors.KindStale) {
		c.passes.stale(in.Pid, to, refused)
	}
	if hidden != 0 && err == nil { // the kernel knows of nothing that was replaced
		c.names.drop(hidden)
		c.notify.invalInode(hidden, -1, 0)
	}
	return c.status(r, err)
}

func (c *conn) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "opendir")
	defer c.end(r)
	h, err := c.fs.OpenDir(r, &r.caller, fs.Ino(in.NodeId))
	out.Fh = uint64(h)
	return c.status(r, err)
}

func (c *conn) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "readdir")
	defer c.end(r)
	return c.status(r, c.fs.ReadDir(r, fs.Handle(in.Fh), in.Offset, false, func(d fs.DirEntry) bool {
		return out.AddDirEntry(gofuse.DirEntry{Name: d.Name, Ino: uint64(d.Ino), Mode: d.Type, Off: d.Cookie})
	}))
}

func (c *conn) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "readdirplus")
	defer c.end(r)
	return c.status(r, c.fs.ReadDir(r, fs.Handle(in.Fh), in.Offset, true, func(d fs.DirEntry) bool {
		entry := out.AddDirLookupEntry(gofuse.DirEntry{Name: d.Name, Ino: uint64(d.Ino), Mode: d.Type, Off: d.Cookie})
		if entry == nil {
			return false
		}
		if d.Entry != nil {
			c.fillEntry(r, in.NodeId, d.Name, d.Entry, entry)
		}
		return true
	}))
}

func (c *conn) ReleaseDir(in *gofuse.ReleaseIn) {
	r := c.begin(nil, &in.InHeader, "releasedir")
	defer c.end(r)
	c.status(r, c.fs.ReleaseDir(r, fs.Handle(in.Fh)))
}

func (c *conn) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "fsyncdir")
	defer c.end(r)
	return c.status(r, c.fs.FsyncDir(r, fs.Handle(in.Fh)))
}
