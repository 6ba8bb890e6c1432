package conformance

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var attrScripts = map[string]func(*script){
	"times":   times,
	"setid":   setID,
	"sticky":  sticky,
	"access":  access,
	"groups":  groups,
	"xattrs":  xattrs,
	"acls":    acls,
	"owners":  owners,
	"statfs":  statfs,
	"ordered": ordered,
}

func times(s *script) {
	s.file("f", "x", 0o644)
	s.op("symlink", unix.Symlink("f", "l"))
	show := func(name string) {
		var st unix.Stat_t
		s.op("lstat", unix.Lstat(name, &st))
		recent := func(t unix.Timespec) bool { return time.Since(time.Unix(t.Unix())) < time.Minute }
		if !recent(st.Atim) && !recent(st.Mtim) {
			s.note("%s: atime %v mtime %v", name, st.Atim, st.Mtim)
		} else {
			s.note("%s: atime now %v, mtime now %v", name, recent(st.Atim), recent(st.Mtim))
		}
		s.note("ctime now %v", recent(st.Ctim))
	}
	now, omit := unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_OMIT}
	for _, ts := range [][]unix.Timespec{
		{{Sec: 1, Nsec: 123456789}, {Sec: 2, Nsec: 987654321}}, {{Sec: -1, Nsec: 5}, {Sec: -1000000000, Nsec: 999999999}},
		{{Sec: 1 << 32}, {Sec: 1<<33 + 5, Nsec: 1}}, {omit, {Sec: 77}}, {{Sec: 78}, omit}, {now, {Sec: 80}}, {omit, omit}, {now, now},
		{{Sec: 5, Nsec: 1e9}, {Sec: 5}},
	} {
		for _, name := range []string{"f", "l"} {
			s.op(fmt.Sprint("utimensat ", ts), unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, unix.AT_SYMLINK_NOFOLLOW))
			show(name)
		}
	}
	var stx unix.Statx_t
	s.op("statx", unix.Statx(unix.AT_FDCWD, "f", 0, unix.STATX_ALL, &stx))
	age := time.Since(time.Unix(stx.Btime.Sec, int64(stx.Btime.Nsec)))
	s.note("birth told %v, a moment ago %v", stx.Mask&unix.STATX_BTIME != 0, age >= 0 && age < time.Minute)
	s.as(1234, 1234, nil, func() {
		s.op("now, of another's", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{now, now}, 0))
		s.op("a time, of another's", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
		s.op("nothing, of another's", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{omit, omit}, 0))
	})
	s.op("chmod", unix.Chmod("f", 0o666))
	s.as(1234, 1234, nil, func() {
		s.op("now, of a writable one", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{now, now}, 0))
		s.op("a time, of a writable one", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: 1}, now}, 0))
	})
}

