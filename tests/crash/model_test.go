package crash

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
)

// model is a file system as the operations of the workload leave it.
type model struct {
	root *inode
}

// inode is a file, a directory or a symlink of the model.
type inode struct {
	mode     uint32
	nlink    int
	data     []byte
	target   string            // of a symlink
	children map[string]*inode // of a directory
	touched  int               // number of the last operation that changed it or its names

	sum string // of data; "" if not known
}

func newModel() *model {
	return &model{root: &inode{mode: 0o755, nlink: 2, children: map[string]*inode{}}}
}

// clone copies the model; hard links stay so. Nothing of the copy is touched yet.
func (m *model) clone() *model {
	seen := map[*inode]*inode{}
	var copyOf func(n *inode) *inode
	copyOf = func(n *inode) *inode {
		if c := seen[n]; c != nil {
			return c
		}
		c := *n
		seen[n], c.touched = &c, 0
		c.data = slices.Clone(n.data)
		if n.children != nil {
			c.children = map[string]*inode{}
			for name, child := range n.children {
				c.children[name] = copyOf(child)
			}
		}
		return &c
	}
	return &model{root: copyOf(m.root)}
}

// at finds the inode of a path; "" is the root.
func (m *model) at(p string) *inode {
	n := m.root
	if p == "" {
		return n
	}
	for _, name := range strings.Split(p, "/") {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return n
}

// dirOf finds the directory that holds a path, and its last name.
func (m *model) dirOf(p string) (*inode, string) {
	dir, name := path.Split(p)
	return m.at(strings.TrimSuffix(dir, "/")), name
}

// state describes every path: type, mode, links, size and a hash of the content.
func (m *model) state() map[string]string {
	all := map[string]string{}
	var walk func(p string, n *inode)
	walk = func(p string, n *inode) {
		all[p] = n.describe()
		for name, c := range n.children {
			walk(path.Join(p, name), c)
		}
	}
	walk("", m.root)
	return all
}

func (n *inode) describe() string {
	switch {
	case n.children != nil:
		return describe("dir", n.mode, n.nlink, 0, "")
	case n.target != "":
		return describe("symlink", 0, n.nlink, int64(len(n.target)), n.target)
	}
	if n.sum == "" {
		n.sum = fmt.Sprintf("%x", sha256.Sum256(n.data))
	}
	return describe("file", n.mode, n.nlink, int64(len(n.data)), n.sum)
}

// describe is the form in which the model and the mount are compared.
func describe(kind string, mode uint32, nlink int, size int64, content string) string {
	return fmt.Sprintf("%s mode=%o links=%d size=%d %s", kind, mode, nlink, size, content)
}

// op is one operation of the workload: one system call that changes something, or a sync.
type op struct {
	kind string // create write append truncate punch chmod rename unlink mkdir rmdir link symlink; sync
	a, b string // paths below the workload's directory
	off  int64
	size int64
	seed uint64 // of the bytes written
	mode uint32
	sync bool // of a write: with O_SYNC
}

func (o op) String() string {
	return fmt.Sprintf("%s %q %q off=%d size=%d seed=%d mode=%o sync=%t", o.kind, o.a, o.b, o.off, o.size, o.seed, o.mode, o.sync)
}

// bytes are the bytes that a write writes.
func (o op) bytes() []byte {
	b := make([]byte, o.size)
	src := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%d", o.seed)))
	_, _ = src.Read(b)
	return b
}

// long tells whether a crash may leave a part of the operation.
func (o op) long() bool { return (o.kind == "write" || o.kind == "append") && o.size > 128<<10 }

// apply changes the model; nth is the operation's number.
func (m *model) apply(o op, nth int) {
	touch := func(list ...*inode) {
		for _, n := range list {
			if n != nil {
				n.touched = nth
			}
		}
	}
	n := m.at(o.a)
	dir, name := m.dirOf(o.a)
	switch o.kind {
	case "create":
		dir.children[name] = &inode{mode: o.mode, nlink: 1}
	case "mkdir":
		dir.children[name] = &inode{mode: o.mode, nlink: 2, children: map[string]*inode{}}
		dir.nlink++
	case "symlink":
		dir.children[name] = &inode{nlink: 1, target: o.b}
	case "write":
		n.put(o.off, o.bytes())
	case "append":
		n.put(int64(len(n.data)), o.bytes())
	case "truncate":
		n.resize(o.size)
	case "punch":
		clear(n.data[o.off:min(o.off+o.size, int64(len(n.data)))])
		n.sum = ""
	case "chmod":
		n.mode = o.mode
	case "unlink":
		delete(dir.children, name)
		n.nlink--
	case "rmdir":
		delete(dir.children, name)
		dir.nlink--
	case "link":
		to, toName := m.dirOf(o.b)
		to.children[toName] = n
		n.nlink++
		touch(to)
	case "rename":
		m.rename(dir, name, o.b, touch)
	}
	touch(n, dir.children[name])
	switch o.kind {
	case "create", "mkdir", "symlink", "unlink", "rmdir", "rename":
		touch(dir)
	}
}

func (m *model) rename(dir *inode, name, target string, touch func(...*inode)) {
	n := dir.children[name]
	to, toName := m.dirOf(target)
	if old := to.children[toName]; old != nil {
		touch(old)
		old.nlink--
		if old.children != nil {
			to.nlink--
		}
	}
	delete(dir.children, name)
	to.children[toName] = n
	if n.children != nil && dir != to {
		dir.nlink--
		to.nlink++
	}
	touch(to)
}

func (n *inode) resize(size int64) {
	n.sum = ""
	if size <= int64(len(n.data)) {
		n.data = n.data[:size:size]
		return
	}
	n.data = append(n.data, make([]byte, size-int64(len(n.data)))...)
}

func (n *inode) put(off int64, b []byte) {
	n.sum = ""
	if end := off + int64(len(b)); end > int64(len(n.data)) {
		n.resize(end)
	}
	copy(n.data[off:], b)
}

// paths lists what the model holds, sorted: files, directories (the root is none), all.
func (m *model) paths() (files, dirs, all []string) {
	for p := range m.state() {
		if p == "" {
			continue
		}
		n := m.at(p)
		all = append(all, p)
		switch {
		case n.children != nil:
			dirs = append(dirs, p)
		case n.target == "":
			files = append(files, p)
		}
	}
	slices.Sort(files)
	slices.Sort(dirs)
	slices.Sort(all)
	return files, dirs, all
}

// generate makes an operation that must succeed on m.
func (m *model) generate(r *rand.Rand, syncEvery int) op {
	files, dirs, all := m.paths()
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	fresh := func() string {
		dir := ""
		if len(dirs) > 0 && r.IntN(3) > 0 {
			dir = pick(dirs)
		}
		return path.Join(dir, fmt.Sprintf("%c%d", 'a'+rune(r.IntN(26)), r.IntN(1000)))
	}
	for {
		o := op{seed: r.Uint64(), mode: 0o600 | uint32(r.IntN(0o100))}
		if syncEvery > 0 && r.IntN(syncEvery) == 0 {
			o.kind = "sync"
			if r.IntN(3) > 0 && len(all) > 0 {
				if o.a = pick(all); m.at(o.a).target != "" {
					continue
				}
			}
			return o
		}
		switch k := r.IntN(100); {
		case k < 22:
			o.kind, o.a = "create", fresh()
		case k < 26:
			o.kind, o.a = "mkdir", fresh()
		case k < 29:
			o.kind, o.a, o.b = "symlink", fresh(), fresh()
		case len(files) == 0:
			continue
		case k < 50:
			o.kind, o.a, o.sync = "write", pick(files), syncEvery > 0 && r.IntN(2*syncEvery) == 0
			if o.size = 1 + r.Int64N(20<<10); r.IntN(40) == 0 {
				o.size = 200<<10 + r.Int64N(3<<20)
			}
			o.off = r.Int64N(int64(len(m.at(o.a).data)) + 9000)
		case k < 58:
			o.kind, o.a, o.size = "append", pick(files), 1+r.Int64N(10<<10)
		case k < 64:
			o.kind, o.a = "truncate", pick(files)
			o.size = r.Int64N(int64(len(m.at(o.a).data)) + 9000)
		case k < 67:
			o.kind, o.a, o.off, o.size = "punch", pick(files), r.Int64N(60<<10), 1+r.Int64N(60<<10)
		case k < 70:
			o.kind, o.a = "chmod", pick(files)
		case k < 72:
			o.kind, o.a, o.b = "link", pick(files), fresh()
		case k < 86:
			o.kind, o.a, o.b = "rename", pick(all), fresh()
			if r.IntN(3) == 0 {
				o.b = pick(all)
			}
		case k < 98:
			o.kind, o.a = "unlink", pick(all)
		default:
			o.kind, o.a = "rmdir", pick(all)
		}
		if m.allowed(o) {
			return o
		}
	}
}

// allowed tells whether o succeeds on m, and changes something.
func (m *model) allowed(o op) bool {
	n := m.at(o.a)
	dir, _ := m.dirOf(o.a)
	switch o.kind {
	case "create", "mkdir", "symlink":
		return dir != nil && n == nil && len(m.state()) < 80
	case "unlink":
		return n.children == nil
	case "rmdir":
		return n.children != nil && len(n.children) == 0
	case "write", "append":
		return len(n.data) < 8<<20
	case "truncate":
		return o.size != int64(len(n.data))
	case "punch":
		return o.off < int64(len(n.data))
	case "link":
		return m.at(o.b) == nil && n != nil
	case "rename":
		old := m.at(o.b)
		if n == old || strings.HasPrefix(o.b+"/", o.a+"/") || strings.HasPrefix(o.a+"/", o.b+"/") {
			return false
		}
		return old == nil || (old.children != nil) == (n.children != nil) && len(old.children) == 0
	}
	return true
}

// differences lists where two states differ, at most max lines.
func differences(want, got map[string]string, max int) []string {
	var list []string
	keys := maps.Clone(want)
	maps.Copy(keys, got)
	for _, p := range slices.Sorted(maps.Keys(keys)) {
		if want[p] != got[p] {
			list = append(list, fmt.Sprintf("%q: want %q, found %q", p, want[p], got[p]))
		}
	}
	if len(list) > max {
		list = append(list[:max], fmt.Sprintf("and %d more", len(list)-max))
	}
	return list
}
