package fs

import (
	"crypto/sha256"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"dfs/fs/fsck"
	"dfs/internal/errors"
)

// A model of a POSIX file system in memory, and random operations on it and on a server.

type mnode struct {
	mode   uint32
	nlink  int
	data   []byte
	target string
	kids   map[string]*mnode
	parent *mnode
	xattr  map[string]string
}

func newMdir(parent *mnode) *mnode {
	n := &mnode{mode: syscall.S_IFDIR | 0o755, nlink: 2, kids: map[string]*mnode{}, parent: parent, xattr: map[string]string{}}
	if parent == nil {
		n.parent = n
	}
	return n
}

func (n *mnode) dir() bool { return n.kids != nil }

// dump is the text of a tree; hard links are told by the first path.
func (n *mnode) dump() string {
	var b strings.Builder
	seen := map[*mnode]string{}
	var walk func(path string, n *mnode)
	walk = func(path string, n *mnode) {
		if first, ok := seen[n]; ok {
			fmt.Fprintf(&b, "%s = %s\n", path, first)
			return
		}
		seen[n] = path
		line(&b, path, n.mode, n.nlink, len(n.data), n.data, n.target, n.xattr)
		for _, k := range sortedKeys(n.kids) {
			walk(path+"/"+k, n.kids[k])
		}
	}
	walk("", n)
	return b.String()
}

func line(b *strings.Builder, path string, mode uint32, nlink, size int, data []byte, target string, xattr map[string]string) {
	fmt.Fprintf(b, "%s %o n%d", path, mode, nlink)
	if mode&syscall.S_IFMT == syscall.S_IFREG {
		fmt.Fprintf(b, " s%d %x", size, sha256.Sum256(data))
	}
	if target != "" {
		fmt.Fprintf(b, " -> %s", target)
	}
	for _, k := range sortedKeys(xattr) {
		fmt.Fprintf(b, " %s=%x", k, sha256.Sum256([]byte(xattr[k])))
	}
	b.WriteByte('\n')
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// dump is the same text of a server's tree.
func (m *mount) dump() string {
	m.t.Helper()
	var b strings.Builder
	seen := map[Ino]string{}
	var walk func(path string, ino Ino)
	walk = func(path string, ino Ino) {
		if first, ok := seen[ino]; ok {
			fmt.Fprintf(&b, "%s = %s\n", path, first)
			return
		}
		seen[ino] = path
		a := m.attr(ino)
		var data []byte
		target := ""
		switch a.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			h, _, err := m.Open(ctx, root, ino, syscall.O_RDONLY)
			m.must(err)
			data = []byte(m.read(h, int(a.Size)+1, 0))
			m.must(m.Release(ctx, h))
		case syscall.S_IFLNK:
			var err error
			target, err = m.Readlink(ctx, root, ino)
			m.must(err)
		}
		xattr := map[string]string{}
		names, err := m.ListXattr(ctx, root, ino)
		m.must(err)
		for _, k := range names {
			v, err := m.GetXattr(ctx, root, ino, k)
			m.must(err)
			xattr[k] = string(v)
		}
		line(&b, path, a.Mode, int(a.Nlink), int(a.Size), data, target, xattr)
		if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			kids := m.names(ino)
			for _, k := range sortedKeys(kids) {
				walk(path+"/"+k, kids[k])
			}
		}
	}
	walk("", RootIno)
	return b.String()
}

// driver does the same random operations on both.
type driver struct {
	t    testing.TB
	r    *rand.Rand
	m    *mount
	root *mnode
	ino  map[*mnode]Ino
	dirs []*mnode
	log  []string
}

func newDriver(t testing.TB, m *mount, seed int64) *driver {
	root := newMdir(nil)
	return &driver{t: t, r: rand.New(rand.NewSource(seed)), m: m, root: root, ino: map[*mnode]Ino{root: RootIno}, dirs: []*mnode{root}}
}

func (d *driver) name() string {
	n := "n" + strconv.Itoa(d.r.Intn(12)) // few names: they collide on purpose
	if d.r.Intn(4) == 0 {
		n += strings.Repeat("x", 100+d.r.Intn(3)*50) // long ones: the directories outgrow their inodes
	}
	return n
}

// pick chooses a directory that is still linked.
func (d *driver) pick() *mnode {
	for {
		n := d.dirs[d.r.Intn(len(d.dirs))]
		if n.nlink > 0 {
			return n
		}
	}
}

func (d *driver) check(what string, err error, no syscall.Errno) {
	d.t.Helper()
	d.log = append(d.log, what)
	if got := errors.Errno(err); got != no {
		tail := d.log[max(0, len(d.log)-20):]
		d.t.Fatalf("%s: got %v (%v), want %v\n%s", what, got, err, no, strings.Join(tail, "\n"))
	}
}