// ordered: which operations change which times.
func ordered(s *script) {
	old := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	changed := func(what, name string, f func() error) {
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, name, old, unix.AT_SYMLINK_NOFOLLOW)
		var before, after unix.Stat_t
		_ = unix.Lstat(name, &before)
		time.Sleep(20 * time.Millisecond) // a tick of the local file system's clock
		err := f()
		_ = unix.Lstat(name, &after)
		s.note("%s: %s, mtime %v, ctime %v", what, errno(err), before.Mtim != after.Mtim, before.Ctim != after.Ctim)
	}
	s.file("f", "content", 0o644)
	_ = unix.Mkdir("d", 0o755)
	fd := s.open("f", unix.O_RDWR, 0)
	defer unix.Close(fd)
	changed("write", "f", func() error { _, err := unix.Write(fd, []byte("x")); return err })
	changed("write of nothing", "f", func() error { _, err := unix.Write(fd, nil); return err })
	changed("truncate to the same size", "f", func() error { return unix.Ftruncate(fd, 7) })
	changed("truncate", "f", func() error { return unix.Ftruncate(fd, 3) })
	changed("open with O_TRUNC", "f", func() error { fd, err := unix.Open("f", unix.O_TRUNC|unix.O_RDWR, 0); unix.Close(fd); return err })
	changed("fallocate", "f", func() error { return unix.Fallocate(fd, 0, 0, 100) })
	changed("chmod", "f", func() error { return unix.Chmod("f", 0o600) })
	changed("chown", "f", func() error { return unix.Chown("f", 1, 1) })
	changed("link", "f", func() error { return unix.Link("f", "g") })
	changed("unlink of another name", "f", func() error { return unix.Unlink("g") })
	changed("setxattr", "f", func() error { return unix.Setxattr("f", "user.a", []byte("b"), 0) })
	changed("removexattr", "f", func() error { return unix.Removexattr("f", "user.a") })
	changed("read", "f", func() error { _, err := unix.Pread(fd, make([]byte, 5), 0); return err })
	changed("rename", "f", func() error { return unix.Rename("f", "h") })
	changed("create in a directory", "d", func() error { return unix.Mknod("d/x", unix.S_IFREG|0o644, 0) })
	changed("failed create", "d", func() error { return unix.Mknod("d/x", unix.S_IFREG|0o644, 0) })
	changed("rename in it", "d", func() error { return unix.Rename("d/x", "d/y") })
	changed("link in it", "d", func() error { return unix.Link("d/y", "d/z") })
	changed("rename onto the same inode", "d", func() error { return unix.Rename("d/y", "d/z") })
	changed("unlink in it", "d", func() error { return unix.Unlink("d/z") })
	changed("write to a file in it", "d", func() error {
		fd, err := unix.Open("d/y", unix.O_WRONLY, 0)
		_, _ = unix.Write(fd, []byte("y"))
		unix.Close(fd)
		return err
	})
	changed("rename out of it", "d", func() error { return unix.Rename("d/y", "y") })
	changed("rmdir in it", "d", func() error { _ = unix.Mkdir("d/q", 0o755); return unix.Rmdir("d/q") })
}

func setID(s *script) {
	for _, mode := range []uint32{0o4755, 0o2755, 0o6755, 0o6745, 0o2745, 0o6644, 0o1755} {
		for _, uid := range []int{0, 1234} {
			do := func(what string, f func() error) {
				_ = unix.Unlink("f")
				s.file("f", "content", 0o600)
				_ = unix.Chown("f", 1234, 1234)
				_ = unix.Chmod("f", mode)
				if uid == 0 {
					s.op(what, f())
				} else {
					s.as(uid, uid, nil, func() { s.op(what, f()) })
				}
				s.stat("f")
			}
			use := func(flags int, f func(fd int) error) func() error {
				return func() error {
					fd, err := unix.Open("f", flags, 0)
					if err != nil {
						return err
					}
					defer unix.Close(fd)
					return f(fd)
				}
			}
			do("write", use(unix.O_RDWR, func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err }))
			do("direct write", use(unix.O_RDWR|unix.O_DIRECT, func(fd int) error { _, err := unix.Pwrite(fd, aligned(4096), 0); return err }))
			do("truncate", func() error { return unix.Truncate("f", 2) })
			do("ftruncate", use(unix.O_RDWR, func(fd int) error { return unix.Ftruncate(fd, 100) }))
			do("O_TRUNC", use(unix.O_RDWR|unix.O_TRUNC, func(int) error { return nil }))
			do("fallocate", use(unix.O_RDWR, func(fd int) error { return unix.Fallocate(fd, 0, 0, 9000) }))
			do("punch", use(unix.O_RDWR, func(fd int) error { return unix.Fallocate(fd, 3, 0, 5) }))
			do("copy_file_range", use(unix.O_RDWR, func(fd int) error {
				from := s.open("from", unix.O_CREAT|unix.O_RDWR, 0o666)
				_, err := unix.Pwrite(from, []byte("copied"), 0)
				if err == nil {
					_, err = unix.CopyFileRange(from, new(int64), fd, new(int64), 6, 0)
				}
				unix.Close(from)
				return err
			}))
			do("chown to the same", func() error { return unix.Chown("f", 1234, 1234) })
			// (A chown of neither clears set-id bits on a local file system; a FUSE server never hears of it.)
			do("chgrp", func() error { return unix.Chown("f", -1, uid) })
			do("chmod", func() error { return unix.Chmod("f", 0o6777) })
			do("utimes", func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, "f", nil, 0) })
			do("rename", func() error { _ = unix.Rename("f", "g"); return unix.Rename("g", "f") })
		}
	}
	// A set-group-id directory gives its group on.
	s.op("mkdir", unix.Mkdir("d", 0o777))
	s.op("chown", unix.Chown("d", 0, 777))
	s.op("chmod", unix.Chmod("d", 0o2777))
	s.as(1234, 1234, nil, func() {
		s.op("mkdir", unix.Mkdir("d/sub", 0o755))
		s.op("create", unix.Mknod("d/f", unix.S_IFREG|0o2755, 0))
		s.op("symlink", unix.Symlink("x", "d/l"))
		s.op("chmod to set-group-id, outside of the group", unix.Chmod("d/f", 0o2755))
	})
	for _, name := range []string{"d/sub", "d/f", "d/l"} {
		s.stat(name)
	}
}

