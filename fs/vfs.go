package fs

import (
	"context"
	"time"
)

// Ino is an inode number. Never reused, so there are no generations.
type Ino uint64

// RootIno is the root directory.
const RootIno Ino = 1

// Handle names an open file or directory of one FileSystem. 0 is none.
type Handle uint64

// Caller says who asks.
type Caller struct {
	UID, GID uint32
	Groups   []uint32 // supplementary groups; used only if Check
	PID      uint32
	Umask    uint32 // for creating operations; not yet applied to mode
	// KillPriv: an Open with O_TRUNC clears set-id bits (HANDLE_KILLPRIV_V2), a SetXattr of an access ACL the set-group-id bit.
	KillPriv bool
	// Kernel: a kernel asks, which knows the inodes that it was told of until FileSystem.Forgotten.
	Kernel bool
	// Takes is the directory for which a kernel takes the name that an Rmdir removes or a Rename replaces, and which it will hold for
	// dead afterwards; 0: not known. Another one there is KindStale.
	Takes Ino
	// Check asks the file server to check permissions (modes, ACLs, sticky
	// bits) itself: for thin clients. Under a kernel mount with
	// default_permissions the kernel has done so.
	Check bool
}

// Attr is what stat tells.
type Attr struct {
	Ino                        Ino
	Mode                       uint32 // type and permission bits, as st_mode
	Nlink                      uint32
	UID, GID                   uint32
	Rdev                       uint32
	Size                       uint64 // bytes
	Blocks                     uint64 // units of 512 bytes
	Atime, Mtime, Ctime, Btime time.Time
}

// Entry is the answer to a lookup or a creation.
type Entry struct {
	Attr Attr
	// AttrCacheable and NameCacheable say whether the kernel may keep the attributes, the name
	// (for at most FileSystem.LeaseLeft; false while a revoke is under way, or through a thin client).
	AttrCacheable, NameCacheable bool
}

// SetAttr says which attributes to change; nil fields stay.
type SetAttr struct {
	Mode         *uint32
	UID, GID     *uint32
	Size         *uint64
	Atime, Mtime *time.Time
	AtimeNow     bool // set atime to the file server's now
	MtimeNow     bool
	KillPriv     bool // clear set-user-id, and set-group-id if group-executable (HANDLE_KILLPRIV_V2)
}

// OpenInfo tells the adapter how the kernel may cache the file's pages.
type OpenInfo struct {
	KeepCache bool // pages filled earlier are still right
	DirectIO  bool // bypass the page cache (a mapping still has pages)
}

// IOKind says what a kernel does with its pages in a Read or Write.
type IOKind uint8

const (
	// IOPages: a Read fills pages, locked and not up to date until it is answered; a Write has changed pages, of which it keeps at most
	// such a one locked.
	IOPages IOKind = iota
	// IODirect: past the pages. Before such a Write is sent the pages that it covers are dropped.
	IODirect
	// IOWriteBack: a Write of dirty pages of a mapping.
	IOWriteBack
)

// KernelIO is a FileSystem that wants to know what the kernel does. Its other Read and Write are IOPages where there is a kernel.
type KernelIO interface {
	ReadIO(ctx context.Context, h Handle, dst []byte, off uint64, kind IOKind) (int, error)
	// WriteIO is WriteAs.
	WriteIO(ctx context.Context, h Handle, data []byte, off uint64, kind IOKind, killPriv, atEnd bool) (at uint64, err error)
}

// DirEntry is one directory entry. Cookie resumes after it; cookies are stable
// while the directory changes.
type DirEntry struct {
	Name   string
	Ino    Ino
	Type   uint32 // S_IFMT bits of the mode
	Cookie uint64
	Entry  *Entry // only for ReadDir with plus, and then not for "." and ".."
}

// StatFS is what statfs tells; sizes in blocks of 4096 bytes.
type StatFS struct {
	Blocks, Free, Avail uint64
	Files, FilesFree    uint64
}

// LockType is that of a byte-range lock or flock.
type LockType uint8

// Lock types.
const (
	LockRead LockType = iota
	LockWrite
	LockUnlock
)

// FileLock is a POSIX byte-range lock, or (with Flock) a whole-file flock.
type FileLock struct {
	Owner      uint64 // the kernel's lock owner
	Start, End uint64 // inclusive; End = 1<<63-1 means to the end of file
	Type       LockType
	PID        uint32
	Flock      bool
}

