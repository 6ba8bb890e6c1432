package conformance

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// TestLikeLocal does the same on the mount and in a local directory.
func TestLikeLocal(t *testing.T) {
	m := harness.Start(t, harness.Options{}).Mount()
	for _, scripts := range []map[string]func(*script){dataScripts, nameScripts, attrScripts} {
		for name, f := range scripts {
			compare(t, m, name, f)
		}
	}
}

var dataScripts = map[string]func(*script){
	"fallocate":       fallocate,
	"seek":            seek,
	"copy_file_range": copyFileRange,
	"append":          appending,
	"direct":          direct,
	"truncate":        truncate,
	"offsets":         offsets,
	"mmap":            mapping,
	"vectors":         vectors,
	"descriptors":     descriptors,
}

func fallocate(s *script) {
	modes := map[string]uint32{"allocate": 0, "keep": 1, "punch": 3, "zero": 0x10, "zero-keep": 0x11,
		"punch without keep": 2, "both": 0x13, "unknown": 0x400}
	for _, size := range []int{0, 100, 3000, 4096, 20000, 300000} {
		for _, mode := range []string{"allocate", "keep", "punch", "zero", "zero-keep", "punch without keep", "both", "unknown"} {
			for _, span := range [][2]int64{{0, 10}, {50, 4000}, {4096, 8192}, {100, 15000}, {16384, 65536}, {0, 400000}, {250000, 100000}} {
				fd := s.open("f", unix.O_CREAT|unix.O_TRUNC|unix.O_RDWR, 0o644)
				s.write(fd, strings.Repeat("x", size))
				s.op(fmt.Sprintf("%s of %v, size %d", mode, span, size), unix.Fallocate(fd, modes[mode], span[0], span[1]))
				s.content("f")
				unix.Close(fd)
			}
		}
	}
	fd := s.open("f", unix.O_RDWR, 0)
	for _, span := range [][2]int64{{0, 0}, {-1, 5}, {0, -5}, {1 << 62, 1 << 62}} {
		s.op(fmt.Sprint("allocate ", span), unix.Fallocate(fd, 0, span[0], span[1]))
	}
	unix.Close(fd)
	fd = s.open("f", unix.O_RDONLY, 0)
	s.op("read-only", unix.Fallocate(fd, 0, 0, 10))
	unix.Close(fd)
	fd = s.open(".", unix.O_RDONLY, 0)
	s.op("directory", unix.Fallocate(fd, 0, 0, 10))
	unix.Close(fd)
}

func seek(s *script) {
	fd := s.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	look := func(what string, offsets ...int64) {
		for _, off := range offsets {
			data, derr := unix.Seek(fd, off, unix.SEEK_DATA)
			hole, herr := unix.Seek(fd, off, unix.SEEK_HOLE)
			if derr != nil {
				data = -1
			}
			if herr != nil {
				hole = -1
			}
			s.note("%s, from %d: data %d %s, hole %d %s", what, off, data, errno(derr), hole, errno(herr))
		}
	}
	look("empty", 0, 1)
	_, _ = unix.Pwrite(fd, bytes.Repeat([]byte("d"), 65536), 0)
	_, _ = unix.Pwrite(fd, bytes.Repeat([]byte("d"), 65536), 1<<20)
	_, _ = unix.Pwrite(fd, bytes.Repeat([]byte("d"), 4096), 1<<30)
	_ = unix.Ftruncate(fd, 1<<31)
	s.op("fsync", unix.Fsync(fd))
	look("three pieces", 0, 10, 65535, 65536, 65537, 1<<20, 1<<20+65535, 1<<20+65536, 1<<30, 1<<30+4095, 1<<30+4096, 1<<31-1, 1<<31, 1<<40, -1)
	_ = unix.Fallocate(fd, 3, 1<<30, 4096)
	_ = unix.Fallocate(fd, 3, 16384, 16384)
	look("with holes punched", 0, 16384, 32767, 32768, 1<<20, 1<<20+65536, 1<<30)
	_, err := unix.Seek(fd, 0, 9)
	s.op("whence 9", err)
	end, err := unix.Seek(fd, -10, unix.SEEK_END)
	s.note("end: %d %s", end, errno(err))
	unix.Close(fd)
}

