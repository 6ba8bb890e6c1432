package coherence

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The matrix: every change made through mount A is looked at through mount B in every way, at once, where B had
// all of it cached. What A itself then sees is what B must have seen.

// view is one mount's look at a case's directory: paths, a descriptor opened and a mapping made before the change.
type view struct {
	dir     string
	fd      int
	mapping []byte
}

func (v *view) path(name string) string { return filepath.Join(v.dir, name) }

func openView(t *testing.T, dir string) *view {
	t.Helper()
	v := &view{dir: dir}
	var err error
	v.fd, err = unix.Open(v.path("f"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	v.mapping, err = unix.Mmap(v.fd, 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	return v
}

func (v *view) close() {
	_ = unix.Munmap(v.mapping)
	_ = unix.Close(v.fd)
}

type observation struct {
	name string
	look func(v *view) string
}

func statText(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	return attrText(&st)
}

func attrText(st *unix.Stat_t) string {
	return fmt.Sprintf("ino %d mode %o nlink %d uid %d gid %d size %d mtime %d.%09d ctime %d.%09d rdev %d",
		st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, st.Rdev)
}

func content(b []byte, err error) string {
	if err != nil {
		return errnoText(err)
	}
	return fmt.Sprintf("%d bytes %x…%x hash %x", len(b), b[:min(4, len(b))], b[max(0, len(b)-4):], sha256.Sum256(b))
}

// errnoText is an error without the path, which differs from mount to mount.
func errnoText(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

func readFD(fd int) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Pread(fd, buf, 0)
	return content(buf[:max(n, 0)], err)
}

// mapped reads a mapping; past the end of the file that is a fault.
func mapped(m []byte) (text string) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	for page := 0; page < len(m); page += 4096 {
		text += func() (s string) {
			defer func() {
				if recover() != nil {
					s = "fault "
				}
			}()
			return fmt.Sprintf("%x ", sha256.Sum256(bytes.Clone(m[page:page+4096])))[:17] + " "
		}()
	}
	return text
}

var observations = []observation{
	{"stat", func(v *view) string { return statText(v.path("f")) }},
	{"stat of the absent", func(v *view) string { return statText(v.path("g")) }},
	{"stat of the directory", func(v *view) string { return statText(v.dir) }},
	{"stat of sub", func(v *view) string { return statText(v.path("sub")) }},
	{"stat in sub", func(v *view) string { return statText(v.path("sub/x")) }},
	{"fstat", func(v *view) string {
		var st unix.Stat_t
		if err := unix.Fstat(v.fd, &st); err != nil {
			return err.Error()
		}
		return attrText(&st)
	}},
	{"open and read", func(v *view) string { return content(os.ReadFile(v.path("f"))) }},
	{"open and read of the absent", func(v *view) string { return content(readNonblock(v.path("g"))) }},
	{"read", func(v *view) string { return readFD(v.fd) }},
	{"seek to the end", func(v *view) string {
		n, err := unix.Seek(v.fd, 0, unix.SEEK_END)
		return fmt.Sprint(n, err)
	}},
	{"mapped read", func(v *view) string {
		text := mapped(v.mapping)
		if strings.Contains(text, "fault") {
			// A kernel asks nobody when a mapping is used beyond the size that it knows: a stat tells it of a new one.
			_ = unix.Fstat(v.fd, new(unix.Stat_t))
			text = mapped(v.mapping)
		}
		return text
	}},
	{"readdir", func(v *view) string {
		f, err := os.Open(v.dir)
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		sort.Strings(names)
		return fmt.Sprint(names, err)
	}},
	{"readdir and stat", func(v *view) string {
		list, err := os.ReadDir(v.dir)
		var lines []string
		for _, e := range list {
			lines = append(lines, e.Name()+": "+statText(v.path(e.Name())))
		}
		return fmt.Sprint(strings.Join(lines, "\n"), err)
	}},
	{"readlink", func(v *view) string { s, err := os.Readlink(v.path("l")); return fmt.Sprint(s, err) }},
	{"getxattr", func(v *view) string {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(v.path("f"), "user.a", buf)
		return fmt.Sprintf("%q %v", buf[:max(n, 0)], err)
	}},
	{"listxattr", func(v *view) string {
		buf := make([]byte, 500)
		n, err := unix.Llistxattr(v.path("f"), buf)
		return fmt.Sprintf("%q %v", buf[:max(n, 0)], err)
	}},
	{"access", func(v *view) string { return fmt.Sprint(unix.Access(v.path("f"), unix.X_OK)) }},
}

func readNonblock(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	return buf[:max(n, 0)], err
}

type change struct {
	name string
	do   func(v *view) error
}

func withFile(path string, flags int, f func(fd int) error) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	err = f(fd)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	return err
}

func pwrite(fd int, data string, off int64) error {
	n, err := unix.Pwrite(fd, []byte(data), off)
	if err == nil && n != len(data) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(data))
	}
	return err
}