// FileSystem is the one interface through which a file system is used: the
// local file server (*Server) implements it, and so does a remote one through
// filerpc. All methods are safe for concurrent use. Errors are of package
// dfs/internal/errors. Names are single components; "." and ".." are
// accepted by Lookup only. Offsets and sizes are in bytes.
//
// Once a changing method returned, every later call on any FileSystem of the
// cluster sees the change (rule R1); it is durable after Fsync, FsyncDir,
// SyncAll, or when the handle has O_SYNC/O_DSYNC (rule R2). Through a thin
// client it is durable when the method returns.
type FileSystem interface {
	Lookup(ctx context.Context, c *Caller, dir Ino, name string) (Entry, error)
	GetAttr(ctx context.Context, c *Caller, ino Ino) (Entry, error)
	// SetAttr changes attributes; h is the handle it came through (ftruncate), or 0.
	SetAttr(ctx context.Context, c *Caller, ino Ino, h Handle, s SetAttr) (Entry, error)
	Access(ctx context.Context, c *Caller, ino Ino, mask uint32) error
	Readlink(ctx context.Context, c *Caller, ino Ino) (string, error)

	Mknod(ctx context.Context, c *Caller, dir Ino, name string, mode, rdev uint32) (Entry, error)
	Mkdir(ctx context.Context, c *Caller, dir Ino, name string, mode uint32) (Entry, error)
	Symlink(ctx context.Context, c *Caller, dir Ino, name, target string) (Entry, error)
	Link(ctx context.Context, c *Caller, ino, dir Ino, name string) (Entry, error)
	Unlink(ctx context.Context, c *Caller, dir Ino, name string) error
	Rmdir(ctx context.Context, c *Caller, dir Ino, name string) error
	// Rename takes Linux's RENAME_NOREPLACE and RENAME_EXCHANGE; others are EINVAL.
	Rename(ctx context.Context, c *Caller, dir Ino, name string, newDir Ino, newName string, flags uint32) error

	// Open takes Linux's O_* flags (package syscall), as the others with flags of that name do.
	Open(ctx context.Context, c *Caller, ino Ino, flags uint32) (Handle, OpenInfo, error)
	Create(ctx context.Context, c *Caller, dir Ino, name string, mode, flags uint32) (Entry, Handle, OpenInfo, error)
	// Tmpfile makes an unnamed file in dir's file system (O_TMPFILE).
	Tmpfile(ctx context.Context, c *Caller, dir Ino, mode, flags uint32) (Entry, Handle, OpenInfo, error)
	// Read fills dst from off; n < len(dst) only at the end of the file.
	Read(ctx context.Context, h Handle, dst []byte, off uint64) (int, error)
	// Write writes all of data at off (at the true end where the handle has O_APPEND) and returns the offset
	// at which it begins; killPriv clears set-id bits with it.
	Write(ctx context.Context, h Handle, data []byte, off uint64, killPriv bool) (at uint64, err error)
	// WriteAs is Write that appends if and only if atEnd: a kernel tells with each write (fcntl changes O_APPEND after
	// the open, and a mapping's pages are written back to their place through any handle).
	WriteAs(ctx context.Context, h Handle, data []byte, off uint64, killPriv, atEnd bool) (at uint64, err error)
	Allocate(ctx context.Context, h Handle, off, length uint64, mode uint32) error
	// Seek answers SEEK_DATA and SEEK_HOLE.
	Seek(ctx context.Context, h Handle, off uint64, whence int) (uint64, error)
	CopyRange(ctx context.Context, from Handle, fromOff uint64, to Handle, toOff, length uint64) (uint64, error)
	Fsync(ctx context.Context, h Handle, dataOnly bool) error
	// Flush is called at each close(2) of a descriptor: it lets go POSIX locks of owner and reports lost data.
	Flush(ctx context.Context, h Handle, owner uint64) error
	Release(ctx context.Context, h Handle) error

	OpenDir(ctx context.Context, c *Caller, ino Ino) (Handle, error)
	// ReadDir calls yield for the entries after cookie (0: from the start) until yield
	// returns false or the directory ends.
	ReadDir(ctx context.Context, h Handle, cookie uint64, plus bool, yield func(DirEntry) bool) error
	// FsyncDir makes the directory durable; of the root, everything before it.
	FsyncDir(ctx context.Context, h Handle) error
	ReleaseDir(ctx context.Context, h Handle) error

	GetXattr(ctx context.Context, c *Caller, ino Ino, name string) ([]byte, error)
	// SetXattr takes XATTR_CREATE and XATTR_REPLACE.
	SetXattr(ctx context.Context, c *Caller, ino Ino, name string, value []byte, flags uint32) error
	ListXattr(ctx context.Context, c *Caller, ino Ino) ([]string, error)
	RemoveXattr(ctx context.Context, c *Caller, ino Ino, name string) error

	// TestLock returns the first lock in the way of l, or l with LockUnlock.
	TestLock(ctx context.Context, h Handle, l FileLock) (FileLock, error)
	// SetLock sets or lets go a lock; with wait it waits until ctx ends.
	SetLock(ctx context.Context, h Handle, l FileLock, wait bool) error

	// Forgotten tells that the kernel has let go of an inode: a directory removed, an inode replaced
	// by a rename, a file unlinked while open, by a Caller with Kernel, stays until then: for a working directory, an O_PATH descriptor,
	// an open that has only just looked the name up. Never waits.
	Forgotten(ino Ino)

	StatFS(ctx context.Context) (StatFS, error)
	// SyncAll makes everything before it durable.
	SyncAll(ctx context.Context) error
	// LeaseLeft is how long from now kernel caches of cacheable answers stay
	// right without being told; 0: not at all (thin clients).
	LeaseLeft() time.Duration
}

// Invalidator drops what a kernel has cached. The FUSE adapter implements it;
// the file server calls it while a lock is being revoked. None of its methods
// waits for an operation that waits for the lock being revoked.
type Invalidator interface {
	// DropData drops the cached pages of ino, having dirty pages of mappings written
	// back first (through Write, which is admitted meanwhile), and its attributes.
	// off, length bound the range; length 0 means to the end.
	DropData(ino Ino, off, length uint64)
	// DropAttr drops the cached attributes of ino, never waiting.
	DropAttr(ino Ino)
	// DropNames makes the kernel look up every name of dir again. It returns when no name of dir
	// that was handed out is still valid.
	DropNames(dir Ino)
}

// Knower is an Invalidator that can tell whether its kernel has an inode ino.
type Knower interface{ Knows(ino Ino) bool }

// DirectMapper is an Invalidator whose kernel may be unable to map a file shared that is open past its page cache (OpenInfo.DirectIO),
// and to keep mappings coherent with what is written so. Where it is, only descriptors to append are opened like that: through the cache those could write in the wrong place.
type DirectMapper interface{ MapsDirect() bool }

// KernelVoider is a FileSystem that can have its Invalidator drop all that a kernel may have been told. VoidKernel returns at once
// and goes on in the background. It is called when the machine was suspended: the lease went on, the kernel's timeouts did not.
type KernelVoider interface{ VoidKernel() }
