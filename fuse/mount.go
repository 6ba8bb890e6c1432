// Package fuse presents a file system (fs.FileSystem) to the Linux kernel
// through go-fuse. It holds no policy: what a call means, and how long an
// answer may be cached, is the file system's to say; this package turns requests
// into calls, errors into errnos, and revokes into notifications.
//
// # Contract
//
//   - Node id = inode number. Kernel caches (pages, attributes, names) are on; the
//     file system says what may be cached, and nothing outlives its lease: every timeout handed out is at most
//     what is left of the lease when the answer is made.
//   - A name is remembered in a ledger while a kernel may hold it, so that a
//     revoke of its directory can expire it (names.go).
//   - A request is interrupted (EINTR) only where a program expects it: a
//     blocking lock request, or a caller that is being killed (interrupt.go).
//   - The daemon never touches its own mount.
package fuse

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/internal/errors"
)

// Options configures a mount.
type Options struct {
	// Source is shown as the device in /proc/mounts: the cluster's addresses.
	Source string
	// MountFlags are mount(2)'s MS_* flags: MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME …
	MountFlags uintptr
	// OnlyMe leaves out allow_other: only the mounting user may enter.
	OnlyMe bool
	// Uncached is for thin clients: no timeouts, direct I/O on every file, and no default_permissions (nor
	// POSIX ACLs in the kernel, which bring those): the file system checks every permission, for whom it takes the caller.
	Uncached bool
	// TimeoutMax bounds the timeouts of attributes and names handed to the kernel;
	// 0 means the lease alone does.
	TimeoutMax time.Duration
	// StuckAfter is the age at which a request that is not a lock wait is taken for stuck and the
	// connection is aborted, so that callers get an error; 0 means never.
	StuckAfter time.Duration
	// Guard is the command line of a program that calls Guard, which turns the mount into errors when this
	// process is killed; nil: the kernel does that, when it can (see guard.go).
	Guard []string
	// Trace logs every request.
	Trace bool
	// clock tells CLOCK_BOOTTIME; nil is the kernel's.
	clock func() time.Duration
	// without are gofuse.CAP_* flags that the kernel is taken not to offer, for tests.
	without uint64

	Logger *slog.Logger
}

// maxWrite is the size of the largest READ and WRITE, in bytes.
const maxWrite = 1 << 20

// maxBackground bounds the kernel's background requests; far above what held
// requests may use up, because READs held during a revoke must not stop the write-back of another file.
const maxBackground = 1024

// Mount is a mounted file system.
type Mount struct {
	dir    string
	server *gofuse.Server
	conn   *conn
	notify *notifier
	done   chan struct{}
	stop   context.CancelFunc

	control *os.File // aborts the connection; nil: cannot be opened
	guard   *guard   // nil: none
}