var changes = []change{
	{"write", func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY, func(fd int) error { return pwrite(fd, "changed", 10) })
	}},
	{"write through an open descriptor", func(v *view) error { return pwrite(v.fd, "changed too", 0) }},
	{"write past the end", func(v *view) error { return pwrite(v.fd, "far", 20_000) }},
	{"O_DIRECT write", func(v *view) error {
		buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		defer unix.Munmap(buf)
		copy(buf, "direct")
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_DIRECT, func(fd int) error { return pwrite(fd, string(buf), 0) })
	}},
	{"append", func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_APPEND, func(fd int) error { return pwrite(fd, "more", 0) })
	}},
	{"truncate", func(v *view) error { return unix.Truncate(v.path("f"), 50) }},
	{"truncate to nothing", func(v *view) error { return unix.Ftruncate(v.fd, 0) }},
	{"extend", func(v *view) error { return unix.Truncate(v.path("f"), 30_000) }},
	{"open with O_TRUNC", func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil })
	}},
	{"O_TRUNC and write", func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_TRUNC, func(fd int) error { return pwrite(fd, "anew", 0) })
	}},
	{"chmod", func(v *view) error { return unix.Chmod(v.path("f"), 0o741) }},
	{"chown", func(v *view) error { return unix.Lchown(v.path("f"), 12, 34) }},
	{"utimes", func(v *view) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, v.path("f"), []unix.Timespec{{Sec: 1000}, {Sec: 2000, Nsec: 7}}, 0)
	}},
	{"setxattr", func(v *view) error { return unix.Lsetxattr(v.path("f"), "user.a", []byte("newer"), 0) }},
	{"new xattr", func(v *view) error { return unix.Lsetxattr(v.path("f"), "user.b", []byte("b"), 0) }},
	{"removexattr", func(v *view) error { return unix.Lremovexattr(v.path("f"), "user.a") }},
	{"rename", func(v *view) error { return os.Rename(v.path("f"), v.path("g")) }},
	{"rename over", func(v *view) error { return os.Rename(v.path("h"), v.path("f")) }},
	{"exchange", func(v *view) error {
		return unix.Renameat2(unix.AT_FDCWD, v.path("f"), unix.AT_FDCWD, v.path("h"), unix.RENAME_EXCHANGE)
	}},
	{"rename of a directory", func(v *view) error { return os.Rename(v.path("sub"), v.path("g")) }},
	{"rename into a directory", func(v *view) error { return os.Rename(v.path("f"), v.path("sub/f")) }},
	{"rename out of a directory", func(v *view) error { return os.Rename(v.path("sub/x"), v.path("g")) }},
	{"unlink", func(v *view) error { return unix.Unlink(v.path("f")) }},
	{"unlink in sub and rmdir", func(v *view) error {
		if err := unix.Unlink(v.path("sub/x")); err != nil {
			return err
		}
		return unix.Rmdir(v.path("sub"))
	}},
	{"create", func(v *view) error {
		return withFile(v.path("g"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, func(fd int) error { return pwrite(fd, "new", 0) })
	}},
	{"unlink and create", func(v *view) error {
		if err := unix.Unlink(v.path("f")); err != nil {
			return err
		}
		return withFile(v.path("f"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, func(fd int) error { return pwrite(fd, "other", 0) })
	}},
	{"mkdir", func(v *view) error { return unix.Mkdir(v.path("g"), 0o700) }},
	{"mkdir in sub", func(v *view) error { return unix.Mkdir(v.path("sub/g"), 0o700) }},
	{"mknod", func(v *view) error { return unix.Mknod(v.path("g"), unix.S_IFIFO|0o600, 0) }},
	{"link", func(v *view) error { return unix.Link(v.path("f"), v.path("g")) }},
	{"symlink", func(v *view) error { return unix.Symlink("f", v.path("g")) }},
	{"another symlink", func(v *view) error {
		if err := unix.Symlink("elsewhere", v.path("l2")); err != nil {
			return err
		}
		return os.Rename(v.path("l2"), v.path("l"))
	}},
	{"fallocate", func(v *view) error { return unix.Fallocate(v.fd, 0, 10_000, 30_000) }},
	{"punch", func(v *view) error {
		return unix.Fallocate(v.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10, 5000)
	}},
	{"zero range", func(v *view) error { return unix.Fallocate(v.fd, unix.FALLOC_FL_ZERO_RANGE, 20, 100) }},
	{"mapped write and msync", func(v *view) error {
		v.mapping[5] ^= 0xff
		return unix.Msync(v.mapping, unix.MS_SYNC)
	}},
	{"mapped write", func(v *view) error { v.mapping[6] ^= 0xff; return nil }},
	{"copy_file_range", func(v *view) error {
		return withFile(v.path("h"), unix.O_RDONLY, func(fd int) error {
			n, err := unix.CopyFileRange(fd, new(int64), v.fd, new(int64), 4096, 0)
			if err == nil && n == 0 {
				err = fmt.Errorf("nothing copied")
			}
			return err
		})
	}},
}

// makeCase makes what every case starts from.
func makeCase(t *testing.T, dir string, size int) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o777))
	must(t, os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte("f"), size), 0o644))
	must(t, unix.Lsetxattr(filepath.Join(dir, "f"), "user.a", []byte("a"), 0))
	must(t, os.WriteFile(filepath.Join(dir, "h"), bytes.Repeat([]byte("h"), 5000), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "sub/x"), []byte("x"), 0o644))
	must(t, os.Symlink("target", filepath.Join(dir, "l")))
}

