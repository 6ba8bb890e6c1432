package enumerate

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"dfs/fs"
)

// state is what a file system shows: a line for each path, with all but the access time, and the content of files.
type state struct {
	lines map[string]string
	data  map[string][]byte
}

// look walks the tree.
func (c *client) look() (*state, error) {
	s := &state{lines: map[string]string{}, data: map[string][]byte{}}
	return s, s.walk(c, "/", fs.RootIno)
}

func (s *state) walk(c *client, p string, ino fs.Ino) error {
	e, err := c.GetAttr(c.ctx, root, ino)
	if err != nil {
		return fmt.Errorf("attributes of %s: %w", p, err)
	}
	a := e.Attr
	line := fmt.Sprintf("inode %d mode %o links %d uid %d gid %d size %d blocks %d mtime %d ctime %d btime %d", a.Ino, a.Mode, a.Nlink, a.UID, a.GID, a.Size, a.Blocks,
		a.Mtime.UnixNano(), a.Ctime.UnixNano(), a.Btime.UnixNano())
	switch a.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		data, err := c.content(p, a.Size)
		if err != nil {
			return fmt.Errorf("content of %s: %w", p, err)
		}
		s.data[p] = data
		line += fmt.Sprintf(" sha256 %x", sha256.Sum256(data))
	case syscall.S_IFLNK:
		target, err := c.Readlink(c.ctx, root, ino)
		if err != nil {
			return fmt.Errorf("target of %s: %w", p, err)
		}
		line += " to " + target
	}
	names, err := c.ListXattr(c.ctx, root, ino)
	if err != nil {
		return fmt.Errorf("xattrs of %s: %w", p, err)
	}
	for _, n := range slices.Sorted(slices.Values(names)) {
		v, err := c.GetXattr(c.ctx, root, ino, n)
		if err != nil {
			return fmt.Errorf("xattr %s of %s: %w", n, p, err)
		}
		line += fmt.Sprintf(" %s=%x", n, sha256.Sum256(v))
	}
	s.lines[p] = line
	if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		return nil
	}
	kids, err := c.list(ino)
	if err != nil {
		return fmt.Errorf("listing %s: %w", p, err)
	}
	for _, name := range slices.Sorted(maps.Keys(kids)) {
		if err := s.walk(c, path.Join(p, name), kids[name]); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) content(p string, size uint64) (data []byte, err error) {
	err = c.with(p, syscall.O_RDONLY, func(h fs.Handle) error {
		data = make([]byte, size+1)
		n, err := c.Read(c.ctx, h, data, 0)
		if err == nil && uint64(n) != size {
			err = fmt.Errorf("%d bytes can be read of %d", n, size)
		}
		data = data[:n]
		return err
	})
	return data, err
}

func (c *client) list(ino fs.Ino) (map[string]fs.Ino, error) {
	h, err := c.OpenDir(c.ctx, root, ino)
	if err != nil {
		return nil, err
	}
	names := map[string]fs.Ino{}
	err = c.ReadDir(c.ctx, h, 0, false, func(e fs.DirEntry) bool {
		if e.Name != "." && e.Name != ".." {
			names[e.Name] = e.Ino
		}
		return true
	})
	if rerr := c.ReleaseDir(c.ctx, h); err == nil {
		err = rerr
	}
	return names, err
}

// differences lists where two states differ.
func (s *state) differences(t *state) []string {
	var list []string
	keys := maps.Clone(s.lines)
	maps.Copy(keys, t.lines)
	for _, p := range slices.Sorted(maps.Keys(keys)) {
		if s.lines[p] != t.lines[p] {
			list = append(list, fmt.Sprintf("%s: want %q\n\tfound %q", p, s.lines[p], t.lines[p]))
		}
	}
	return list
}

// partOf tells whether got lies between s and next, of which a long operation on file p has been done in part: nothing else
// differs from s, and the content is a prefix of what was written over what there was.
func (s *state) partOf(next, got *state, p string) bool {
	p = "/" + p
	inode, _, _ := strings.Cut(got.lines[p], " mode ")
	if inode == "" {
		return false
	}
	// Its other names show the same inode.
	others, before := maps.Clone(got.lines), maps.Clone(s.lines)
	own := func(q, line string) bool { return q == p || strings.HasPrefix(line, inode+" ") }
	maps.DeleteFunc(others, own)
	maps.DeleteFunc(before, own)
	if s.lines[p] == "" { // it makes the file first, and that changes its directory
		delete(before, path.Dir(p))
		delete(others, path.Dir(p))
	}
	if !maps.Equal(others, before) {
		return false
	}
	now, from, to := got.data[p], s.data[p], next.data[p]
	if len(now) < len(from) || len(now) > len(to) {
		return false
	}
	n := 0
	for n < len(now) && now[n] == to[n] {
		n++
	}
	return n == len(now) || n < len(from) && len(now) == len(from) && bytes.Equal(now[n:], from[n:])
}

