package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

var nameScripts = map[string]func(*script){
	"rename":   renaming,
	"lengths":  lengths,
	"symlinks": symlinks,
	"tmpfile":  tmpfiles,
	"links":    links,
	"special":  special,
	"opening":  opening,
	"readdir":  readdir,
}

// list notes the sorted names of a directory with their types.
func (s *script) list(name string) {
	entries, err := os.ReadDir(name)
	if err != nil {
		s.op("readdir "+name, err)
		return
	}
	var names []string
	for _, e := range entries {
		names = append(names, fmt.Sprintf("%.20s/%v", e.Name(), e.Type()))
	}
	slices.Sort(names)
	s.note("%s: %v", name, names)
}

func renaming(s *script) {
	flags := map[string]uint{"plain": 0, "noreplace": unix.RENAME_NOREPLACE, "exchange": unix.RENAME_EXCHANGE, "both": 3, "unknown": 1 << 10}
	kinds := []string{"file", "other", "same", "empty", "full", "link", "none", "below"}
	for _, flag := range []string{"plain", "noreplace", "exchange", "both", "unknown"} {
		for _, from := range kinds {
			for _, to := range kinds {
				for _, dir := range []string{".", "sub"} {
					s.op("mkdir", unix.Mkdir("w", 0o755))
					s.op("mkdir", unix.Mkdir("w/sub", 0o755))
					makeKind(s, "w/a", from)
					target := "w/" + dir + "/b"
					if to == "same" {
						target = "w/" + dir + "/s"
						if err := unix.Link("w/a", target); err != nil {
							target = "w/a"
						}
					} else if to == "below" {
						target = "w/a/full/x"
					} else {
						makeKind(s, target, to)
					}
					s.op(fmt.Sprintf("rename %s of %s to %s in %s", flag, from, to, dir), unix.Renameat2(unix.AT_FDCWD, "w/a", unix.AT_FDCWD, target, flags[flag]))
					for _, name := range []string{"w", "w/sub", "w/a", target} {
						s.stat(name)
					}
					s.list("w")
					s.list("w/sub")
					if err := os.RemoveAll("w"); err != nil {
						s.op("remove", err)
					}
				}
			}
		}
	}
	s.op("mkdir", os.MkdirAll("p/q/r", 0o755))
	s.op("below itself", unix.Rename("p", "p/q/r/p"))
	s.op("onto its parent", unix.Rename("p/q/r", "p/q"))
	s.op("onto itself", unix.Rename("p", "p"))
	s.op("exchange with what is below", unix.Renameat2(unix.AT_FDCWD, "p", unix.AT_FDCWD, "p/q/r", unix.RENAME_EXCHANGE))
	s.op("exchange with what is above", unix.Renameat2(unix.AT_FDCWD, "p/q/r", unix.AT_FDCWD, "p", unix.RENAME_EXCHANGE))
	s.op(".", unix.Rename("p/.", "x"))
	s.op("..", unix.Rename("p/q/..", "x"))
	s.op("trailing slash on a directory", unix.Rename("p/", "x/"))
	s.file("f", "", 0o644)
	s.op("trailing slash on a file", unix.Rename("f", "g/"))
	s.op("file as directory", unix.Rename("f/x", "g"))
}

func makeKind(s *script, name, kind string) {
	switch kind {
	case "file", "other", "same":
		s.file(name, kind, 0o640)
	case "empty":
		s.op("mkdir", unix.Mkdir(name, 0o750))
	case "full", "below":
		s.op("mkdir", os.MkdirAll(name+"/full", 0o750))
	case "link":
		s.op("symlink", unix.Symlink("nowhere", name))
	}
}

