package fuse

import (
	"log/slog"
	"sync"
	"syscall"
	"unsafe"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// notifier writes notifications to the kernel through a descriptor of its own:
// go-fuse's API lacks FUSE_EXPIRE_ONLY. A write may block: data invalidation for
// READs in flight on the pages, entry invalidation for LOOKUPs and CREATEs in flight in the directory.
type notifier struct {
	mu     sync.RWMutex // held shared while writing, so that close cannot free the number under a write
	fd     int
	closed bool
	log    *slog.Logger
}

func newNotifier(fd int, log *slog.Logger) *notifier { return &notifier{fd: fd, log: log} }

func (n *notifier) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.closed = true
		_ = syscall.Close(n.fd)
	}
}

// write sends one notification; code is FUSE_NOTIFY_*, positive on the wire. ENOENT (the kernel does not know the inode or
// name) and ENOTDIR are the answers "nothing cached", not errors.
func (n *notifier) write(code int32, body []byte) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.closed {
		return syscall.ENODEV
	}
	head := gofuse.OutHeader{Length: uint32(int(unsafe.Sizeof(gofuse.OutHeader{})) + len(body)), Status: code}
	buf := append(bytesOf(&head), body...)
	for {
		_, err := syscall.Write(n.fd, buf)
		switch err {
		case syscall.EINTR:
			continue
		case nil, syscall.ENOENT, syscall.ENOTDIR, syscall.ENODEV, syscall.ENOTCONN, syscall.ENOTEMPTY, syscall.EBUSY:
		default:
			n.log.Warn("fuse: notification refused by the kernel", "code", code, "error", err)
		}
		return err
	}
}

// bytesOf copies a fixed-size struct's bytes.
func bytesOf[T any](v *T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))...)
}

// invalInode drops pages [off, off+length) (length 0: to the end) and the attributes of
// ino; with off < 0 the attributes only, which never waits. It reports whether the kernel has an inode ino.
func (n *notifier) invalInode(ino uint64, off, length int64) (known bool) {
	err := n.write(-gofuse.NOTIFY_INVAL_INODE, bytesOf(&gofuse.NotifyInvalInodeOut{Ino: ino, Off: off, Length: length}))
	return err != syscall.ENOENT
}

// expireEntry makes the kernel look the name up again at its next use, leaving
// mounts below it alone.
func (n *notifier) expireEntry(dir uint64, name string) {
	body := bytesOf(&gofuse.NotifyInvalEntryOut{Parent: dir, NameLen: uint32(len(name)), Flags: gofuse.EXPIRE_ONLY})
	body = append(body, name...)
	_ = n.write(-gofuse.NOTIFY_INVAL_ENTRY, append(body, 0))
}
