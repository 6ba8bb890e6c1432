package coherence

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The matrix: every change made through mount A is looked at through mount B in every way, at once, where B had
// all of it cached. What A itself then sees is what B must have seen.

// view is one mount's look at a case's directory: paths, descriptors opened and a mapping made before the change.
type view struct {
	dir     string
	fd      int
	probe   int // another descriptor of the same file, to try file locks through
	mapping []byte
	reads   bool  // through fd and mapping nothing can be written
	thin    bool  // a mapping is as new as its mmap call
	locks   int16 // what probe may lock: F_RDLCK or F_WRLCK
}

func (v *view) path(name string) string { return filepath.Join(v.dir, name) }

func (v *view) open(t *testing.T) {
	t.Helper()
	flags, prot := unix.O_RDWR|unix.O_CLOEXEC, unix.PROT_READ|unix.PROT_WRITE
	if v.reads {
		flags, prot = unix.O_RDONLY|unix.O_CLOEXEC, unix.PROT_READ
	}
	var err error
	v.fd, err = unix.Open(v.path("f"), flags, 0)
	must(t, err)
	v.mapping, err = unix.Mmap(v.fd, 0, mappedBytes, prot, unix.MAP_SHARED)
	must(t, err)
	flags = unix.O_RDONLY | unix.O_CLOEXEC
	if v.locks == unix.F_WRLCK {
		flags = unix.O_RDWR | unix.O_CLOEXEC
	}
	v.probe, err = unix.Open(v.path("f"), flags, 0)
	must(t, err)
}

func (v *view) close() {
	_ = unix.Munmap(v.mapping)
	_ = unix.Close(v.fd)
	_ = unix.Close(v.probe)
}

// mappedBytes is what a view maps of the file.
const mappedBytes = 3 * 4096

