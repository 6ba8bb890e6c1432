package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"dfs/fs"
	"dfs/internal/errors"
)

// Requests about open files: data, sync, locks.

func (c *conn) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "open")
	defer c.end(r)
	r.caller.KillPriv = in.Mode&gofuse.OPEN_KILL_SUIDGID != 0
	h, info, err := c.fs.Open(r, &r.caller, fs.Ino(in.NodeId), in.Flags)
	out.Fh, out.OpenFlags = uint64(h), c.openFlags(info)
	return c.status(r, err)
}

func (c *conn) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "create")
	defer c.end(r)
	r.caller.KillPriv = in.OpenFlags&gofuse.OPEN_KILL_SUIDGID != 0
	e, h, info, err := c.fs.Create(r, c.creating(r, in.Umask), fs.Ino(in.NodeId), name, in.Mode, in.Flags)
	if err != nil {
		return c.status(r, err)
	}
	out.Fh, out.OpenFlags = uint64(h), c.openFlags(info)
	c.fillEntry(r, in.NodeId, name, &e, &out.EntryOut)
	return gofuse.OK
}

func (c *conn) Tmpfile(cancel <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "tmpfile")
	defer c.end(r)
	e, h, info, err := c.fs.Tmpfile(r, c.creating(r, in.Umask), fs.Ino(in.NodeId), in.Mode, in.Flags)
	if err != nil {
		return c.status(r, err)
	}
	e.NameCacheable = false // it has no name
	out.Fh, out.OpenFlags = uint64(h), c.openFlags(info)
	c.fillEntry(r, in.NodeId, "", &e, &out.EntryOut)
	return gofuse.OK
}

func (c *conn) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	r := c.begin(cancel, &in.InHeader, "read")
	defer c.end(r)
	n, err := 0, error(nil)
	if c.io == nil {
		n, err = c.fs.Read(r, fs.Handle(in.Fh), buf, in.Offset)
	} else {
		n, err = c.io.ReadIO(r, fs.Handle(in.Fh), buf, in.Offset, readKind(in))
	}
	if err != nil {
		return nil, c.status(r, err)
	}
	if n < len(buf) && readKind(in) == fs.IOPages && !c.opt.Uncached && c.names.askAgain(r.mark, in.NodeId) {
		// From an answer that ends early the kernel learns that the file is shorter than it knew, but not if anything of the inode was dropped
		// since the question: the reader would be shown this content, and zeros up to the old size. This one is of a readahead; what
		// it fails to bring is asked for once more.
		return nil, gofuse.EINTR
	}
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}

func (c *conn) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	r := c.begin(cancel, &in.InHeader, "write")
	defer c.end(r)
	atEnd := in.Flags&syscall.O_APPEND != 0 && in.WriteFlags&gofuse.WRITE_CACHE == 0
	killPriv := in.WriteFlags&gofuse.WRITE_KILL_SUIDGID != 0
	var err error
	if c.io == nil {
		_, err = c.fs.WriteAs(r, fs.Handle(in.Fh), data, in.Offset, killPriv, atEnd)
	} else {
		_, err = c.io.WriteIO(r, fs.Handle(in.Fh), data, in.Offset, writeKind(in), killPriv, atEnd)
	}
	if err != nil {
		return 0, c.status(r, err)
	}
	return uint32(len(data)), gofuse.OK
}

// readKind tells a read past the page cache from one that fills pages: only the former is some process's, which the kernel names as the owner of
// locks.
func readKind(in *gofuse.ReadIn) fs.IOKind {
	if in.ReadFlags&gofuse.READ_LOCKOWNER != 0 {
		return fs.IODirect
	}
	return fs.IOPages
}

// writeKind tells likewise of a write.
func writeKind(in *gofuse.WriteIn) fs.IOKind {
	switch {
	case in.WriteFlags&gofuse.WRITE_CACHE != 0:
		return fs.IOWriteBack
	case in.WriteFlags&gofuse.WRITE_LOCKOWNER != 0:
		return fs.IODirect
	}
	return fs.IOPages
}

