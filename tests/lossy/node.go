package lossy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a file or directory; what changes nothing is LoopbackNode's.
type node struct {
	fs.LoopbackNode
	d *Disk
}

// file is an open file.
type file struct {
	n     *node
	fd    int
	dsync bool
}

var (
	_ fs.NodeWrapChilder    = (*node)(nil)
	_ fs.NodeOpener         = (*node)(nil)
	_ fs.NodeCreater        = (*node)(nil)
	_ fs.NodeFsyncer        = (*node)(nil)
	_ fs.NodeSetattrer      = (*node)(nil)
	_ fs.NodeRenamer        = (*node)(nil)
	_ fs.NodeUnlinker       = (*node)(nil)
	_ fs.NodeMkdirer        = (*node)(nil)
	_ fs.NodeRmdirer        = (*node)(nil)
	_ fs.NodeLinker         = (*node)(nil)
	_ fs.NodeSymlinker      = (*node)(nil)
	_ fs.FileReader         = (*file)(nil)
	_ fs.FileWriter         = (*file)(nil)
	_ fs.FileReleaser       = (*file)(nil)
	_ fs.FileAllocater      = (*file)(nil)
	_ fs.FileLseeker        = (*file)(nil)
	_ fs.FileGetattrer      = (*file)(nil)
	_ fs.FileFlusher        = (*file)(nil)
	_ fs.NodeOpendirHandler = (*node)(nil)
	_ fs.FileFsyncdirer     = (*directory)(nil)
	_ fs.NodeStatfser       = (*node)(nil)
	_ fs.NodeCopyFileRanger = (*node)(nil)
)

// WrapChild makes a node of one that LoopbackNode has made.
func (n *node) WrapChild(_ context.Context, made fs.InodeEmbedder) fs.InodeEmbedder {
	return n.d.node(made.(*fs.LoopbackNode).RootData)
}

func (n *node) path(names ...string) string {
	return filepath.Join(append([]string{n.d.backing, n.Path(n.Root())}, names...)...)
}

// begin takes the disk for a change. The caller lets go of it if there is no error.
func (d *Disk) begin() syscall.Errno {
	d.mu.Lock()
	if d.off || d.failing.Load() {
		d.mu.Unlock()
		return syscall.EIO
	}
	return 0
}

// dead reports whether the disk has no power.
func (d *Disk) dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.off
}

// directory is an open directory: the host's, but for its sync.
type directory struct {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
	n *node
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if n.d.dead() {
		return nil, 0, syscall.EIO
	}
	h, fuseFlags, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &directory{h.(fs.FileReaddirenter), h.(fs.FileSeekdirer), h.(fs.FileReleasedirer), n}, fuseFlags, 0
}

// Fsyncdir makes all names durable.
func (d *directory) Fsyncdir(context.Context, uint32) syscall.Errno {
	disk := d.n.d
	if errno := disk.begin(); errno != 0 {
		return errno
	}
	defer disk.mu.Unlock()
	disk.names = nil
	return 0
}

func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if n.d.dead() {
		return nil, 0, syscall.EIO
	}
	if flags&unix.O_TRUNC != 0 {
		if errno := n.truncate(0); errno != 0 {
			return nil, 0, errno
		}
	}
	return n.open(flags, n.path(), 0)
}

// open opens the file of the host. Neither O_DIRECT, for which buffers here are not made, nor O_APPEND, which the kernel has seen to, go there.
func (n *node) open(flags uint32, path string, mode uint32) (fs.FileHandle, uint32, syscall.Errno) {
	host := int(flags)&(unix.O_CREAT|unix.O_EXCL) | unix.O_RDWR | unix.O_CLOEXEC
	fd, err := unix.Open(path, host, mode)
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	return &file{n: n, fd: fd, dsync: flags&unix.O_DSYNC != 0}, 0, 0
}