func lengths(s *script) {
	for _, n := range []int{1, 254, 255, 256, 300} {
		name := strings.Repeat("n", n)
		s.op(fmt.Sprint("create ", n), func() error {
			fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY, 0o644)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		}())
		s.stat(name)
		s.op("mkdir", unix.Mkdir("d"+name[1:], 0o755))
		s.op("symlink", unix.Symlink("x", "s"+name[1:]))
		s.op("link", unix.Link(name, "l"+name[1:]))
		s.op("mkfifo", unix.Mkfifo("p"+name[1:], 0o644))
		s.op("rename", unix.Rename(name, "r"+name[1:]))
		s.op("unlink", unix.Unlink("r"+name[1:]))
		s.op("rmdir", unix.Rmdir("d"+name[1:]))
		s.op("missing", unix.Unlink("m"+name[1:]))
	}
	utf8 := strings.Repeat("ü", 127)
	s.file(utf8, "", 0o644)
	s.file("\xff\xfe \n\t*", "any bytes", 0o644)
	s.list(".")
	deep := ""
	for range 20 {
		deep += strings.Repeat("d", 200) + "/"
	}
	s.op("a path of 4020 bytes", os.MkdirAll(deep, 0o755))
	s.op("a path of 4096 bytes", unix.Mkdir(deep+strings.Repeat("x", 76), 0o755))
	s.op("a path of 4095 bytes", unix.Mkdir(deep+strings.Repeat("x", 75), 0o755))
	s.op("remove", os.RemoveAll(strings.Repeat("d", 200)))
	s.op("empty name", unix.Mkdir("", 0o755))
	s.op(".", unix.Mkdir(".", 0o755))
	s.op("rmdir .", unix.Rmdir("."))
	s.op("rmdir ..", unix.Rmdir("./.."))
	s.op("unlink .", unix.Unlink("."))
}

func symlinks(s *script) {
	for _, n := range []int{0, 1, 59, 60, 255, 1000, 3499, 3500, 3600, 4000, 4095, 4096} {
		name, target := fmt.Sprint("l", n), strings.Repeat("t", n)
		s.op(fmt.Sprint("symlink of ", n), unix.Symlink(target, name))
		got, err := os.Readlink(name)
		s.note("readlink: %d bytes, right %v, %s", len(got), got == target, errno(err))
		s.stat(name)
	}
	s.op("symlink", unix.Symlink("loop", "loop"))
	s.op("open a loop", func() error { _, err := unix.Open("loop", unix.O_RDONLY, 0); return err }())
	s.file("f", "by the link", 0o644)
	s.op("symlink", unix.Symlink("f", "to"))
	s.content("to")
	s.op("no follow", func() error { _, err := unix.Open("to", unix.O_RDONLY|unix.O_NOFOLLOW, 0); return err }())
	s.op("exclusive", func() error { _, err := unix.Open("to", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644); return err }())
	s.op("symlink", unix.Symlink("made", "dangling"))
	s.op("create through it", func() error {
		fd, err := unix.Open("dangling", unix.O_CREAT|unix.O_RDWR, 0o644)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}())
	s.stat("made")
	s.op("fchmodat2", unix.Fchmodat(unix.AT_FDCWD, "to", 0o600, unix.AT_SYMLINK_NOFOLLOW))
	s.op("lchown", unix.Lchown("to", 5, 6))
	s.stat("to")
	s.stat("f")
	s.op("link to a symlink", unix.Link("to", "hard"))
	s.stat("hard")
	s.op("unlink", unix.Unlink("to"))
	s.stat("f")
	_, err := os.Readlink("f")
	s.op("readlink of a file", err)
}

