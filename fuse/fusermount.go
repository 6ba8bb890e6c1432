package fuse

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dfs/internal/errors"
)

// fusermount mounts through the set-user-id helper fusermount3, for users
// other than root, and returns the FUSE descriptor (close-on-exec).
func fusermount(dir string, opt Options) (int, error) {
	options, err := fusermountOptions(opt, userAllowOther())
	if err != nil {
		return -1, err
	}
	bin, err := fusermountPath()
	if err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, errors.New(errors.KindIO, "socketpair for fusermount3: %w", err)
	}
	local, remote := os.NewFile(uintptr(pair[0]), "fusermount-local"), os.NewFile(uintptr(pair[1]), "fusermount-remote")
	defer local.Close()
	cmd := exec.Command(bin, "-o", options, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{remote}
	out, err := cmd.CombinedOutput()
	_ = remote.Close()
	if err != nil {
		return -1, fusermountFailed(dir, strings.TrimSpace(string(out)), err)
	}
	fd, err := receiveFD(int(local.Fd()))
	if err != nil {
		return -1, errors.New(errors.KindIO, "fusermount3 gave no descriptor for %s: %w", dir, err)
	}
	return fd, nil
}

// kernelOptions are the words of mount(2)'s flags, and whether fusermount3 takes them.
var kernelOptions = []struct {
	flag  uintptr
	word  string
	users bool
}{
	{unix.MS_RDONLY, "ro", true},
	{unix.MS_NOSUID, "nosuid", true},
	{unix.MS_NODEV, "nodev", true},
	{unix.MS_NOEXEC, "noexec", true},
	{unix.MS_SYNCHRONOUS, "sync", true},
	{unix.MS_DIRSYNC, "dirsync", true},
	{unix.MS_NOATIME, "noatime", true},
	{unix.MS_NODIRATIME, "nodiratime", false},
}

// fusermountOptions are opt in fusermount3's words; allowOther says whether users may let others in. A flag that it has
// no word for is refused: nobody gets less protection than was asked for.
func fusermountOptions(opt Options, allowOther bool) (string, error) {
	words := []string{"fsname=" + strings.ReplaceAll(opt.Source, ",", `\,`), "subtype=dfs", fmt.Sprintf("max_read=%d", maxWrite)}
	if !opt.Uncached {
		words = append(words, "default_permissions")
	}
	if !opt.OnlyMe && allowOther {
		words = append(words, "allow_other")
	}
	rest, refused := opt.MountFlags, []string(nil)
	for _, o := range kernelOptions {
		switch {
		case rest&o.flag == 0:
		case o.users:
			words = append(words, o.word)
		default:
			refused = append(refused, o.word)
		}
		rest &^= o.flag
	}
	if rest != 0 {
		refused = append(refused, fmt.Sprintf("flags %#x", rest))
	}
	if len(refused) > 0 {
		return "", errors.New(errors.KindInvalid, "users other than root cannot have the mount option %s, because fusermount3 does not know it: leave it out, or mount as root",
			strings.Join(refused, ", "))
	}
	return strings.Join(words, ","), nil
}

// fusermountFailed is the error of a fusermount3 that said what, with what to do about it.
func fusermountFailed(dir, said string, err error) error {
	kind, hint := errors.KindPermission, ""
	switch {
	case strings.Contains(said, "not found"):
		kind, hint = errors.KindNoDevice, "; "+noFuseHint
	case strings.Contains(said, "/dev/fuse: Permission denied"):
		hint = "; users may not open it: as root, chmod 666 /dev/fuse (and in a container pass the device in)"
	case strings.Contains(said, "no write access"):
		hint = "; users can mount only on a directory of their own"
	}
	return errors.New(kind, "fusermount3 could not mount at %s: %s (%w)%s", dir, said, err, hint)
}

// noFuseHint says what to do where there is no /dev/fuse.
const noFuseHint = "load the kernel module (modprobe fuse), or in a container pass the device in (--device /dev/fuse)"

// inUse is the error of unmounting what is in use.
func inUse(dir string) error {
	return errors.New(errors.KindBusy, "%s is in use: close what is open there and leave it (see: fuser -vm %s)", dir, dir)
}

func fusermountPath() (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New(errors.KindPermission, "users other than root need fusermount3 to mount and to unmount: install the package fuse3, or run as root")
}

// userAllowOther reports whether /etc/fuse.conf lets users pass allow_other.
func userAllowOther() bool {
	conf, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(conf)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}

func receiveFD(sock int) (int, error) {
	data, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(sock, data, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err == nil && len(fds) > 0 {
			return fds[0], nil
		}
	}
	return -1, syscall.EPROTO
}

// A mount in use is tried again so often, with this pause.
const (
	busyLooks = 10
	busyPause = 20 * time.Millisecond
)

// unmount detaches dir, by system call for root and through fusermount3 else.
func unmount(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		err := unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
		for range busyLooks { // who has just closed what was open, or looks at every mount there is, will be gone
			if err != unix.EBUSY {
				break
			}
			time.Sleep(busyPause)
			err = unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
		}
		switch err {
		case nil:
			return nil
		case unix.EBUSY:
			return inUse(dir)
		case unix.EINVAL:
			return errors.New(errors.KindInvalid, "%s is not mounted", dir)
		}
		return errors.New(errors.KindOf(err), "unmounting %s: %w", dir, err)
	}
	bin, err := fusermountPath()
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	if out, err := exec.Command(bin, append(args, "--", dir)...).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "busy") {
			return inUse(dir)
		}
		return errors.New(errors.KindIO, "unmounting %s: %s", dir, strings.TrimSpace(string(out)))
	}
	return nil
}

// Unmount detaches the dfs mount at dir (see Mount.Unmount), from any process.
// KindInvalid if there is no dfs mount.
func Unmount(dir string, lazy bool) error {
	if mounted, fstype, _ := mountedAt(dir); !mounted || fstype != "fuse.dfs" {
		return errors.New(errors.KindInvalid, "%s is not a dfs mount point", dir)
	}
	return unmount(dir, lazy)
}

// Mounted reports whether a dfs mount is at dir (absolute).
func Mounted(dir string) bool {
	mounted, fstype, _ := mountedAt(dir)
	return mounted && fstype == "fuse.dfs"
}