func (d *driver) step() {
	dir, name := d.pick(), d.name()
	kid := dir.kids[name]
	switch d.r.Intn(14) {
	case 0, 1:
		d.create(dir, name, kid)
	case 2:
		d.mkdir(dir, name, kid)
	case 3:
		d.unlink(dir, name, kid)
	case 4:
		d.rmdir(dir, name, kid)
	case 5, 6:
		d.rename(dir, name, kid)
	case 7:
		d.link(dir, name, kid)
	case 8:
		d.symlink(dir, name, kid)
	case 9:
		d.xattr(dir, name, kid)
	case 10, 11:
		d.write(dir, name, kid)
	case 12:
		d.truncate(dir, name, kid)
	case 13:
		d.allocate(dir, name, kid)
	}
}

func (d *driver) create(dir *mnode, name string, kid *mnode) {
	e, h, _, err := d.m.Create(ctx, root, d.ino[dir], name, 0o644, syscall.O_RDWR|syscall.O_EXCL)
	if kid != nil {
		d.check("create "+name, err, syscall.EEXIST)
		return
	}
	d.check("create "+name, err, 0)
	d.m.must(d.m.Release(ctx, h))
	n := &mnode{mode: syscall.S_IFREG | 0o644, nlink: 1, xattr: map[string]string{}}
	dir.kids[name], d.ino[n] = n, e.Attr.Ino
}

func (d *driver) mkdir(dir *mnode, name string, kid *mnode) {
	e, err := d.m.Mkdir(ctx, root, d.ino[dir], name, 0o755)
	if kid != nil {
		d.check("mkdir "+name, err, syscall.EEXIST)
		return
	}
	d.check("mkdir "+name, err, 0)
	n := newMdir(dir)
	dir.kids[name], d.ino[n] = n, e.Attr.Ino
	dir.nlink++
	d.dirs = append(d.dirs, n)
}

func (d *driver) unlink(dir *mnode, name string, kid *mnode) {
	err := d.m.Unlink(ctx, root, d.ino[dir], name)
	switch {
	case kid == nil:
		d.check("unlink "+name, err, syscall.ENOENT)
	case kid.dir():
		d.check("unlink "+name, err, syscall.EISDIR)
	default:
		d.check("unlink "+name, err, 0)
		delete(dir.kids, name)
		kid.nlink--
	}
}

func (d *driver) rmdir(dir *mnode, name string, kid *mnode) {
	err := d.m.Rmdir(ctx, root, d.ino[dir], name)
	switch {
	case kid == nil:
		d.check("rmdir "+name, err, syscall.ENOENT)
	case !kid.dir():
		d.check("rmdir "+name, err, syscall.ENOTDIR)
	case len(kid.kids) > 0:
		d.check("rmdir "+name, err, syscall.ENOTEMPTY)
	default:
		d.check("rmdir "+name, err, 0)
		d.gone(dir, name)
	}
}

func (d *driver) gone(dir *mnode, name string) {
	kid := dir.kids[name]
	delete(dir.kids, name)
	if kid.dir() {
		dir.nlink--
		kid.nlink = 0
	} else {
		kid.nlink--
	}
}

func below(n, top *mnode) bool {
	for ; ; n = n.parent {
		if n == top {
			return true
		}
		if n.parent == n {
			return false
		}
	}
}

func (d *driver) rename(dir *mnode, name string, kid *mnode) {
	nd, nn := d.pick(), d.name()
	victim := nd.kids[nn]
	flags := [...]uint32{0, 0, 0, renameNoReplace, renameExchange}[d.r.Intn(5)]
	err := d.m.Rename(ctx, root, d.ino[dir], name, d.ino[nd], nn, flags)
	what := fmt.Sprintf("rename %d/%s %d/%s %d", d.ino[dir], name, d.ino[nd], nn, flags)
	switch {
	case kid == nil:
		d.check(what, err, syscall.ENOENT)
	case kid.dir() && dir != nd && below(nd, kid):
		d.check(what, err, syscall.EINVAL)
	case kid == nd:
		d.check(what, err, syscall.EINVAL)
	case flags == renameExchange && victim == nil:
		d.check(what, err, syscall.ENOENT)
	case flags == renameExchange && victim.dir() && below(dir, victim):
		d.check(what, err, syscall.EINVAL)
	case flags == renameNoReplace && victim != nil && victim != dir:
		d.check(what, err, syscall.EEXIST)
	case flags == renameNoReplace && victim != nil:
		if err == nil {
			d.check(what, err, syscall.EEXIST)
		}
	case victim == kid:
		d.check(what, err, 0)
	case flags == renameExchange:
		d.check(what, err, 0)
		dir.kids[name], nd.kids[nn] = victim, kid
		d.moved(kid, dir, nd)
		d.moved(victim, nd, dir)
	case victim == nil:
		d.check(what, err, 0)
		delete(dir.kids, name)
		nd.kids[nn] = kid
		d.moved(kid, dir, nd)
	case victim == dir:
		d.check(what, err, syscall.ENOTEMPTY)
	case kid.dir() && !victim.dir():
		d.check(what, err, syscall.ENOTDIR)
	case !kid.dir() && victim.dir():
		d.check(what, err, syscall.EISDIR)
	case victim.dir() && len(victim.kids) > 0:
		d.check(what, err, syscall.ENOTEMPTY)
	default:
		d.check(what, err, 0)
		d.gone(nd, nn)
		delete(dir.kids, name)
		nd.kids[nn] = kid
		d.moved(kid, dir, nd)
	}
}