func sticky(s *script) {
	s.op("mkdir", unix.Mkdir("d", 0o777))
	s.op("chmod", unix.Chmod("d", 0o1777))
	s.as(1111, 1111, nil, func() {
		s.file("d/f", "theirs", 0o666)
		s.op("mkdir", unix.Mkdir("d/dir", 0o777))
	})
	s.as(2222, 2222, nil, func() {
		s.file("d/mine", "mine", 0o666)
		s.op("unlink", unix.Unlink("d/f"))
		s.op("rename", unix.Rename("d/f", "d/g"))
		s.op("rename over", unix.Rename("d/mine", "d/f"))
		s.op("exchange", unix.Renameat2(unix.AT_FDCWD, "d/mine", unix.AT_FDCWD, "d/f", unix.RENAME_EXCHANGE))
		s.op("rmdir", unix.Rmdir("d/dir"))
		s.op("link", unix.Link("d/f", "d/l"))
		fd := s.open("d/f", unix.O_WRONLY, 0)
		s.op("write", func() error { _, err := unix.Write(fd, []byte("x")); return err }())
		unix.Close(fd)
		s.op("own", unix.Unlink("d/mine"))
	})
	s.as(1111, 1111, nil, func() { s.op("owner", unix.Unlink("d/f")) })
	s.list("d")
}

func access(s *script) {
	for _, mode := range []uint32{0, 0o700, 0o070, 0o007, 0o444, 0o222, 0o111, 0o750, 0o057, 0o604} {
		s.op("mkdir", unix.Mkdir("d", 0o755))
		s.file("d/in", "", 0o666)
		s.file("f", "", 0o666)
		for _, name := range []string{"d", "f"} {
			_ = unix.Chown(name, 1000, 2000)
			_ = unix.Chmod(name, mode)
		}
		for _, who := range []struct {
			uid, gid int
			groups   []uint32
		}{{0, 0, nil}, {1000, 1, nil}, {1, 2000, nil}, {1, 1, []uint32{5, 2000}}, {1, 1, nil}} {
			s.as(who.uid, who.gid, who.groups, func() {
				s.note("mode %o, %+v", mode, who)
				for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
					fd, err := unix.Open("f", flags, 0)
					s.op("open", err)
					if err == nil {
						unix.Close(fd)
					}
				}
				for bits := uint32(0); bits < 8; bits++ {
					s.op("access", unix.Access("f", bits))
					s.op("access to the directory", unix.Access("d", bits))
				}
				fd, err := unix.Open("d", unix.O_RDONLY, 0)
				s.op("list", err)
				if err == nil {
					unix.Close(fd)
				}
				var st unix.Stat_t
				s.op("stat in it", unix.Stat("d/in", &st))
				s.op("create in it", unix.Mknod("d/new", unix.S_IFREG, 0))
				s.op("unlink in it", unix.Unlink("d/new"))
				s.op("chmod", unix.Chmod("f", mode))
				s.op("chown", unix.Chown("f", 5, -1))
				if who.uid == 0 {
					_ = unix.Chown("f", 1000, 2000)
				}
			})
		}
		_ = unix.Unlink("f")
		_ = unix.Unlink("d/in")
		_ = unix.Rmdir("d")
	}
}