func (n *node) Create(ctx context.Context, name string, flags uint32, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.d.begin(); errno != 0 {
		return nil, nil, 0, errno
	}
	path := n.path(name)
	_, err := os.Lstat(path)
	f, _, errno := n.open(flags|unix.O_CREAT, path, mode)
	if errno == 0 && os.IsNotExist(err) {
		n.d.names = append(n.d.names, func() { _ = os.Remove(path) })
	}
	n.d.mu.Unlock()
	if errno != 0 {
		return nil, nil, 0, errno
	}
	child, errno := n.Lookup(ctx, name, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	own := f.(*file)
	own.n = child.Operations().(*node)
	if err == nil && flags&unix.O_TRUNC != 0 {
		errno = own.n.truncate(0)
	}
	return child, own, 0, errno
}

func (f *file) Read(_ context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if f.n.d.dead() {
		return nil, syscall.EIO
	}
	got, err := unix.Pread(f.fd, buf, off)
	if err != nil {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(buf[:got]), 0
}

func (f *file) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	d := f.n.d
	if errno := d.begin(); errno != 0 {
		return 0, errno
	}
	defer d.mu.Unlock()
	if _, err := d.change(f.fd, f.n.path(), off, int64(len(data))); err != nil {
		return 0, fs.ToErrno(err)
	}
	done, err := unix.Pwrite(f.fd, data, off)
	if err == nil && f.dsync {
		err = d.synced(f.fd, off, int64(done))
	}
	return uint32(max(done, 0)), fs.ToErrno(err)
}

func (f *file) Release(context.Context) syscall.Errno { return fs.ToErrno(unix.Close(f.fd)) }
func (f *file) Flush(context.Context) syscall.Errno   { return 0 }

func (f *file) Getattr(_ context.Context, out *fuse.AttrOut) syscall.Errno {
	var st syscall.Stat_t
	err := syscall.Fstat(f.fd, &st)
	if err == nil {
		out.FromStat(&st)
	}
	return fs.ToErrno(err)
}

func (f *file) Lseek(_ context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	at, err := unix.Seek(f.fd, int64(off), int(whence))
	return uint64(at), fs.ToErrno(err)
}

// Allocate of a range that holds data (a hole is punched, or zeros made) changes it.
func (f *file) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	d := f.n.d
	if errno := d.begin(); errno != 0 {
		return errno
	}
	defer d.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return fs.ToErrno(err)
	}
	s, err := d.change(f.fd, f.n.path(), int64(off), 0)
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 && err == nil {
		err = d.changeData(f.fd, f.n.path(), int64(off), min(int64(off+size), st.Size))
	}
	if err == nil {
		err = unix.Fallocate(f.fd, mode, int64(off), int64(size))
	}
	if err == nil && mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		s.resized = true
	}
	return fs.ToErrno(err)
}

// CopyFileRange is left to the kernel, which reads and writes.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.EOPNOTSUPP
}

// Fsync makes the content of a file durable.
func (n *node) Fsync(_ context.Context, h fs.FileHandle, _ uint32) syscall.Errno {
	if errno := n.d.begin(); errno != 0 {
		return errno
	}
	defer n.d.mu.Unlock()
	f, ok := h.(*file)
	if !ok {
		return syscall.EINVAL
	}
	return fs.ToErrno(n.d.synced(f.fd, 0, -1))
}

func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if errno := n.truncate(int64(size)); errno != 0 {
			return errno
		}
		in.Valid &^= fuse.FATTR_SIZE
	}
	return n.LoopbackNode.Setattr(ctx, nil, in, out)
}

func (n *node) truncate(size int64) syscall.Errno {
	if errno := n.d.begin(); errno != 0 {
		return errno
	}
	defer n.d.mu.Unlock()
	f, err := os.OpenFile(n.path(), os.O_RDWR, 0)
	if err != nil {
		return fs.ToErrno(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil {
		var s *state
		if s, err = n.d.change(int(f.Fd()), n.path(), size, 0); err == nil {
			err = n.d.changeData(int(f.Fd()), n.path(), size, st.Size())
		}
		if err == nil {
			err, s.resized = f.Truncate(size), true
		}
	}
	return fs.ToErrno(err)
}

// changeName does a change of names, and remembers how to undo it.
func (n *node) changeName(do func() syscall.Errno, undo func()) syscall.Errno {
	if errno := n.d.begin(); errno != 0 {
		return errno
	}
	defer n.d.mu.Unlock()
	errno := do()
	if errno == 0 {
		n.d.names = append(n.d.names, undo)
	}
	return errno
}

// spare gives a file that is about to lose a name another one, and returns how to undo the loss.
func (d *Disk) spare(path string) (undo func()) {
	d.last++
	other := filepath.Join(d.removed, fmt.Sprint(d.last))
	if err := os.Link(path, other); err != nil {
		return func() {}
	}
	for _, s := range d.files {
		if s.path == path {
			s.path = other
		}
	}
	return func() { _ = os.Rename(other, path) }
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	var undo func()
	return n.changeName(func() syscall.Errno {
		undo = n.d.spare(n.path(name))
		return n.LoopbackNode.Unlink(ctx, name)
	}, func() { undo() })
}

func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if flags != 0 {
		return syscall.EINVAL
	}
	from, to := n.path(name), parent.(*node).path(newName)
	undo := func() {}
	return n.changeName(func() syscall.Errno {
		if _, err := os.Lstat(to); err == nil {
			undo = n.d.spare(to)
		}
		for _, s := range n.d.files {
			if s.path == from {
				s.path = to
			}
		}
		return fs.ToErrno(os.Rename(from, to))
	}, func() { _ = os.Rename(to, from); undo() })
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (child *fs.Inode, errno syscall.Errno) {
	path := n.path(name)
	errno = n.changeName(func() syscall.Errno {
		child, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return errno
	}, func() { _ = os.Remove(path) })
	return child, errno
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	path := n.path(name)
	return n.changeName(func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) }, func() { _ = os.Mkdir(path, 0o755) })
}

// Link and Symlink are not needed by what is kept here.

func (n *node) Link(context.Context, fs.InodeEmbedder, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

func (n *node) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}