func copyFileRange(s *script) {
	s.file("from", strings.Repeat("abcdefghij", 20000), 0o644)
	from := s.open("from", unix.O_RDONLY, 0)
	to := s.open("to", unix.O_CREAT|unix.O_RDWR, 0o644)
	defer unix.Close(from)
	defer unix.Close(to)
	do := func(what string, in int, inOff int64, out int, outOff int64, n int, flags int) {
		got, err := unix.CopyFileRange(in, &inOff, out, &outOff, n, flags)
		s.note("%s: %d %s, offsets %d %d", what, got, errno(err), inOff, outOff)
	}
	do("first bytes", from, 0, to, 0, 10, 0)
	do("to a hole", from, 5, to, 100000, 50000, 0)
	do("past the end", from, 199990, to, 10, 100, 0)
	do("at the end", from, 200000, to, 10, 100, 0)
	do("behind the end", from, 300000, to, 10, 100, 0)
	do("flags", from, 0, to, 0, 10, 1)
	do("nothing", from, 0, to, 0, 0, 0)
	do("from a descriptor for writing", to, 0, from, 0, 10, 0)
	rw := s.open("from", unix.O_RDWR, 0)
	do("overlapping", rw, 0, rw, 5, 10, 0)
	do("within one file", rw, 0, rw, 250000, 1000, 0)
	app := s.open("to", unix.O_WRONLY|unix.O_APPEND, 0)
	do("to a descriptor for appending", from, 0, app, 0, 10, 0)
	dir := s.open(".", unix.O_RDONLY, 0)
	do("a directory", dir, 0, to, 0, 10, 0)
	unix.Close(dir)
	unix.Close(app)
	unix.Close(rw)
	s.content("from")
	s.content("to")
}

func appending(s *script) {
	s.file("f", "start", 0o644)
	a, b := s.open("f", unix.O_WRONLY|unix.O_APPEND, 0), s.open("f", unix.O_RDWR, 0)
	s.write(a, "-one")
	s.write(b, "START")
	s.write(a, "-two")
	_, err := unix.Pwrite(a, []byte("-three"), 0) // appends all the same on Linux
	s.op("pwrite", err)
	off, err := unix.Seek(a, 0, unix.SEEK_CUR)
	s.note("offset %d %s", off, errno(err))
	flags, err := unix.FcntlInt(uintptr(b), unix.F_GETFL, 0)
	s.op("getfl", err)
	_, err = unix.FcntlInt(uintptr(b), unix.F_SETFL, flags|unix.O_APPEND)
	s.op("setfl O_APPEND", err)
	_, _ = unix.Seek(b, 0, unix.SEEK_SET)
	s.write(b, "-four")
	_, err = unix.FcntlInt(uintptr(a), unix.F_SETFL, 0)
	s.op("setfl without", err)
	_, err = unix.Pwrite(a, []byte("S"), 0)
	s.op("pwrite", err)
	unix.Close(a)
	unix.Close(b)
	s.content("f")
}