// oracle is what a sequence led to where nothing crashed.
type oracle struct {
	seq    sequence
	states []*state // after 0, 1, … operations
	acks   []ack
}

// ack says that the first ops operations were told to be durable when so many writes (or records) had been made.
type ack struct{ writes, ops int }

// judge tells what is wrong with what was found when the crash came behind so many writes; "": nothing.
func (o *oracle) judge(writes int, got *state) string {
	least := 0
	for _, a := range o.acks {
		if a.writes <= writes {
			least = max(least, a.ops)
		}
	}
	for i := least; i < len(o.states); i++ {
		if maps.Equal(o.states[i].lines, got.lines) {
			return ""
		}
		if i+1 < len(o.states) && o.seq[i].op.long && o.states[i].partOf(o.states[i+1], got, o.seq[i].op.file) {
			return ""
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "what is there is the state after none of %d to %d operations", least, len(o.states)-1)
	for i, s := range o.states {
		why := ""
		if i < least {
			why = " (which is older than what was acknowledged)"
		}
		fmt.Fprintf(&b, "\nfrom the state after %d operations%s it differs in:\n%s", i, why, strings.Join(s.differences(got), "\n"))
	}
	return b.String()
}

// persist says what is done behind an operation.
type persist uint8

const (
	nothing persist = iota
	fsync
	fdatasync
	fsyncDir
	syncRoot
	persists
)

func (p persist) String() string {
	return [...]string{"", "fsync", "fdatasync", "fsync of the directory", "fsync of the root"}[p]
}

// fits tells whether p says something of o.
func (p persist) fits(o *op) bool {
	switch p {
	case fsync:
		return o.file != "" && !o.sync
	case fdatasync:
		return o.file != "" && o.data && !o.sync
	case fsyncDir:
		return o.dir != "-"
	}
	return true
}

// step is an operation with what follows.
type step struct {
	op *op
	p  persist
}

type sequence []step

func (s sequence) String() string {
	var parts []string
	for _, st := range s {
		parts = append(parts, st.op.name)
		if st.p != nothing {
			parts = append(parts, st.p.String())
		}
	}
	return strings.Join(parts, "; ")
}

// run does the sequence; writes tells how many writes have been made.
func (s sequence) run(c *client, writes func() int) (*oracle, error) {
	o := &oracle{seq: s}
	note := func() error {
		now, err := c.look()
		o.states = append(o.states, now)
		return err
	}
	if err := note(); err != nil {
		return nil, err
	}
	for i, st := range s {
		if err := c.beforeOp(i); err != nil {
			return nil, err
		}
		err := st.op.do(c)
		if nerr := note(); nerr != nil {
			return nil, nerr
		}
		if err != nil {
			if d := o.states[i].differences(o.states[i+1]); len(d) > 0 && !st.op.long {
				return nil, fmt.Errorf("%s is refused (%w) and has changed %q", st.op.name, err, d)
			}
			continue
		}
		changed := len(o.states[i].differences(o.states[i+1])) > 0 // what changed nothing, an fsync of a file need not wait for
		if st.op.sync && changed {
			o.acks = append(o.acks, ack{writes(), i + 1})
		}
		if err := c.persist(st); err != nil {
			return nil, fmt.Errorf("%v after %s: %w", st.p, st.op.name, err)
		}
		if changed && st.p != nothing || st.p == syncRoot {
			o.acks = append(o.acks, ack{writes(), i + 1})
		}
	}
	if err := c.SyncAll(c.ctx); err != nil {
		return nil, err
	}
	o.acks = append(o.acks, ack{writes(), len(s)})
	return o, c.beforeOp(len(s))
}

func (c *client) beforeOp(nth int) error {
	if c.before == nil {
		return nil
	}
	return c.before(nth)
}

func (c *client) persist(st step) error {
	switch st.p {
	case fsync, fdatasync:
		ino, err := c.at(st.op.file)
		if err != nil {
			return err
		}
		h, _, err := c.Open(c.ctx, root, ino, syscall.O_RDONLY|syscall.O_NOATIME)
		if err != nil {
			return c.syncDir(ino) // it is a directory
		}
		err = c.Fsync(c.ctx, h, st.p == fdatasync)
		if rerr := c.Release(c.ctx, h); err == nil {
			err = rerr
		}
		return err
	case fsyncDir:
		ino, err := c.at(st.op.dir)
		if err != nil {
			return err
		}
		return c.syncDir(ino)
	case syncRoot:
		return c.syncDir(fs.RootIno)
	}
	return nil
}

func (c *client) syncDir(ino fs.Ino) error {
	h, err := c.OpenDir(c.ctx, root, ino)
	if err != nil {
		return err
	}
	err = c.FsyncDir(c.ctx, h)
	if rerr := c.ReleaseDir(c.ctx, h); err == nil {
		err = rerr
	}
	return err
}

// closeAll lets go what operations have kept open.
func (c *client) closeAll() {
	for _, h := range c.open {
		_ = c.Release(c.ctx, h)
	}
}