func tmpfiles(s *script) {
	fd := s.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o640)
	s.write(fd, "without a name")
	var st unix.Stat_t
	s.op("fstat", unix.Fstat(fd, &st))
	s.note("mode %o, %d links, %d bytes", st.Mode, st.Nlink, st.Size)
	s.list(".")
	s.op("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, "named", unix.AT_SYMLINK_FOLLOW))
	s.stat("named")
	s.write(fd, ", then with one")
	s.op("linkat empty path", unix.Linkat(fd, "", unix.AT_FDCWD, "twice", unix.AT_EMPTY_PATH))
	unix.Close(fd)
	s.stat("named")
	s.content("twice")
	fd = s.open(".", unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL, 0o640)
	s.op("linkat of an exclusive one", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, "never", unix.AT_SYMLINK_FOLLOW))
	unix.Close(fd)
	s.op("for reading", func() error { _, err := unix.Open(".", unix.O_TMPFILE|unix.O_RDONLY, 0o640); return err }())
	s.op("in a file", func() error { _, err := unix.Open("named", unix.O_TMPFILE|unix.O_RDWR, 0o640); return err }())
	s.op("in nothing", func() error { _, err := unix.Open("no", unix.O_TMPFILE|unix.O_RDWR, 0o640); return err }())
	s.list(".")
	s.as(1234, 1234, nil, func() {
		fd := s.open(".", unix.O_TMPFILE|unix.O_RDWR, 0o666)
		s.op("fstat", unix.Fstat(fd, &st))
		s.note("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
		s.op("linkat", unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/thread-self/fd/%d", fd), unix.AT_FDCWD, "theirs", unix.AT_SYMLINK_FOLLOW))
		unix.Close(fd)
		s.stat("theirs")
	})
}

func links(s *script) {
	s.file("f", "linked", 0o644)
	for i := range 10 {
		s.op("link", unix.Link("f", fmt.Sprint("l", i)))
	}
	s.stat("l9")
	s.op("exists", unix.Link("f", "l1"))
	s.op("missing", unix.Link("no", "x"))
	s.op("mkdir", unix.Mkdir("d", 0o755))
	s.op("a directory", unix.Link("d", "x"))
	s.op("into a file", unix.Link("f", "l1/x"))
	s.op("rmdir of a file", unix.Rmdir("f"))
	s.op("unlink of a directory", unix.Unlink("d"))
	s.op("a fifo", unix.Mkfifo("fifo", 0o600))
	s.op("link of it", unix.Link("fifo", "fifo2"))
	s.stat("fifo2")
	for i := range 9 {
		s.op("unlink", unix.Unlink(fmt.Sprint("l", i)))
	}
	s.stat("f")
	s.content("l9")
	for i := range 5 {
		s.op("mkdir", unix.Mkdir(fmt.Sprint("d/", i), 0o755))
	}
	s.stat("d")
	s.op("rmdir of a full one", unix.Rmdir("d"))
	s.op("rmdir", unix.Rmdir("d/3"))
	s.stat("d")
}

func special(s *script) {
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "char": unix.S_IFCHR, "block": unix.S_IFBLK, "plain": unix.S_IFREG, "none": 0} {
		err := unix.Mknod(name, mode|0o666, int(unix.Mkdev(7, 300000)))
		if err != nil {
			s.op("mknod "+name, err)
		}
	}
	for _, name := range []string{"block", "char", "fifo", "none", "plain", "socket"} {
		s.stat(name)
	}
	s.list(".")
	s.op("mknod of a directory", unix.Mknod("d", unix.S_IFDIR|0o755, 0))
	s.op("mknod again", unix.Mknod("fifo", unix.S_IFIFO|0o644, 0))
	s.op("open a socket", func() error { _, err := unix.Open("socket", unix.O_RDONLY, 0); return err }())
	s.op("open a fifo to write, no reader", func() error { _, err := unix.Open("fifo", unix.O_WRONLY|unix.O_NONBLOCK, 0); return err }())
	r := s.open("fifo", unix.O_RDONLY|unix.O_NONBLOCK, 0)
	w := s.open("fifo", unix.O_WRONLY|unix.O_NONBLOCK, 0)
	s.write(w, "through the fifo")
	var b [20]byte
	n, err := unix.Read(r, b[:])
	s.note("%q %s", b[:n], errno(err))
	unix.Close(r)
	unix.Close(w)
	s.op("mknod", unix.Mknod("null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	fd := s.open("null", unix.O_RDWR, 0)
	s.write(fd, "into nothing")
	n, err = unix.Read(fd, b[:])
	s.note("%d %s", n, errno(err))
	unix.Close(fd)
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	s.op("socket", err)
	s.op("bind", unix.Bind(sock, &unix.SockaddrUnix{Name: "bound"}))
	s.op("listen", unix.Listen(sock, 1))
	c, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	s.op("connect", unix.Connect(c, &unix.SockaddrUnix{Name: "bound"}))
	unix.Close(c)
	unix.Close(sock)
	s.stat("bound")
	s.as(1234, 1234, nil, func() {
		s.op("device", unix.Mknod("dev", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		s.op("fifo", unix.Mkfifo("theirs", 0o666))
		s.stat("theirs")
	})
}

func opening(s *script) {
	s.file("f", "content", 0o644)
	s.op("mkdir", unix.Mkdir("d", 0o755))
	for _, o := range []struct {
		what, name string
		flags      int
	}{
		{"create exclusive, there", "f", unix.O_CREAT | unix.O_EXCL | unix.O_RDWR},
		{"create exclusive, a directory", "d", unix.O_CREAT | unix.O_EXCL | unix.O_RDWR},
		{"create, a directory", "d", unix.O_CREAT | unix.O_RDWR},
		{"directory for writing", "d", unix.O_WRONLY},
		{"directory with O_TRUNC", "d", unix.O_RDONLY | unix.O_TRUNC},
		{"file as directory", "f", unix.O_RDONLY | unix.O_DIRECTORY},
		{"create as directory", "new", unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CREAT},
		{"file with slash", "f/", unix.O_RDONLY},
		{"create with slash", "new/", unix.O_CREAT | unix.O_RDWR},
		{"below a file", "f/x", unix.O_RDONLY},
		{"missing", "no", unix.O_RDONLY},
		{"below what is missing", "no/x", unix.O_CREAT | unix.O_RDWR},
		{"access mode 3", "f", 3},
		{"path only", "f", unix.O_PATH},
		{"no atime", "f", unix.O_RDONLY | unix.O_NOATIME},
		{"truncate for reading", "f", unix.O_RDONLY | unix.O_TRUNC},
		{"create of an existing one, truncating", "f", unix.O_CREAT | unix.O_TRUNC | unix.O_WRONLY},
		{"non-blocking", "f", unix.O_RDONLY | unix.O_NONBLOCK},
	} {
		fd, err := unix.Open(o.name, o.flags, 0o644)
		s.op(o.what, err)
		if err == nil {
			unix.Close(fd)
		}
		s.stat("f")
	}
	fd := s.open("ro", unix.O_CREAT|unix.O_RDWR, 0) // a mode without any right still gives what was asked for
	s.write(fd, "written")
	unix.Close(fd)
	s.stat("ro")
	s.as(1234, 1234, nil, func() {
		fd := s.open("ro2", unix.O_CREAT|unix.O_RDWR, 0o400)
		s.write(fd, "written")
		unix.Close(fd)
		s.op("again", func() error { _, err := unix.Open("ro2", unix.O_RDWR, 0); return err }())
		s.op("no atime of another's", func() error { _, err := unix.Open("f", unix.O_RDONLY|unix.O_NOATIME, 0); return err }())
		s.stat("ro2")
	})
	s.list(".")
}

func readdir(s *script) {
	for i := range 1000 {
		s.file(fmt.Sprintf("d%03d", i), "", 0o644)
	}
	fd := s.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	defer unix.Close(fd)
	// What is there all the time is listed once, whatever else comes and goes.
	seen := map[string]int{}
	buf := make([]byte, 2048)
	for i := 0; ; i++ {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n == 0 {
			s.op("getdents", err)
			break
		}
		var names []string
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		for _, name := range names {
			seen[name]++
		}
		s.op("create", func() error { return os.WriteFile(fmt.Sprint("new", i), nil, 0o644) }())
		if i%2 == 0 {
			s.op("unlink", unix.Unlink(fmt.Sprintf("d%03d", 999-i)))
		}
		if i > 200 {
			break
		}
		s.lines = s.lines[:0]
	}
	bad := 0
	for i := range 1000 {
		name := fmt.Sprintf("d%03d", i)
		if n := seen[name]; n > 1 || n == 0 && unix.Access(name, unix.F_OK) == nil {
			bad++
		}
	}
	s.note("%d of the names were missed or listed twice", bad)
	_, err := unix.Seek(fd, 0, unix.SEEK_SET)
	s.op("rewind", err)
	again, _ := os.ReadDir(".")
	for _, e := range again {
		s.op("unlink", os.Remove(e.Name()))
		s.lines = s.lines[:2]
	}
	s.list(".")
}