func groups(s *script) {
	s.file("f", "", 0o640)
	_ = unix.Chown("f", 1000, 1000)
	s.as(1000, 1000, []uint32{2000, 3000}, func() {
		for _, gid := range []int{2000, 3000, 1000, 4000} {
			s.op(fmt.Sprint("chgrp ", gid), unix.Chown("f", -1, gid))
			s.stat("f")
		}
		s.op("give away", unix.Chown("f", 1001, -1))
		s.op("chown to oneself", unix.Chown("f", 1000, -1))
	})
	s.as(1001, 1000, nil, func() { s.op("another's chgrp", unix.Chown("f", -1, 1000)) })
}

func owners(s *script) {
	s.as(1234, 2345, []uint32{3456}, func() {
		s.file("f", "", 0o600)
		s.op("mkdir", unix.Mkdir("d", 0o777))
		s.op("symlink", unix.Symlink("x", "l"))
		unix.Umask(0o077)
		s.op("mkdir", unix.Mkdir("private", 0o777))
		s.op("fifo", unix.Mkfifo("fifo", 0o666))
		unix.Umask(0)
		s.op("mkdir", unix.Mkdir("open", 0o7777))
		s.op("file", func() error {
			fd, err := unix.Open("all", unix.O_CREAT|unix.O_WRONLY, 0o7777)
			unix.Close(fd)
			return err
		}())
	})
	for _, name := range []string{"f", "d", "l", "private", "fifo", "open", "all"} {
		s.stat(name)
	}
	s.op("chown of 2^32-2", unix.Chown("f", 1<<32-2, 1<<32-2))
	s.stat("f")
}

