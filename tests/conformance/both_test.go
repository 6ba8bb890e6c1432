package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// script is one run of a sequence of operations in a directory, and the transcript of what came of them. It runs on a
// thread of its own whose working directory is that directory, so its names are relative, whoever it becomes.
type script struct {
	lines []string
}

// note adds a line to the transcript.
func (s *script) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// op adds what came of an operation: its errno.
func (s *script) op(name string, err error) {
	s.note("%s: %s", name, errno(err))
}

// errno names an error: OK, ENOENT, …
func errno(err error) string {
	var no syscall.Errno
	switch {
	case err == nil:
		return "OK"
	case errors.As(err, &no):
		return unix.ErrnoName(no)
	}
	return err.Error()
}

// open opens relative to the working directory; the errno goes to the transcript if it fails.
func (s *script) open(name string, flags int, mode uint32) int {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		s.op(fmt.Sprintf("open %.40s %#x", name, flags), err)
		return -1
	}
	return fd
}

// file makes a file with content and mode, closed again.
func (s *script) file(name, content string, mode uint32) {
	fd := s.open(name, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY, 0o600)
	defer unix.Close(fd)
	s.write(fd, content)
	if err := unix.Fchmod(fd, mode); err != nil {
		s.op("fchmod "+name, err)
	}
}

// write writes all of content at the descriptor's offset.
func (s *script) write(fd int, content string) {
	if n, err := unix.Write(fd, []byte(content)); err != nil || n != len(content) {
		s.note("write of %d bytes: %d %s", len(content), n, errno(err))
	}
}

// content notes what a file holds, shortened.
func (s *script) content(name string) {
	b, err := os.ReadFile(name)
	if err != nil {
		s.op("read "+name, err)
		return
	}
	s.note("%s holds %d bytes %s", name, len(b), brief(b))
}

// brief shows runs of equal bytes shortened.
func brief(b []byte) string {
	var out strings.Builder
	for i := 0; i < len(b) && out.Len() < 400; {
		j := i
		for j < len(b) && b[j] == b[i] {
			j++
		}
		if j-i > 3 {
			fmt.Fprintf(&out, "[%q x %d]", b[i], j-i)
		} else {
			fmt.Fprintf(&out, "%q", b[i:j])
		}
		i = j
	}
	return out.String()
}

// stat notes type, mode, links, owner and size (of what is no directory).
func (s *script) stat(name string) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		s.op("lstat "+name, err)
		return
	}
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0
	}
	s.note("%.40s: mode %o, %d links, owner %d:%d, %d bytes, device %x", name, st.Mode, st.Nlink, st.Uid, st.Gid, size, st.Rdev)
}

// as runs f as another user, with no capability.
func (s *script) as(uid, gid int, groups []uint32, f func()) {
	onThread(func() {
		cwd, err := unix.Open(".", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			s.op("open .", err)
			return
		}
		defer unix.Close(cwd)
		if err := become(uid, gid, groups); err != nil {
			s.op("setresuid", err)
			return
		}
		f()
	})
}

// onThread runs f on a thread of its own with its own working directory (the caller's at first), umask 022 and
// credentials, which ends with it.
func onThread(f func()) {
	cwd, err := unix.Open(".", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			panic(err)
		}
		unix.Umask(0o022)
		if err := unix.Fchdir(cwd); err != nil {
			panic(err)
		}
		unix.Close(cwd)
		f()
	}()
	<-done
}

// become changes the calling thread's credentials alone (package syscall's functions change those of all threads).
func become(uid, gid int, groups []uint32) error {
	var list *uint32
	if len(groups) > 0 {
		list = &groups[0]
	}
	if _, _, no := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), ptr(list), 0); no != 0 {
		return no
	}
	if _, _, no := syscall.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); no != 0 {
		return no
	}
	if _, _, no := syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); no != 0 {
		return no
	}
	return nil
}

// run runs f in dir and returns its transcript.
func run(t *testing.T, dir string, f func(s *script)) []string {
	t.Helper()
	s := &script{}
	onThread(func() {
		if err := unix.Chdir(dir); err != nil {
			s.op("chdir", err)
			return
		}
		f(s)
	})
	return s.lines
}

// compare runs f in a directory of the mount and in a local one, which must come out the same.
func compare(t *testing.T, m *harness.Mount, name string, f func(s *script)) {
	t.Run(name, func(t *testing.T) {
		remote, local := m.Path(name), filepath.Join(localDir(t), name)
		for _, dir := range []string{remote, local} {
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		want, got := run(t, local, f), run(t, remote, f)
		if len(want) == 0 {
			t.Error("the script noted nothing")
		}
		for i := range max(len(want), len(got)) {
			if i >= len(want) || i >= len(got) || want[i] != got[i] {
				t.Errorf("local: %s\n        mount: %s", at(want, i), at(got, i))
			}
		}
	})
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// localDir is a directory of a local file system that has all of what is compared: the temporary directory on ext4,
// else a tmpfs.
func localDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.EXT4_SUPER_MAGIC {
		return dir
	}
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}