type observation struct {
	name string
	look func(v *view) string
	lock bool // of what file locks are there
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

// mapped reads a mapping of fd. A kernel asks nobody when one is used beyond the size that it knows: a stat tells it of a new one.
func mapped(fd int, m []byte) string {
	text := pages(m)
	if strings.Contains(text, "fault") {
		_ = unix.Fstat(fd, new(unix.Stat_t))
		text = pages(m)
	}
	return text
}

// pages reads a mapping; past the end of the file that is a fault.
func pages(m []byte) (text string) {
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
	{name: "stat", look: func(v *view) string { return statText(v.path("f")) }},
	{name: "stat of the absent", look: func(v *view) string { return statText(v.path("g")) }},
	{name: "stat of the directory", look: func(v *view) string { return statText(v.dir) }},
	{name: "stat of sub", look: func(v *view) string { return statText(v.path("sub")) }},
	{name: "stat in sub", look: func(v *view) string { return statText(v.path("sub/x")) }},
	{name: "fstat", look: func(v *view) string {
		var st unix.Stat_t
		if err := unix.Fstat(v.fd, &st); err != nil {
			return err.Error()
		}
		return attrText(&st)
	}},
	{name: "open and read", look: func(v *view) string { return content(os.ReadFile(v.path("f"))) }},
	{name: "open and read of the absent", look: func(v *view) string { return content(readFile(v.path("g"), unix.O_NONBLOCK)) }},
	{name: "read", look: func(v *view) string { return readFD(v.fd) }},
	{name: "O_DIRECT read", look: func(v *view) string { return content(readFile(v.path("f"), unix.O_DIRECT)) }},
	{name: "sendfile", look: func(v *view) string {
		_ = unix.Fstat(v.fd, new(unix.Stat_t)) // or the kernel sends what it knows to be there
		return content(sent(v.fd))
	}},
	{name: "seek to the end", look: func(v *view) string {
		n, err := unix.Seek(v.fd, 0, unix.SEEK_END)
		return fmt.Sprint(n, err)
	}},
	{name: "mapped read", look: func(v *view) string {
		if v.thin {
			m, err := unix.Mmap(v.fd, 0, mappedBytes, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return err.Error()
			}
			defer unix.Munmap(m)
			return mapped(v.fd, m)
		}
		return mapped(v.fd, v.mapping)
	}},
	{name: "readdir", look: func(v *view) string {
		f, err := os.Open(v.dir)
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		names, err := f.Readdirnames(-1)
		sort.Strings(names)
		return fmt.Sprint(names, err)
	}},
	{name: "readdir and stat", look: func(v *view) string {
		list, err := os.ReadDir(v.dir)
		var lines []string
		for _, e := range list {
			lines = append(lines, e.Name()+": "+statText(v.path(e.Name())))
		}
		return fmt.Sprint(strings.Join(lines, "\n"), err)
	}},
	{name: "readlink", look: func(v *view) string { s, err := os.Readlink(v.path("l")); return fmt.Sprint(s, err) }},
	{name: "getxattr", look: func(v *view) string {
		buf := make([]byte, 100)
		n, err := unix.Lgetxattr(v.path("f"), "user.a", buf)
		return fmt.Sprintf("%q %v", buf[:max(n, 0)], err)
	}},
	{name: "listxattr", look: func(v *view) string {
		buf := make([]byte, 500)
		n, err := unix.Llistxattr(v.path("f"), buf)
		return fmt.Sprintf("%q %v", buf[:max(n, 0)], err)
	}},
	{name: "access", look: func(v *view) string { return fmt.Sprint(unix.Access(v.path("f"), unix.X_OK)) }},
}

// sent is what sendfile sends of a file.
func sent(fd int) ([]byte, error) {
	to, err := unix.MemfdCreate("sent", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(to)
	if _, err := unix.Sendfile(to, fd, new(int64), 64<<10); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Pread(to, buf, 0)
	return buf[:max(n, 0)], err
}

// readFile opens a file with flags and reads it into a page-aligned buffer, as O_DIRECT wants it.
func readFile(path string, flags int) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(buf)
	n, err := unix.Read(fd, buf)
	return bytes.Clone(buf[:max(n, 0)]), err
}

type change struct {
	name   string
	do     func(v *view) error
	before func(v *view) error // done before anybody looks
	local  bool                // through a thin mount it is not to be seen elsewhere
	lock   bool                // of file locks
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
	{name: "write", do: func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY, func(fd int) error { return pwrite(fd, "changed", 10) })
	}},
	{name: "write through an open descriptor", do: func(v *view) error { return pwrite(v.fd, "changed too", 0) }},
	{name: "write past the end", do: func(v *view) error { return pwrite(v.fd, "far", 20_000) }},
	{name: "O_DIRECT write", do: func(v *view) error {
		buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		defer unix.Munmap(buf)
		copy(buf, "direct")
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_DIRECT, func(fd int) error { return pwrite(fd, string(buf), 0) })
	}},
	{name: "append", do: func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_APPEND, func(fd int) error { return pwrite(fd, "more", 0) })
	}},
	{name: "truncate", do: func(v *view) error { return unix.Truncate(v.path("f"), 50) }},
	{name: "truncate to nothing", do: func(v *view) error { return unix.Ftruncate(v.fd, 0) }},
	{name: "extend", do: func(v *view) error { return unix.Truncate(v.path("f"), 30_000) }},
	{name: "open with O_TRUNC", do: func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil })
	}},
	{name: "O_TRUNC and write", do: func(v *view) error {
		return withFile(v.path("f"), unix.O_WRONLY|unix.O_TRUNC, func(fd int) error { return pwrite(fd, "anew", 0) })
	}},
	{name: "chmod", do: func(v *view) error { return unix.Chmod(v.path("f"), 0o741) }},
	{name: "chown", do: func(v *view) error { return unix.Lchown(v.path("f"), 12, 34) }},
	{name: "utimes", do: func(v *view) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, v.path("f"), []unix.Timespec{{Sec: 1000}, {Sec: 2000, Nsec: 7}}, 0)
	}},
	{name: "setxattr", do: func(v *view) error { return unix.Lsetxattr(v.path("f"), "user.a", []byte("newer"), 0) }},
	{name: "new xattr", do: func(v *view) error { return unix.Lsetxattr(v.path("f"), "user.b", []byte("b"), 0) }},
	{name: "removexattr", do: func(v *view) error { return unix.Lremovexattr(v.path("f"), "user.a") }},
	{name: "rename", do: func(v *view) error { return os.Rename(v.path("f"), v.path("g")) }},
	{name: "rename over", do: func(v *view) error { return os.Rename(v.path("h"), v.path("f")) }},
	{name: "exchange", do: func(v *view) error {
		return unix.Renameat2(unix.AT_FDCWD, v.path("f"), unix.AT_FDCWD, v.path("h"), unix.RENAME_EXCHANGE)
	}},
	{name: "rename of a directory", do: func(v *view) error { return os.Rename(v.path("sub"), v.path("g")) }},
	{name: "rename into a directory", do: func(v *view) error { return os.Rename(v.path("f"), v.path("sub/f")) }},
	{name: "rename out of a directory", do: func(v *view) error { return os.Rename(v.path("sub/x"), v.path("g")) }},
	{name: "unlink", do: func(v *view) error { return unix.Unlink(v.path("f")) }},
	{name: "unlink in sub and rmdir", do: func(v *view) error {
		if err := unix.Unlink(v.path("sub/x")); err != nil {
			return err
		}
		return unix.Rmdir(v.path("sub"))
	}},
	{name: "create", do: func(v *view) error {
		return withFile(v.path("g"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, func(fd int) error { return pwrite(fd, "new", 0) })
	}},
	{name: "unlink and create", do: func(v *view) error {
		if err := unix.Unlink(v.path("f")); err != nil {
			return err
		}
		return withFile(v.path("f"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, func(fd int) error { return pwrite(fd, "other", 0) })
	}},
	{name: "mkdir", do: func(v *view) error { return unix.Mkdir(v.path("g"), 0o700) }},
	{name: "mkdir in sub", do: func(v *view) error { return unix.Mkdir(v.path("sub/g"), 0o700) }},
	{name: "mknod", do: func(v *view) error { return unix.Mknod(v.path("g"), unix.S_IFIFO|0o600, 0) }},
	{name: "link", do: func(v *view) error { return unix.Link(v.path("f"), v.path("g")) }},
	{name: "symlink", do: func(v *view) error { return unix.Symlink("f", v.path("g")) }},
	{name: "another symlink", do: func(v *view) error {
		if err := unix.Symlink("elsewhere", v.path("l2")); err != nil {
			return err
		}
		return os.Rename(v.path("l2"), v.path("l"))
	}},
	{name: "fallocate", do: func(v *view) error { return unix.Fallocate(v.fd, 0, 10_000, 30_000) }},
	{name: "punch", do: func(v *view) error {
		return unix.Fallocate(v.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 10, 5000)
	}},
	{name: "zero range", do: func(v *view) error { return unix.Fallocate(v.fd, unix.FALLOC_FL_ZERO_RANGE, 20, 100) }},
	{name: "mapped write and msync", do: func(v *view) error {
		v.mapping[5] ^= 0xff
		return unix.Msync(v.mapping, unix.MS_SYNC)
	}},
	{name: "mapped write", do: func(v *view) error { v.mapping[6] ^= 0xff; return nil }, local: true},
	{name: "copy_file_range", do: func(v *view) error {
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
	a, b view
	size int
	warm bool // A has it all cached, too
	ch   change
	ob   observation
}

// matrix is every change looked at in every way.
type matrix struct {
	dirs   []string // of which each case takes two
	thin   int      // which of dirs is a thin mount's, -1: none
	rounds int
	every  int // one in so many cases a round, others each round
	seen   map[string]bool
}

// matrixLimit is how long so many rounds of the matrix may take.
func matrixLimit(rounds int) time.Duration {
	return 3*time.Minute + time.Duration(rounds)*3*time.Minute
}

// matrixRounds is how many rounds the tests of the matrix do.
func matrixRounds() int { return rounds(2, 100) }

func testMatrix(t *testing.T, dirs []string) {
	m := &matrix{dirs: dirs[:2], thin: -1, rounds: matrixRounds(), every: 1}
	m.run(t)
	for _, ch := range allChanges() {
		if !m.seen[ch.name] && !t.Failed() {
			t.Errorf("nothing that was looked at differs after %s", ch.name)
		}
	}
}

// testThinMatrix has a thin mount, the second, change what an ordinary one sees, and the other way round.
func testThinMatrix(t *testing.T, dirs []string) {
	(&matrix{dirs: dirs, thin: 1, rounds: rounds(1, 100), every: rounds(8, 1)}).run(t)
}

func allChanges() []change { return append(changes[:len(changes):len(changes)], lockChanges...) }
func allObservations() []observation {
	return append(observations[:len(observations):len(observations)], lockObservations...)
}

// draw makes one case in its own directory on two of the mounts: which of them does what, how large the file is, whether B can write,
// and what A has cached before.
func (m *matrix) draw(r *rand.Rand, dir string, ch change, ob observation) *matrixCase {
	order := r.Perm(len(m.dirs))
	place := func(i int) view {
		return view{dir: filepath.Join(m.dirs[i], dir), thin: i == m.thin, locks: unix.F_WRLCK}
	}
	c := &matrixCase{a: place(order[0]), b: place(order[1]), size: []int{300, mappedBytes}[r.Intn(2)], warm: r.Intn(4) == 0, ch: ch, ob: ob}
	if r.Intn(2) == 0 {
		c.b.reads = true
		c.a.locks, c.b.locks = unix.F_RDLCK, unix.F_RDLCK // a descriptor that cannot write sets no other
	}
	return c
}

func (m *matrix) run(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := rand.New(rand.NewSource(drawnSeed(t)))
	m.seen = map[string]bool{}
	for round := range m.rounds {
		m.round(t, r, round)
		if t.Failed() && soak() == 0 && os.Getenv("DFS_COHERENCE_ALL") == "" {
			return
		}
	}
}

func (m *matrix) round(t *testing.T, r *rand.Rand, round int) {
	var cases []*matrixCase
	for i, ch := range allChanges() {
		for j, ob := range allObservations() {
			c := m.draw(r, fmt.Sprintf("%d-%d-%d", round, i, j), ch, ob)
			if (i+j+round)%m.every != 0 || ch.local && c.a.thin || ch.lock && !ob.lock && soak() == 0 {
				continue
			}
			cases = append(cases, c)
		}
	}
	for _, c := range inOrder(cases, func(c *matrixCase) string { return c.a.dir }) {
		makeCase(t, c.a.dir, c.size)
	}
	// B takes the locks of all directories; then they rest, because names of a directory that was shared a moment ago are not cached.
	for _, c := range cases {
		if _, err := os.ReadDir(c.b.dir); err != nil {
			t.Fatal(err)
		}
		_ = statText(c.b.path("sub/x"))
	}
	time.Sleep(2200 * time.Millisecond)
	for _, c := range cases {
		if c.run(t) {
			m.seen[c.ch.name] = true
		}
		if t.Failed() && soak() == 0 && os.Getenv("DFS_COHERENCE_ALL") == "" {
			return
		}
	}
	for _, c := range inOrder(cases, func(c *matrixCase) string { return c.b.dir }) {
		must(t, os.RemoveAll(c.b.dir))
	}
}

// inOrder has one mount after the other do what it does in the directory above all cases.
func inOrder(cases []*matrixCase, dir func(c *matrixCase) string) []*matrixCase {
	return slices.SortedFunc(slices.Values(cases), func(a, b *matrixCase) int { return strings.Compare(dir(a), dir(b)) })
}

// run does the change through A and reports whether B, who sees what A sees, sees a difference.
func (c *matrixCase) run(t *testing.T) bool {
	a, b := &c.a, &c.b
	a.open(t)
	defer a.close()
	b.open(t)
	defer b.close()
	if before := c.before(); before != nil {
		must(t, before(a))
	}
	if c.warm {
		lookAround(a)
	}
	lookAround(b)
	before := c.ob.look(b)
	if err := c.ch.do(a); err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	got := c.ob.look(b)
	if want := c.ob.look(a); got != want {
		again := c.ob.look(b)
		t.Errorf("%s:\nbefore %s\ngot    %s\nagain  %s\nwant   %s", c, before, got, again, want)
	}
	return got != before
}

// before is what A does before anybody looks: where locks are looked at and none is changed, there are some.
func (c *matrixCase) before() func(v *view) error {
	if c.ch.before == nil && c.ob.lock && !c.ch.lock {
		return holdLocks
	}
	return c.ch.before
}

func lookAround(v *view) {
	for _, o := range observations {
		o.look(v)
	}
}

func (c *matrixCase) String() string {
	return fmt.Sprintf("%s through A (thin: %v, has looked: %v), %s through B (thin: %v, only reads: %v), %d bytes",
		c.ch.name, c.a.thin, c.warm, c.ob.name, c.b.thin, c.b.reads, c.size)
}