func (d *driver) moved(n, from, to *mnode) {
	if n.dir() && from != to {
		from.nlink--
		to.nlink++
		n.parent = to
	}
}

func (d *driver) link(dir *mnode, name string, kid *mnode) {
	sd, sn := d.pick(), d.name()
	src := sd.kids[sn]
	if src == nil {
		return
	}
	_, err := d.m.Link(ctx, root, d.ino[src], d.ino[dir], name)
	switch {
	case src.dir():
		d.check("link "+name, err, syscall.EPERM)
	case kid != nil:
		d.check("link "+name, err, syscall.EEXIST)
	default:
		d.check("link "+name, err, 0)
		dir.kids[name] = src
		src.nlink++
	}
}

func (d *driver) symlink(dir *mnode, name string, kid *mnode) {
	target := strings.Repeat("t", 1+d.r.Intn(4000))
	e, err := d.m.Symlink(ctx, root, d.ino[dir], name, target)
	if kid != nil {
		d.check("symlink "+name, err, syscall.EEXIST)
		return
	}
	d.check("symlink "+name, err, 0)
	n := &mnode{mode: syscall.S_IFLNK | 0o777, nlink: 1, target: target, xattr: map[string]string{}}
	dir.kids[name], d.ino[n] = n, e.Attr.Ino
}

func (d *driver) xattr(_ *mnode, name string, kid *mnode) {
	if kid == nil || kid.target != "" {
		return
	}
	key := "user.k" + strconv.Itoa(d.r.Intn(3))
	if d.r.Intn(3) == 0 {
		err := d.m.RemoveXattr(ctx, root, d.ino[kid], key)
		if _, ok := kid.xattr[key]; !ok {
			d.check("removexattr "+name, err, syscall.ENODATA)
			return
		}
		d.check("removexattr "+name, err, 0)
		delete(kid.xattr, key)
		return
	}
	value := strings.Repeat(string(rune('a'+d.r.Intn(26))), [...]int{0, 10, 800, 3000, 9000}[d.r.Intn(5)])
	d.check("setxattr "+name, d.m.SetXattr(ctx, root, d.ino[kid], key, []byte(value), 0), 0)
	kid.xattr[key] = value
}

func (d *driver) open(kid *mnode) Handle {
	h, _, err := d.m.Open(ctx, root, d.ino[kid], syscall.O_RDWR)
	d.m.must(err)
	return h
}

func (d *driver) offset() int {
	return [...]int{d.r.Intn(200), d.r.Intn(5000), d.r.Intn(40000), 4096 * d.r.Intn(12)}[d.r.Intn(4)]
}

func (d *driver) write(_ *mnode, name string, kid *mnode) {
	if kid == nil || kid.mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	h := d.open(kid)
	off, size := d.offset(), [...]int{1 + d.r.Intn(100), 1 + d.r.Intn(9000), 4096}[d.r.Intn(3)]
	data := make([]byte, size)
	d.r.Read(data)
	_, err := d.m.Write(ctx, h, data, uint64(off), false)
	d.check(fmt.Sprintf("write %s %d+%d", name, off, size), err, 0)
	kid.grow(off + size)
	copy(kid.data[off:], data)
	d.m.must(d.m.Release(ctx, h))
}