func direct(s *script) {
	fd := s.open("f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	buf := aligned(1 << 20)
	for i := range buf {
		buf[i] = byte(i >> 12)
	}
	n, err := unix.Pwrite(fd, buf, 0)
	s.note("write %d %s", n, errno(err))
	clear(buf)
	n, err = unix.Pread(fd, buf, 4096)
	s.note("read %d %s %d %d", n, errno(err), buf[0], buf[n-1])
	plain := s.open("f", unix.O_RDWR, 0)
	_, err = unix.Pwrite(plain, []byte("through the cache"), 8192)
	s.op("cached write", err)
	n, err = unix.Pread(fd, buf[:4096], 8192)
	s.note("%d %s %q", n, errno(err), buf[:20])
	copy(buf, "past the cache")
	_, err = unix.Pwrite(fd, buf[:4096], 8192)
	s.op("direct write", err)
	var small [14]byte
	n, err = unix.Pread(plain, small[:], 8192)
	s.note("%d %s %q", n, errno(err), small[:])
	n, err = unix.Pread(fd, buf, 1<<20)
	s.note("at the end %d %s", n, errno(err))
	s.op("ftruncate", unix.Ftruncate(fd, 5000))
	n, err = unix.Pread(fd, buf, 4096)
	s.note("short %d %s", n, errno(err))
	unix.Close(plain)
	unix.Close(fd)
	for _, flags := range []int{unix.O_SYNC, unix.O_DSYNC} {
		fd := s.open("sync", unix.O_CREAT|unix.O_WRONLY|flags, 0o644)
		s.write(fd, "durable")
		s.op("fdatasync", unix.Fdatasync(fd))
		s.op("sync_file_range", unix.SyncFileRange(fd, 0, 0, 7))
		unix.Close(fd)
	}
	s.content("sync")
}

// aligned returns n bytes that begin at a page.
func aligned(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b
}

func truncate(s *script) {
	for _, size := range []int{0, 10, 3000, 5000, 100000} {
		for _, to := range []int64{0, 5, 10, 2999, 4095, 4096, 4097, 8192, 99999, 200000} {
			s.file("f", strings.Repeat("t", size), 0o644)
			s.op(fmt.Sprintf("truncate %d to %d", size, to), unix.Truncate("f", to))
			s.op("and longer", unix.Truncate("f", to+9000))
			s.content("f")
		}
	}
	s.op("negative", unix.Truncate("f", -1))
	s.op("directory", unix.Truncate(".", 0))
	s.op("missing", unix.Truncate("no", 0))
	_ = unix.Mkfifo("fifo", 0o644)
	s.op("fifo", unix.Truncate("fifo", 0))
	fd := s.open("f", unix.O_RDONLY, 0)
	s.op("descriptor for reading", unix.Ftruncate(fd, 0))
	unix.Close(fd)
	fd = s.open("f", unix.O_RDONLY|unix.O_TRUNC, 0)
	unix.Close(fd)
	s.content("f")
}

func offsets(s *script) {
	fd := s.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	defer unix.Close(fd)
	var b [10]byte
	_, err := unix.Pread(fd, b[:], -1)
	s.op("pread -1", err)
	_, err = unix.Pwrite(fd, b[:], -1)
	s.op("pwrite -1", err)
	n, err := unix.Pread(fd, b[:], 1<<40)
	s.note("pread far: %d %s", n, errno(err))
	_, err = unix.Pwrite(fd, b[:], 1<<62)
	s.op("pwrite 2^62", err)
	_, err = unix.Pwrite(fd, b[:], 1<<63-1)
	s.op("pwrite 2^63-1", err)
	s.op("ftruncate 2^62", unix.Ftruncate(fd, 1<<62))
	_, err = unix.Seek(fd, -5, unix.SEEK_SET)
	s.op("seek -5", err)
	off, err := unix.Seek(fd, 1<<40, unix.SEEK_SET)
	s.note("seek 2^40: %d %s", off, errno(err))
	n, err = unix.Write(fd, nil)
	s.note("write nothing: %d %s", n, errno(err))
	s.stat("f")
	old := limitFileSize(s, 8192)
	_, err = unix.Pwrite(fd, make([]byte, 8192), 4096)
	s.op("over the limit, in part", err)
	s.op("ftruncate over the limit", unix.Ftruncate(fd, 8193))
	limitFileSize(s, old)
	s.stat("f")
}

// limitFileSize sets RLIMIT_FSIZE of the process (SIGXFSZ is ignored by the Go runtime) and returns what it was.
func limitFileSize(s *script, n uint64) uint64 {
	var old unix.Rlimit
	s.op("getrlimit", unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	s.op("setrlimit", unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: old.Max}))
	return old.Cur
}