// Writev is left to Write: requests come in one piece here.
func (c *conn) Writev(cancel <-chan struct{}, in *gofuse.WriteIn, data [][]byte) (uint32, gofuse.Status) {
	return 0, gofuse.ENOSYS
}

func (c *conn) CopyFileRange(cancel <-chan struct{}, in *gofuse.CopyFileRangeIn) (uint32, gofuse.Status) {
	r := c.begin(cancel, &in.InHeader, "copy_file_range")
	defer c.end(r)
	length := min(in.Len, 1<<30) // the answer has 32 bits
	n, err := c.fs.CopyRange(r, fs.Handle(in.FhIn), in.OffIn, fs.Handle(in.FhOut), in.OffOut, length)
	return uint32(n), c.status(r, err)
}

func (c *conn) Lseek(cancel <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "lseek")
	defer c.end(r)
	off, err := c.fs.Seek(r, fs.Handle(in.Fh), in.Offset, int(in.Whence))
	out.Offset = off
	return c.status(r, err)
}

func (c *conn) Fallocate(cancel <-chan struct{}, in *gofuse.FallocateIn) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "fallocate")
	defer c.end(r)
	return c.status(r, c.fs.Allocate(r, fs.Handle(in.Fh), in.Offset, in.Length, in.Mode))
}

func (c *conn) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "flush")
	defer c.end(r)
	return c.status(r, c.fs.Flush(r, fs.Handle(in.Fh), in.LockOwner))
}

func (c *conn) Fsync(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "fsync")
	defer c.end(r)
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	return c.status(r, c.fs.Fsync(r, fs.Handle(in.Fh), in.FsyncFlags&dataOnly != 0))
}

func (c *conn) Release(cancel <-chan struct{}, in *gofuse.ReleaseIn) {
	r := c.begin(cancel, &in.InHeader, "release")
	defer c.end(r)
	c.status(r, c.fs.Release(r, fs.Handle(in.Fh)))
}

func (c *conn) Ioctl(cancel <-chan struct{}, in *gofuse.IoctlIn, inbuf []byte, out *gofuse.IoctlOut, outbuf []byte) gofuse.Status {
	return gofuse.Status(syscall.ENOTTY)
}

func (c *conn) GetLk(cancel <-chan struct{}, in *gofuse.LkIn, out *gofuse.LkOut) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, "getlk")
	defer c.end(r)
	lock, err := fileLock(in)
	if err != nil {
		return c.status(r, err)
	}
	found, err := c.fs.TestLock(r, fs.Handle(in.Fh), lock)
	if err != nil {
		return c.status(r, err)
	}
	out.Lk = gofuse.FileLock{Start: found.Start, End: found.End, Typ: lockTypes[found.Type], Pid: found.PID}
	return gofuse.OK
}

func (c *conn) SetLk(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	return c.setLock(cancel, in, "setlk", false)
}

func (c *conn) SetLkw(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	return c.setLock(cancel, in, opLockWait, true)
}

func (c *conn) setLock(cancel <-chan struct{}, in *gofuse.LkIn, op string, wait bool) gofuse.Status {
	r := c.begin(cancel, &in.InHeader, op)
	defer c.end(r)
	lock, err := fileLock(in)
	if err != nil {
		return c.status(r, err)
	}
	return c.status(r, c.fs.SetLock(r, fs.Handle(in.Fh), lock, wait))
}

var lockTypes = map[fs.LockType]uint32{fs.LockRead: syscall.F_RDLCK, fs.LockWrite: syscall.F_WRLCK, fs.LockUnlock: syscall.F_UNLCK}

func fileLock(in *gofuse.LkIn) (fs.FileLock, error) {
	lock := fs.FileLock{Owner: in.Owner, Start: in.Lk.Start, End: in.Lk.End, PID: in.Lk.Pid, Flock: in.LkFlags&gofuse.LK_FLOCK != 0}
	for t, typ := range lockTypes {
		if typ == in.Lk.Typ {
			lock.Type = t
			return lock, nil
		}
	}
	return lock, errors.New(errors.KindInvalid, "lock type %d", in.Lk.Typ)
}
