package fuse

import (
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"dfs/fs"
)

// Requests about attributes, extended attributes, symlinks and the file system as a whole.

func (c *conn) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "getattr")
	defer c.end(r)
	e, err := c.fs.GetAttr(r, &r.caller, fs.Ino(in.NodeId))
	if err != nil {
		return c.status(r, err)
	}
	c.fillAttrOut(r, &e, out)
	return gofuse.OK
}

func (c *conn) Statx(cancel <-chan struct{}, in *gofuse.StatxIn, out *gofuse.StatxOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "statx")
	defer c.end(r)
	e, err := c.fs.GetAttr(r, &r.caller, fs.Ino(in.NodeId))
	if err != nil {
		return c.status(r, err)
	}
	a := &e.Attr
	out.Statx = gofuse.Statx{
		Mask: unix.STATX_BASIC_STATS | unix.STATX_BTIME, Blksize: 4096, Nlink: a.Nlink, Uid: a.UID, Gid: a.GID,
		Mode: uint16(a.Mode), Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Blocks,
		Atime: sxTime(a.Atime), Btime: sxTime(a.Btime), Ctime: sxTime(a.Ctime), Mtime: sxTime(a.Mtime),
		RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
	}
	if e.AttrCacheable {
		ttl := c.names.fresh(r.mark, uint64(a.Ino), c.ttl())
		out.AttrValid, out.AttrValidNsec = uint64(ttl/time.Second), uint32(ttl%time.Second)
	}
	return gofuse.OK
}

func sxTime(t time.Time) gofuse.SxTime {
	return gofuse.SxTime{Sec: uint64(t.Unix()), Nsec: uint32(t.Nanosecond())}
}

func (c *conn) SetAttr(cancel <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "setattr")
	defer c.end(r)
	var s fs.SetAttr
	var h fs.Handle
	if fh, ok := in.GetFh(); ok {
		h = fs.Handle(fh)
	}
	if mode, ok := in.GetMode(); ok {
		s.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		s.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		s.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s.Size = &size
	}
	s.AtimeNow, s.MtimeNow = in.Valid&gofuse.FATTR_ATIME_NOW != 0, in.Valid&gofuse.FATTR_MTIME_NOW != 0
	if in.Valid&gofuse.FATTR_ATIME != 0 && !s.AtimeNow {
		t := time.Unix(int64(in.Atime), int64(in.Atimensec))
		s.Atime = &t
	}
	if in.Valid&gofuse.FATTR_MTIME != 0 && !s.MtimeNow {
		t := time.Unix(int64(in.Mtime), int64(in.Mtimensec))
		s.Mtime = &t
	}
	s.KillPriv = in.Valid&gofuse.FATTR_KILL_SUIDGID != 0
	e, err := c.fs.SetAttr(r, &r.caller, fs.Ino(in.NodeId), h, s)
	if err != nil {
		return c.status(r, err)
	}
	fillAttr(&e.Attr, &out.Attr) // with timeout 0: the kernel takes them without a look at their age (drop.go)
	return gofuse.OK
}

func (c *conn) Access(cancel <-chan struct{}, in *gofuse.AccessIn) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "access")
	defer c.end(r)
	return c.status(r, c.fs.Access(r, &r.caller, fs.Ino(in.NodeId), in.Mask))
}

func (c *conn) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	r := c.begin(cancel, h, "readlink")
	defer c.end(r)
	target, err := c.fs.Readlink(r, &r.caller, fs.Ino(h.NodeId))
	return []byte(target), c.status(r, err)
}

func (c *conn) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, attr string, dest []byte) (uint32, gofuse.Status) {
	r := c.begin(cancel, h, "getxattr")
	defer c.end(r)
	value, err := c.fs.GetXattr(r, &r.caller, fs.Ino(h.NodeId), attr)
	if err != nil {
		return 0, c.status(r, err)
	}
	if len(value) > len(dest) {
		return uint32(len(value)), gofuse.ERANGE
	}
	return uint32(copy(dest, value)), gofuse.OK
}

func (c *conn) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	r := c.begin(cancel, h, "listxattr")
	defer c.end(r)
	names, err := c.fs.ListXattr(r, &r.caller, fs.Ino(h.NodeId))
	if err != nil {
		return 0, c.status(r, err)
	}
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	if len(list) > len(dest) {
		return uint32(len(list)), gofuse.ERANGE
	}
	return uint32(copy(dest, list)), gofuse.OK
}

// setxattrACLKillSGID is FUSE_SETXATTR_ACL_KILL_SGID: the caller is not in the file's group.
const setxattrACLKillSGID = 1

func (c *conn) SetXAttr(cancel <-chan struct{}, in *gofuse.SetXAttrIn, attr string, data []byte) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "setxattr")
	defer c.end(r)
	if uint32(len(data)) < in.Size {
		return gofuse.Status(syscall.EINVAL)
	}
	r.caller.KillPriv = in.SetXAttrFlags&setxattrACLKillSGID != 0
	return c.status(r, c.fs.SetXattr(r, &r.caller, fs.Ino(in.NodeId), attr, append([]byte(nil), data[:in.Size]...), in.Flags))
}

func (c *conn) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, attr string) gofuse.Status {
	r := c.begin(cancel, h, "removexattr")
	defer c.end(r)
	return c.status(r, c.fs.RemoveXattr(r, &r.caller, fs.Ino(h.NodeId), attr))
}

func (c *conn) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	r := c.begin(cancel, h, "statfs")
	defer c.end(r)
	s, err := c.fs.StatFS(r)
	if err != nil {
		return c.status(r, err)
	}
	*out = gofuse.StatfsOut{Blocks: s.Blocks, Bfree: s.Free, Bavail: s.Avail, Files: s.Files, Ffree: s.FilesFree,
		Bsize: 4096, Frsize: 4096, NameLen: 255}
	return gofuse.OK
}