func mapping(s *script) {
	s.file("f", strings.Repeat("m", 10000), 0o644)
	fd := s.open("f", unix.O_RDWR, 0)
	p, err := unix.Mmap(fd, 0, 12288, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	s.op("mmap", err)
	if err != nil {
		return
	}
	copy(p[100:], "by the mapping")
	var b [14]byte
	_, _ = unix.Pread(fd, b[:], 100)
	s.note("read before msync %q", b[:])
	s.op("msync", unix.Msync(p, unix.MS_SYNC))
	_, err = unix.Pwrite(fd, []byte("by the write"), 5000)
	s.op("pwrite", err)
	s.note("mapping after write %q", p[5000:5012])
	copy(p[9990:], "0123456789 behind the end")
	s.op("msync", unix.Msync(p, unix.MS_SYNC))
	s.op("munmap", unix.Munmap(p))
	s.content("f")
	s.op("ftruncate", unix.Ftruncate(fd, 12000))
	s.content("f")
	q, err := unix.Mmap(fd, 4096, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	s.op("private", err)
	copy(q, "not in the file")
	s.op("munmap", unix.Munmap(q))
	unix.Close(fd)
	s.content("f")
	appends := s.open("f", unix.O_RDWR|unix.O_APPEND, 0)
	p, err = unix.Mmap(appends, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	s.op("shared through a descriptor for appending", err)
	copy(p[50:], "in its place")
	s.op("msync", unix.Msync(p, unix.MS_SYNC))
	s.op("munmap", unix.Munmap(p))
	unix.Close(appends)
	s.content("f")
	r := s.open("f", unix.O_RDONLY, 0)
	_, err = unix.Mmap(r, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	s.op("shared and writable through a descriptor for reading", err)
	p, err = unix.Mmap(r, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	s.op("shared for reading", err)
	unix.Close(r)
	if err == nil {
		s.note("%q", p[100:110])
		w := s.open("f", unix.O_WRONLY, 0)
		_, _ = unix.Pwrite(w, []byte("changed"), 100)
		unix.Close(w)
		s.note("%q", p[100:110])
		s.op("munmap", unix.Munmap(p))
	}
}

func vectors(s *script) {
	fd := s.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	defer unix.Close(fd)
	n, err := unix.Pwritev(fd, [][]byte{[]byte("one "), bytes.Repeat([]byte("two"), 5000), []byte(" three")}, 100)
	s.note("pwritev %d %s", n, errno(err))
	a, b := make([]byte, 104), make([]byte, 20000)
	n, err = unix.Preadv(fd, [][]byte{a, b}, 0)
	s.note("preadv %d %s %q %q", n, errno(err), a[98:], b[14990:15010])
	s.content("f")
	r, w, _ := os.Pipe()
	defer r.Close()
	defer w.Close()
	zero := int64(100)
	m, err := unix.Splice(fd, &zero, int(w.Fd()), nil, 1000, 0)
	s.note("splice out %d %s", m, errno(err))
	zero = 50000
	m, err = unix.Splice(int(r.Fd()), nil, fd, &zero, 1000, 0)
	s.note("splice in %d %s", m, errno(err))
	out := s.open("out", unix.O_CREAT|unix.O_RDWR, 0o644)
	defer unix.Close(out)
	zero = 0
	k, err := unix.Sendfile(out, fd, &zero, 60000)
	s.note("sendfile %d %s", k, errno(err))
	s.content("out")
}

// descriptors: what stays possible through a descriptor once its name is gone.
func descriptors(s *script) {
	fd := s.open("f", unix.O_CREAT|unix.O_RDWR, 0o644)
	path := s.open("f", unix.O_PATH, 0)
	s.write(fd, "still here")
	s.op("unlink", unix.Unlink("f"))
	var st unix.Stat_t
	s.op("fstat", unix.Fstat(fd, &st))
	s.note("%d links, %d bytes", st.Nlink, st.Size)
	s.op("fstat of O_PATH", unix.Fstat(path, &st))
	s.note("%d links, %d bytes", st.Nlink, st.Size)
	s.write(fd, ", and more")
	var b [100]byte
	n, err := unix.Pread(fd, b[:], 0)
	s.note("%q %s", b[:n], errno(err))
	s.op("fchmod", unix.Fchmod(fd, 0o600))
	s.op("ftruncate", unix.Ftruncate(fd, 5))
	s.op("fsetxattr", unix.Fsetxattr(fd, "user.a", []byte("b"), 0))
	again := s.open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR, 0)
	n, err = unix.Pread(again, b[:], 0)
	s.note("opened again: %q %s", b[:n], errno(err))
	s.op("link of what has no name", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, "back", unix.AT_SYMLINK_FOLLOW))
	unix.Close(again)
	unix.Close(fd)
	s.op("fstat of O_PATH", unix.Fstat(path, &st))
	again = s.open(fmt.Sprintf("/proc/thread-self/fd/%d", path), unix.O_RDONLY, 0)
	unix.Close(again)
	unix.Close(path)

	s.op("mkdir", unix.Mkdir("d", 0o755))
	dir := s.open("d", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	s.op("rmdir", unix.Rmdir("d"))
	s.op("fstat", unix.Fstat(dir, &st))
	s.note("%d links", st.Nlink)
	n, err = unix.Getdents(dir, b[:])
	s.note("getdents %d %s", n, errno(err))
	_, err = unix.Openat(dir, "new", unix.O_CREAT|unix.O_WRONLY, 0o644)
	s.op("create in what is removed", err)
	s.op("mkdir in it", unix.Mkdirat(dir, "new", 0o755))
	s.op("symlink in it", unix.Symlinkat("x", dir, "new"))
	s.file("g", "", 0o644)
	s.op("rename into it", unix.Renameat(unix.AT_FDCWD, "g", dir, "g"))
	s.op("link into it", unix.Linkat(unix.AT_FDCWD, "g", dir, "g", 0))
	s.op("..", unix.Fstatat(dir, "..", &st, 0))
	s.op("fchmod", unix.Fchmod(dir, 0o700))
	unix.Close(dir)

	onThread(func() {
		s.op("mkdir", unix.Mkdir("cwd", 0o755))
		s.op("chdir", unix.Chdir("cwd"))
		s.op("rmdir", unix.Rmdir("../cwd"))
		s.op("stat .", unix.Stat(".", &st))
		s.note("%d links", st.Nlink)
		s.op("create", func() error { _, err := unix.Open("f", unix.O_CREAT|unix.O_WRONLY, 0o644); return err }())
		fd, err := unix.Open(".", unix.O_RDONLY, 0)
		s.op("open .", err)
		n, err := unix.Getdents(fd, b[:])
		s.note("getdents %d %s", n, errno(err))
		unix.Close(fd)
		s.op("chdir ..", unix.Chdir(".."))
		s.op("stat .", unix.Stat(".", &st))
	})
}