// matrixCase is one change and one look at it.
type matrixCase struct {
	adir, bdir string
	size       int
	ch         change
	ob         observation
}

func testMatrix(t *testing.T, dirs []string) { matrix(t, dirs, rounds(2, 100), 1) }

// matrix runs one in every of the cases a round, others each round.
func matrix(t *testing.T, dirs []string, many, every int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for round := range many {
		a, b := dirs[round%2], dirs[1-round%2]
		var cases []matrixCase
		for i, ch := range changes {
			for j, ob := range observations {
				if (i+j+round/2)%every != 0 {
					continue
				}
				c := matrixCase{filepath.Join(a, fmt.Sprintf("%d-%d-%d", round, i, j)), filepath.Join(b, fmt.Sprintf("%d-%d-%d", round, i, j)), 3 * 4096, ch, ob}
				if round%2 == 1 && ch.name != "O_DIRECT write" {
					c.size = 300
				}
				cases = append(cases, c)
				makeCase(t, c.adir, c.size)
			}
		}
		// B takes the locks of all directories; then they rest, because names of a directory that was shared a moment ago are not cached.
		for _, c := range cases {
			if _, err := os.ReadDir(c.bdir); err != nil {
				t.Fatal(err)
			}
			_ = statText(filepath.Join(c.bdir, "sub/x"))
		}
		time.Sleep(2200 * time.Millisecond)
		for _, c := range cases {
			c.run(t)
			if t.Failed() && soak() == 0 && os.Getenv("DFS_COHERENCE_ALL") == "" {
				return
			}
		}
		for _, c := range cases {
			must(t, os.RemoveAll(c.bdir))
		}
	}
}

func (c *matrixCase) run(t *testing.T) {
	a, b := openView(t, c.adir), openView(t, c.bdir)
	defer a.close()
	defer b.close()
	for _, o := range observations {
		o.look(b)
	}
	before := c.ob.look(b)
	if err := c.ch.do(a); err != nil {
		t.Fatalf("%s: %v", c.ch.name, err)
	}
	got := c.ob.look(b)
	if want := c.ob.look(a); got != want {
		again := c.ob.look(b)
		t.Errorf("%s through A, %s through B (%d bytes):\nbefore %s\ngot    %s\nagain  %s\nwant   %s", c.ch.name, c.ob.name, c.size, before, got, again, want)
	}
}