func (n *mnode) grow(size int) {
	if size > len(n.data) {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
}

func (d *driver) truncate(_ *mnode, name string, kid *mnode) {
	if kid == nil || kid.mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	size := d.offset()
	if d.r.Intn(4) == 0 {
		size = 0
	}
	u := uint64(size)
	_, err := d.m.SetAttr(ctx, root, d.ino[kid], 0, SetAttr{Size: &u})
	d.check(fmt.Sprintf("truncate %s %d", name, size), err, 0)
	kid.grow(size)
	kid.data = slices.Clone(kid.data[:size])
}

func (d *driver) allocate(_ *mnode, name string, kid *mnode) {
	if kid == nil || kid.mode&syscall.S_IFMT != syscall.S_IFREG {
		return
	}
	h := d.open(kid)
	off, size := d.offset(), 1+d.r.Intn(20000)
	mode := [...]uint32{0, fallocKeepSize, fallocPunchHole | fallocKeepSize, fallocZeroRange, fallocZeroRange | fallocKeepSize}[d.r.Intn(5)]
	d.check(fmt.Sprintf("fallocate %s %d+%d %#x", name, off, size, mode), d.m.Allocate(ctx, h, uint64(off), uint64(size), mode), 0)
	if mode&fallocKeepSize == 0 {
		kid.grow(off + size)
	}
	if mode&(fallocPunchHole|fallocZeroRange) != 0 && off < len(kid.data) {
		clear(kid.data[off:min(len(kid.data), off+size)])
	}
	d.m.must(d.m.Release(ctx, h))
}

func (d *driver) compare() {
	d.t.Helper()
	if got, want := d.m.dump(), d.root.dump(); got != want {
		d.t.Fatalf("after %d operations the trees differ\n%s\nlast: %s", len(d.log), diffLines(got, want), strings.Join(d.log[max(0, len(d.log)-25):], "\n"))
	}
}

func diffLines(got, want string) string {
	w := map[string]bool{}
	for _, l := range strings.Split(want, "\n") {
		w[l] = true
	}
	var b strings.Builder
	for _, l := range strings.Split(got, "\n") {
		if !w[l] {
			b.WriteString("got  " + l + "\n")
		}
		delete(w, l)
	}
	for l := range w {
		b.WriteString("want " + l + "\n")
	}
	return b.String()
}

// fsckImage runs the checker on the device.
func (w *world) fsck() {
	w.t.Helper()
	_, _, used := w.disk.Counts()
	count := uint64(used)
	rep, err := fsck.Check(ctx, w.disk.Checked(), fsck.Options{UsedBlocks: &count})
	if err != nil {
		w.t.Fatal(err)
	}
	if !rep.Clean() {
		var b strings.Builder
		_, _ = rep.WriteTo(&b)
		w.t.Errorf("fsck: %s", b.String())
	}
}

func testSeed(t *testing.T) int64 {
	seed := int64(1)
	if s := os.Getenv("FS_SEED"); s != "" {
		seed, _ = strconv.ParseInt(s, 10, 64)
	}
	t.Logf("FS_SEED=%d", seed)
	return seed
}

// TestModel compares a server with the model, with a roomy and with the least cache.
func TestModel(t *testing.T) {
	seed := testSeed(t)
	for _, blocks := range []int{4096, 1} {
		t.Run(fmt.Sprintf("cache-%d", blocks), func(t *testing.T) {
			w := newWorld(t, 1<<20)
			w.disk.Lag()
			m := w.mount(Options{CacheBlocks: blocks, CacheInodes: 1 + blocks/64, ReserveBatch: 64, InodeBatch: 16})
			d := newDriver(t, m, seed)
			for i := range 3000 {
				d.step()
				if i%500 == 499 {
					d.compare()
					m.Server.cur.Load().cache.checkInvariants()
				}
			}
			m.close()
			w.fsck()
			d.m = w.mount(Options{})
			d.compare()
		})
	}
}

// TestCrashPrefix cuts the records at random places: what is left is a state that the mount went through, not
// older than what was made durable.
func TestCrashPrefix(t *testing.T) {
	seed := testSeed(t)
	for round := range int64(12) {
		w := newWorld(t, 1<<20)
		w.walTarget = 2048
		m := w.mount(Options{CacheBlocks: 64, CacheInodes: 8})
		d := newDriver(t, m, seed*1000+round)
		for range 100 {
			d.step()
		}
		m.must(m.SyncAll(ctx))
		history := []string{d.root.dump()}
		w.disk.CutAfter(d.r.Intn(60))
		for range 120 {
			d.step()
			history = append(history, d.root.dump())
		}
		m.clerk.End(errors.Of(errors.KindSessionEnded))
		w.disk.Crash()
		after := w.mount(Options{})
		got := after.dump()
		at := -1
		for i, h := range history {
			if h == got {
				at = i
			}
		}
		if at < 0 {
			t.Fatalf("round %d (FS_SEED=%d): the tree after the crash is none that was there before\n%s", round, seed, diffLines(got, history[0]))
		}
		after.must(after.Server.cur.Load().sweepOnce(ctx))
		after.close()
		w.fsck()
	}
}