// New mounts fsys at dir and returns once the kernel has been answered; serving goes on in
// goroutines until the mount ends. Errors: KindNotExist, KindNotDir, KindBusy (mounted
// already), KindNotEmpty, KindPermission, KindNoDevice (no /dev/fuse), each saying what to do.
func New(dir string, fsys fs.FileSystem, opt Options) (*Mount, error) {
	if opt.Logger == nil {
		opt.Logger = slog.Default()
	}
	if opt.clock == nil {
		opt.clock = bootTime
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, errors.New(errors.KindInvalid, "mount point %q: %w", dir, err)
	}
	if err := CheckMountPoint(abs); err != nil {
		return nil, err
	}
	fd, err := openAndMount(abs, opt)
	if err != nil {
		return nil, err
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		_ = syscall.Close(fd)
		_ = unmount(abs, true)
		return nil, errors.New(errors.KindIO, "duplicating the FUSE descriptor: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m := &Mount{dir: abs, notify: newNotifier(dup, opt.Logger), done: make(chan struct{}), stop: stop}
	m.conn = newConn(fsys, m.notify, opt)
	logger := log.New(&slogWriter{opt.Logger}, "", 0)
	m.server, err = gofuse.NewServer(m.conn, fmt.Sprintf("/dev/fd/%d", fd), &gofuse.MountOptions{
		MaxBackground: maxBackground, MaxWrite: maxWrite, MaxReadAhead: maxWrite,
		EnableLocks: true, EnableAcl: !opt.Uncached, EnableSymlinkCaching: false, DisableSplice: true,
		Name: "dfs", FsName: opt.Source, Logger: logger, Debug: opt.Trace,
		ExtraCapabilities: gofuse.CAP_ATOMIC_O_TRUNC | gofuse.CAP_DONT_MASK | gofuse.CAP_READDIRPLUS_AUTO |
			gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_SETXATTR_EXT | gofuse.CAP_DIRECT_IO_ALLOW_MMAP | gofuse.CAP_HAS_EXPIRE_ONLY |
			gofuse.CAP_ASYNC_DIO | gofuse.CAP_ABORT_ERROR,
		DisabledCapabilities: opt.without,
	})
	if err != nil {
		stop()
		m.notify.close()
		_ = unmount(abs, true)
		return nil, errors.New(errors.KindIO, "starting FUSE at %s: %w", abs, err)
	}
	m.conn.adapt(offerOf(m.server.KernelSettings(), opt.without))
	m.protect(opt)
	go m.serve()
	go m.conn.watch(ctx, func() { m.abort() })
	return m, nil
}

// protect opens the connection's control file and starts the guard. A mount without them works.
func (m *Mount) protect(opt Options) {
	_, _, id := mountedAt(m.dir)
	var err error
	if m.control, err = openControl(id); err == nil && len(opt.Guard) > 0 {
		m.guard, err = startGuard(opt.Guard, m.control)
	}
	if err != nil {
		opt.Logger.Warn("fuse: this mount has no guard: if its process is killed, those who wait for it may need umount -f", "mount", m.dir, "error", err)
	}
}

func (m *Mount) serve() {
	m.server.Serve()
	m.stop()
	m.notify.close()
	m.Discharge()
	if m.control != nil {
		_ = m.control.Close()
	}
	close(m.done)
}

// Discharge ends the guard: this process ends in order, or the mount has.
func (m *Mount) Discharge() {
	if m.guard != nil {
		m.guard.close()
	}
}

// Dir is the mount point, absolute.
func (m *Mount) Dir() string { return m.dir }

// Done is closed when the mount has ended, whoever unmounted it.
func (m *Mount) Done() <-chan struct{} { return m.done }

// Invalidator drops kernel caches of this mount.
func (m *Mount) Invalidator() fs.Invalidator { return m.conn }

// Unmount detaches the mount point; KindBusy if it is in use. It does not
// flush: see fs.FileSystem.SyncAll. With lazy it is detached at once and ends when its last user does.
func (m *Mount) Unmount(lazy bool) error { return unmount(m.dir, lazy) }

// abort breaks the connection: every waiting caller gets an error. It goes through the connection's control file,
// or else through a forced unmount, which aborts even where the mount stays because it is in use. Neither looks into the mount.
func (m *Mount) abort() {
	err := error(syscall.ENOENT)
	if m.control != nil {
		err = abortBy(m.control)
	}
	if err != nil && os.Geteuid() == 0 {
		if err = unix.Unmount(m.dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW); err == unix.EBUSY {
			err = nil
		}
	}
	if err != nil {
		m.conn.log.Error("fuse: cannot abort the stuck connection; kill this process to free those who wait", "mount", m.dir, "pid", os.Getpid(), "error", err)
	}
}

// CheckMountPoint says why abs cannot be mounted on, or nil.
func CheckMountPoint(abs string) error {
	if mounted, fstype, _ := mountedAt(abs); mounted {
		if fstype == "fuse.dfs" {
			return errors.New(errors.KindBusy, "%s is already a dfs mount; unmount it first (dfs umount %s)", abs, abs)
		}
		return errors.New(errors.KindBusy, "%s is already a mount point (%s); choose another directory", abs, fstype)
	}
	st, err := os.Stat(abs)
	switch {
	case os.IsNotExist(err):
		return errors.New(errors.KindNotExist, "mount point %s does not exist; create it (mkdir -p %s)", abs, abs)
	case err != nil:
		return errors.New(errors.KindOf(err), "mount point %s: %w", abs, err)
	case !st.IsDir():
		return errors.New(errors.KindNotDir, "mount point %s is not a directory", abs)
	}
	names, err := os.ReadDir(abs)
	if err != nil {
		return errors.New(errors.KindOf(err), "mount point %s: %w", abs, err)
	}
	if len(names) > 0 {
		return errors.New(errors.KindNotEmpty, "mount point %s is not empty (it holds %q); choose an empty directory, what is in it would be hidden", abs, names[0].Name())
	}
	return nil
}

// mountedAt looks dir up in the kernel's mount table. The id is the minor device
// number: of a FUSE mount, the number of its connection.
func mountedAt(dir string) (mounted bool, fstype string, id int) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, "", 0
	}
	found, fstype, id := false, "", 0
	for line := range strings.Lines(string(table)) {
		left, right, ok := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 5 || unescapeMount(fields[4]) != dir {
			continue
		}
		found, fstype = true, strings.Fields(right)[0]
		_, _ = fmt.Sscanf(fields[2], "0:%d", &id)
	}
	return found, fstype, id
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func openAndMount(dir string, opt Options) (int, error) {
	if os.Geteuid() != 0 {
		return fusermount(dir, opt)
	}
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		if err == syscall.ENOENT || err == syscall.ENODEV || err == syscall.ENXIO {
			return -1, errors.New(errors.KindNoDevice, "no /dev/fuse here (%w): %s", err, noFuseHint)
		}
		return -1, errors.New(errors.KindOf(err), "opening /dev/fuse: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d", fd, maxWrite)
	if !opt.Uncached {
		data += ",default_permissions"
	}
	if !opt.OnlyMe {
		data += ",allow_other"
	}
	if err := syscall.Mount(opt.Source, dir, "fuse.dfs", opt.MountFlags, data); err != nil {
		_ = syscall.Close(fd)
		return -1, errors.New(errors.KindOf(err), "mounting at %s: %w (it takes CAP_SYS_ADMIN; in a container, --cap-add SYS_ADMIN)", dir, err)
	}
	return fd, nil
}

// slogWriter takes go-fuse's log lines.
type slogWriter struct{ l *slog.Logger }

func (w *slogWriter) Write(p []byte) (int, error) {
	w.l.Info("fuse: " + strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