func xattrs(s *script) {
	s.file("f", strings.Repeat("x", 2000), 0o644)
	_ = unix.Mkdir("d", 0o755)
	_ = unix.Symlink("f", "l")
	_ = unix.Mkfifo("p", 0o644)
	get := func(name, attr string) {
		buf := make([]byte, 70000)
		n, err := unix.Lgetxattr(name, attr, buf)
		if err != nil {
			s.op("get "+attr+" of "+name, err)
			return
		}
		s.note("%s of %s: %d bytes %s", attr, name, n, brief(buf[:n]))
	}
	list := func(name string) {
		buf := make([]byte, 70000)
		n, err := unix.Llistxattr(name, buf)
		names := strings.Split(string(buf[:max(n, 0)]), "\x00")
		slices.Sort(names)
		s.note("list of %s: %.300q %s", name, names, errno(err))
	}
	for _, name := range []string{"f", "d", "l", "p"} {
		for _, attr := range []string{"user.a", "trusted.b", "security.c", "system.d", "other.e", "user.", "user", ""} {
			s.op(fmt.Sprintf("set %s of %s", attr, name), unix.Lsetxattr(name, attr, []byte("value"), 0))
			get(name, attr)
		}
		list(name)
		s.op("create again", unix.Lsetxattr(name, "trusted.b", []byte("2"), unix.XATTR_CREATE))
		s.op("create", unix.Lsetxattr(name, "trusted.new", []byte("2"), unix.XATTR_CREATE))
		s.op("replace missing", unix.Lsetxattr(name, "trusted.no", []byte("2"), unix.XATTR_REPLACE))
		s.op("replace", unix.Lsetxattr(name, "trusted.b", []byte("replaced"), unix.XATTR_REPLACE))
		s.op("both", unix.Lsetxattr(name, "trusted.b", []byte("2"), unix.XATTR_REPLACE|unix.XATTR_CREATE))
		s.op("unknown flag", unix.Lsetxattr(name, "trusted.b", []byte("2"), 8))
		get(name, "trusted.b")
		s.op("remove", unix.Lremovexattr(name, "trusted.b"))
		s.op("remove again", unix.Lremovexattr(name, "trusted.b"))
		s.op("empty value", unix.Lsetxattr(name, "trusted.empty", nil, 0))
		get(name, "trusted.empty")
		list(name)
	}
	for _, n := range []int{100, 1000, 2000, 3000} {
		s.op(fmt.Sprint("value of ", n), unix.Setxattr("f", "user.big", []byte(strings.Repeat("v", n)), 0))
		get("f", "user.big")
		s.content("f")
	}
	s.op("value too long", unix.Setxattr("f", "user.big", make([]byte, 65537), 0))
	for _, n := range []int{5, 200, 250, 251} {
		name := "user." + strings.Repeat("n", n)
		s.op(fmt.Sprint("name of ", n+5), unix.Setxattr("f", name, []byte("v"), 0))
		_, err := unix.Getxattr("f", name, make([]byte, 10))
		s.op("get", err)
		s.op("remove", unix.Removexattr("f", name))
	}
	n, err := unix.Getxattr("f", "user.big", nil)
	s.note("size %d %s", n, errno(err))
	n, err = unix.Getxattr("f", "user.big", make([]byte, 10))
	s.note("too small %d %s", n, errno(err))
	_, err = unix.Listxattr("f", make([]byte, 3))
	s.op("list too small", err)
	_ = unix.Chmod("f", 0o644)
	_ = unix.Chmod("d", 0o1777)
	s.as(1234, 1234, nil, func() {
		get("f", "user.a")
		get("f", "trusted.new")
		list("f")
		s.op("set of another's", unix.Setxattr("f", "user.x", []byte("v"), 0))
		s.op("remove of another's", unix.Removexattr("f", "user.a"))
		s.op("trusted", unix.Setxattr("f", "trusted.x", []byte("v"), 0))
		s.op("security", unix.Setxattr("f", "security.x", []byte("v"), 0))
		s.op("sticky directory of another", unix.Setxattr("d", "user.x", []byte("v"), 0))
		s.file("own", "", 0o200)
		s.op("own", unix.Setxattr("own", "user.x", []byte("v"), 0))
		get("own", "user.x")
		list("own")
	})
	// A hundred of them, then fewer.
	for i := range 40 {
		if err := unix.Setxattr("d", fmt.Sprintf("trusted.%03d", i), []byte(strings.Repeat(string(rune('a'+i%26)), 40)), 0); err != nil {
			s.op(fmt.Sprint("set ", i), err)
		}
	}
	for i := 0; i < 40; i += 3 {
		s.op("remove", unix.Removexattr("d", fmt.Sprintf("trusted.%03d", i)))
	}
	list("d")
	get("d", "trusted.038")
	// File capabilities go with a write.
	_ = unix.Setxattr("f", "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	get("f", "security.capability")
	fd := s.open("f", unix.O_WRONLY, 0)
	s.write(fd, "x")
	unix.Close(fd)
	get("f", "security.capability")
}

// aclEntry is tag, permissions, id.
type aclEntry struct {
	tag, perm uint16
	id        uint32
}

const (
	aclUserObj, aclUser, aclGroupObj, aclGroup, aclMask, aclOther = 1, 2, 4, 8, 16, 32
	noID                                                          = 1<<32 - 1
)

func acl(entries ...aclEntry) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func acls(s *script) {
	show := func(name string) {
		s.stat(name)
		for _, attr := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
			buf := make([]byte, 1000)
			n, err := unix.Getxattr(name, attr, buf)
			s.note("%s: %x %s", attr, buf[:max(n, 0)], errno(err))
		}
	}
	const access, def = "system.posix_acl_access", "system.posix_acl_default"
	full := acl(aclEntry{aclUserObj, 6, noID}, aclEntry{aclUser, 7, 1111}, aclEntry{aclUser, 0, 2222}, aclEntry{aclGroupObj, 4, noID},
		aclEntry{aclGroup, 6, 3333}, aclEntry{aclMask, 6, noID}, aclEntry{aclOther, 4, noID})
	plain := acl(aclEntry{aclUserObj, 7, noID}, aclEntry{aclGroupObj, 5, noID}, aclEntry{aclOther, 1, noID})
	s.file("f", "content", 0o664)
	s.op("mkdir", unix.Mkdir("d", 0o755))
	s.op("set", unix.Setxattr("f", access, full, 0))
	show("f")
	try := func(uid, gid int, groups []uint32) {
		s.as(uid, gid, groups, func() {
			for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
				fd, err := unix.Open("f", flags, 0)
				s.op(fmt.Sprintf("open %d by %d:%d %v", flags, uid, gid, groups), err)
				if err == nil {
					unix.Close(fd)
				}
			}
			s.op("exec", unix.Access("f", 1))
		})
	}
	all := func() {
		try(1111, 1, nil)
		try(2222, 1, nil)
		try(2222, 0, []uint32{3333})
		try(5, 3333, nil)
		try(5, 5, []uint32{3333})
		try(5, 0, nil)
		try(5, 5, nil)
	}
	all()
	for _, mode := range []uint32{0o600, 0o640, 0o666, 0o777, 0o604} {
		s.op(fmt.Sprintf("chmod %o", mode), unix.Chmod("f", mode))
		show("f")
		all()
	}
	s.op("one that a mode says", unix.Setxattr("f", access, plain, 0))
	show("f")
	for what, value := range map[string][]byte{
		"without a mask": acl(aclEntry{aclUserObj, 6, noID}, aclEntry{aclUser, 7, 1111}, aclEntry{aclGroupObj, 4, noID}, aclEntry{aclOther, 4, noID}),
	} {
		s.op(what, unix.Setxattr("f", access, value, 0))
	}
	s.op("garbage", unix.Setxattr("f", access, []byte("garbage"), 0))
	s.op("version 1", unix.Setxattr("f", access, append([]byte{1, 0, 0, 0}, plain[4:]...), 0))
	s.op("a default one of a file", unix.Setxattr("f", def, full, 0))
	s.op("remove what is not there", unix.Removexattr("f", access))
	s.op("empty", unix.Setxattr("f", access, acl(), 0))
	show("f")

	s.op("default", unix.Setxattr("d", def, full, 0))
	show("d")
	s.op("chown", unix.Chown("d", 1111, 1111))
	s.as(1111, 1111, nil, func() {
		unix.Umask(0o077)
		s.file("d/f", "", 0o666)
		s.op("mkdir", unix.Mkdir("d/sub", 0o777))
		s.op("mknod", unix.Mknod("d/p", unix.S_IFIFO|0o660, 0))
		s.op("create", func() error {
			fd, err := unix.Open("d/created", unix.O_CREAT|unix.O_WRONLY, 0o640)
			unix.Close(fd)
			return err
		}())
		s.op("symlink", unix.Symlink("x", "d/l"))
	})
	for _, name := range []string{"d/f", "d/sub", "d/p", "d/created"} {
		show(name)
	}
	s.stat("d/l")
	s.as(1111, 1111, nil, func() {
		s.op("set by the owner", unix.Setxattr("d/f", access, full, 0))
		s.op("remove by the owner", unix.Removexattr("d/f", access))
	})
	show("d/f")
	s.as(2222, 2222, nil, func() {
		s.op("set by another", unix.Setxattr("d/f", access, full, 0))
		s.op("default by another", unix.Setxattr("d", def, full, 0))
		s.op("remove by another", unix.Removexattr("d", def))
	})
	s.op("remove the default", unix.Removexattr("d", def))
	show("d")
	s.file("d/plain", "", 0o644)
	show("d/plain")
	// The set-group-id bit goes when somebody outside of the group sets an ACL.
	s.file("sg", "", 0o644)
	_ = unix.Chown("sg", 1111, 4444)
	_ = unix.Chmod("sg", 0o2755)
	s.as(1111, 1111, nil, func() { s.op("set", unix.Setxattr("sg", access, full, 0)) })
	show("sg")
}

func statfs(s *script) {
	var st unix.Statfs_t
	s.op("statfs", unix.Statfs(".", &st))
	s.note("names %d, block %d, sane %v", st.Namelen, st.Bsize, st.Bavail <= st.Bfree && st.Bfree < st.Blocks && st.Ffree <= st.Files && st.Ffree > 0)
}
