package fsck

import (
	"maps"
	"slices"
	"strings"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// vdiskBlocks reads a directory's blocks, with read-ahead of its buckets.
type vdiskBlocks struct {
	c     *checker
	in    *layout.Inode
	first uint64 // what data holds
	data  []byte
}

const readAhead = 64 // blocks

func (v *vdiskBlocks) Get(block uint64) ([]byte, error) {
	count := uint64(1)
	if block < v.in.Dir.Buckets {
		count = min(readAhead, v.in.Dir.Buckets-block)
	}
	if n := uint64(len(v.data)) / layout.BlockSize; block < v.first || block >= v.first+n {
		data, _, err := v.c.r.Read(v.c.ctx, wal.Span{VDisk: v.in.Ino, Block: block, Count: count})
		if err != nil && count > 1 && errors.Is(err, errors.KindCorrupt) { // only one of them may be bad
			data, _, err = v.c.r.Read(v.c.ctx, wal.Span{VDisk: v.in.Ino, Block: block, Count: 1})
		}
		if err != nil {
			return nil, err
		}
		if block >= v.in.Dir.Buckets {
			return data, nil // an overflow block: keep what was read ahead
		}
		v.first, v.data = block, data
	}
	off := (block - v.first) * layout.BlockSize
	return v.data[off : off+layout.BlockSize], nil
}

// Put and Free are never called: a check changes nothing.
func (v *vdiskBlocks) Put(uint64, []byte) {}
func (v *vdiskBlocks) Free(uint64)        {}

// openDir reads the inode of a directory again.
func (c *checker) openDir(ino uint64) (*layout.Dir, error) {
	a := layout.InodeAddr(ino)
	data, _, err := c.r.Read(c.ctx, wal.Span{VDisk: a.VDisk, Block: a.Block, Count: 1})
	if err != nil {
		return nil, err
	}
	in, err := layout.DecodeInode(ino, data)
	if err != nil {
		return nil, err
	}
	return layout.OpenDir(in, &vdiskBlocks{c: c, in: in}), nil
}

// directories walks every directory and counts references.
func (c *checker) directories() error {
	done := uint64(0)
	for i := range c.nodes {
		n := &c.nodes[i]
		if !n.dir() || n.flags&layout.FlagTruncating != 0 { // the latter is being freed
			continue
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
		d, err := c.openDir(n.ino)
		if err != nil {
			return err
		}
		report := func(text string) { c.problem(BadDir, n.ino, "%s", text) }
		if err := d.Check(report, func(e layout.Entry) { c.entry(n, e) }); err != nil {
			return err
		}
		if n.nlink == 0 && !d.Empty() {
			c.problem(NotEmpty, n.ino, "the directory is unlinked and holds %d names", d.Len())
		}
		done++
		c.progress("directories", done)
	}
	return nil
}

// entry takes note of one name in directory dir.
func (c *checker) entry(dir *node, e layout.Entry) {
	n := c.node(e.Ino)
	if n == nil {
		c.problem(Dangling, dir.ino, "its name %q leads to inode %d, which is free", e.Name, e.Ino)
		return
	}
	n.refs++
	if n.from == 0 {
		n.from = dir.ino
	}
	if n.state&damaged != 0 {
		return
	}
	if e.Type != n.typ() {
		c.problem(BadType, dir.ino, "its name %q says type %#o, inode %d is of type %#o", e.Name, e.Type, e.Ino, n.typ())
	}
	if !n.dir() {
		return
	}
	dir.subdirs++
	if n.refs > 1 || n.ino == layout.RootIno {
		c.problem(DirTwice, n.ino, "name %q in directory %d leads to it, too", e.Name, dir.ino)
		return
	}
	if n.parent != dir.ino {
		c.problem(BadParent, n.ino, "it is in directory %d as %q, but its \"..\" leads to %d", dir.ino, e.Name, n.parent)
	}
}

// links compares link counts with names, and orphans with their lists.
func (c *checker) links() error {
	for i := range c.nodes {
		n := &c.nodes[i]
		if n.state&damaged != 0 {
			continue
		}
		o := c.orphans[n.ino]
		switch {
		case n.nlink == 0 && !o.unlinked:
			c.problem(OrphanMismatch, n.ino, "its link count is 0, but no orphan list has it")
		case n.nlink != 0 && o.unlinked:
			c.problem(OrphanMismatch, n.ino, "an orphan list has it, but its link count is %d", n.nlink)
		case n.nlink == 0:
			c.rep.Orphans++
		}
		if marked := n.flags&layout.FlagOrphan != 0; marked != (n.nlink == 0) {
			c.problem(OrphanMismatch, n.ino, "its link count is %d, its orphan mark %v", n.nlink, marked)
		}
		truncating := n.flags&layout.FlagTruncating != 0
		if truncating && !o.truncating && !o.unlinked || !truncating && o.truncating {
			c.problem(OrphanMismatch, n.ino, "marked as being truncated: %v; so listed: %v", truncating, o.truncating)
		}
		c.linkCount(n)
	}
	return nil
}

// linkCount compares the link count of an inode with the names that lead to it.
func (c *checker) linkCount(n *node) {
	root := n.ino == layout.RootIno
	if root && n.parent != layout.RootIno {
		c.problem(BadParent, n.ino, "the root's \"..\" leads to %d", n.parent)
	}
	if n.refs == 0 && n.nlink > 0 && !root {
		c.problem(Unreferenced, n.ino, "its link count is %d, but no name leads to it", n.nlink)
		return
	}
	want := n.refs
	if n.dir() && (root || n.refs > 0) {
		want = 2 + n.subdirs
	}
	if n.nlink != want {
		c.problem(LinkCount, n.ino, "its link count is %d, it should be %d", n.nlink, want)
	}
}

// reachable finds directories that have a name but no way to the root.
func (c *checker) reachable() error {
	root := c.node(layout.RootIno)
	if root == nil || root.state&damaged == 0 && !root.dir() {
		c.problem(BadInode, layout.RootIno, "the root directory is missing")
	}
	if root != nil {
		root.state |= linked
	}
	for i := range c.nodes {
		if n := &c.nodes[i]; n.dir() {
			c.climb(n)
		}
	}
	return nil
}

// climb follows names upwards from n until it meets a directory already decided
// on, or the end of the way, and marks the whole way.
func (c *checker) climb(n *node) {
	var way []*node
	mark := cutOff
	for at := n; ; {
		if at == nil || at.state&visiting != 0 {
			break // no name, or a loop
		}
		if at.state&(linked|cutOff) != 0 {
			mark = at.state & (linked | cutOff)
			break
		}
		at.state |= visiting
		way = append(way, at)
		at = c.node(at.from)
	}
	for _, w := range way {
		w.state = w.state&^visiting | mark
		if mark == cutOff && w.refs > 0 {
			c.problem(Unreachable, w.ino, "the directory is named in directory %d, but not under the root", w.from)
		}
	}
}

// paths fills in the paths of the problems' inodes. It reads every directory on
// their ways once.
func (c *checker) paths() error {
	names, dirs := map[uint64]string{}, map[uint64]bool{}
	for _, p := range c.rep.Problems {
		for n := c.node(p.Ino); n != nil && n.from != 0 && n.ino != layout.RootIno; n = c.node(n.from) {
			if _, ok := names[n.ino]; ok {
				break
			}
			names[n.ino] = "?"
			dirs[n.from] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		d, err := c.openDir(dir)
		if err != nil {
			return err
		}
		err = d.Check(func(string) {}, func(e layout.Entry) {
			if old, ok := names[e.Ino]; ok && old == "?" && c.node(e.Ino).from == dir {
				names[e.Ino] = e.Name
			}
		})
		if err != nil {
			return err
		}
	}
	for i := range c.rep.Problems {
		p := &c.rep.Problems[i]
		p.Path = c.path(p.Ino, names)
	}
	return nil
}

// path is the path of an inode, made of the names on its way to the root; "" if it has no way there.
func (c *checker) path(ino uint64, names map[uint64]string) string {
	var way []string
	for at := ino; at != layout.RootIno; at = c.node(at).from {
		name, ok := names[at]
		if !ok || len(way) > len(names) {
			return ""
		}
		way = append(way, name)
	}
	slices.Reverse(way)
	return "/" + strings.Join(way, "/")
}
