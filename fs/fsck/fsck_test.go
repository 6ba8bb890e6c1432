package fsck

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// image is a replica in memory.
type image struct {
	t      *testing.T
	blocks map[wal.Addr][]byte
	bad    map[wal.Addr]bool // present, with a checksum that does not fit
}

func chunkOf(a wal.Addr) blockstore.ChunkID {
	switch {
	case a.Block < 16:
		return blockstore.ChunkID{VDisk: a.VDisk}
	case a.Block < 256:
		return blockstore.ChunkID{VDisk: a.VDisk, Chunk: 1}
	}
	return blockstore.ChunkID{VDisk: a.VDisk, Chunk: a.Block/256 + 1}
}

func compareChunks(a, b blockstore.ChunkID) int {
	switch {
	case a == b:
		return 0
	case a.VDisk < b.VDisk || a.VDisk == b.VDisk && a.Chunk < b.Chunk:
		return -1
	}
	return 1
}

func (m *image) Chunks(_ context.Context, after *blockstore.ChunkID, n int) ([]blockstore.ChunkInfo, error) {
	set := map[blockstore.ChunkID]bool{}
	for a := range m.blocks {
		if id := chunkOf(a); after == nil || compareChunks(id, *after) > 0 {
			set[id] = true
		}
	}
	var out []blockstore.ChunkInfo
	for _, id := range slices.SortedFunc(maps.Keys(set), compareChunks) {
		if len(out) < min(n, 3) { // short answers: paging is exercised
			out = append(out, blockstore.ChunkInfo{ChunkID: id})
		}
	}
	return out, nil
}

func (m *image) Presence(_ context.Context, s wal.Span) ([]byte, error) {
	present := make([]byte, (s.Count+7)/8)
	for i := range s.Count {
		if m.blocks[wal.Addr{VDisk: s.VDisk, Block: s.Block + i}] != nil {
			present[i/8] |= 1 << (i % 8)
		}
	}
	return present, nil
}

func (m *image) Read(ctx context.Context, s wal.Span) (data, present []byte, err error) {
	data = make([]byte, s.Count*wal.BlockSize)
	present, _ = m.Presence(ctx, s)
	for i := range s.Count {
		a := wal.Addr{VDisk: s.VDisk, Block: s.Block + i}
		if m.bad[a] {
			return nil, nil, errors.New(errors.KindCorrupt, "checksum of %x", a)
		}
		copy(data[i*wal.BlockSize:], m.blocks[a])
	}
	return data, present, nil
}

// vdisk is the blocks of one inode in an image.
type vdisk struct {
	m   *image
	ino uint64
}

func (v vdisk) Get(no uint64) ([]byte, error) {
	if b := v.m.blocks[layout.DataAddr(v.ino, no)]; b != nil {
		return b, nil
	}
	return make([]byte, layout.BlockSize), nil
}
func (v vdisk) Put(no uint64, data []byte) { v.m.blocks[layout.DataAddr(v.ino, no)] = data }
func (v vdisk) Free(no uint64)             { delete(v.m.blocks, layout.DataAddr(v.ino, no)) }

func (m *image) put(in *layout.Inode) { m.blocks[layout.InodeAddr(in.Ino)] = in.Encode() }

// change changes an inode.
func (m *image) change(ino uint64, f func(in *layout.Inode)) {
	in, err := layout.DecodeInode(ino, m.blocks[layout.InodeAddr(ino)])
	if err != nil {
		m.t.Fatal(err)
	}
	f(in)
	m.put(in)
}

// dir changes a directory.
func (m *image) dir(ino uint64, f func(d *layout.Dir) error) {
	m.change(ino, func(in *layout.Inode) {
		if err := f(layout.OpenDir(in, vdisk{m, ino})); err != nil {
			m.t.Fatal(err)
		}
	})
}

// link adds a name.
func (m *image) link(dir uint64, name string, ino uint64, typ uint32) {
	m.dir(dir, func(d *layout.Dir) error { return d.Insert(name, ino, typ) })
	if typ == syscall.S_IFDIR {
		m.change(dir, func(in *layout.Inode) { in.Nlink++ })
	}
}

func (m *image) unlink(dir uint64, name string) {
	m.dir(dir, func(d *layout.Dir) error { return d.Remove(name) })
}

// mkdir makes a directory inode.
func (m *image) mkdir(parent, ino uint64, name string) {
	in := &layout.Inode{Ino: ino, Mode: syscall.S_IFDIR | 0o755}
	in.NewDir(parent, ino*77)
	m.put(in)
	if ino != parent {
		m.link(parent, name, ino, syscall.S_IFDIR)
	}
}

// file makes an inode of type typ with data blocks.
func (m *image) file(dir, ino uint64, name string, typ uint32, size uint64, blocks ...uint64) {
	in := &layout.Inode{Ino: ino, Mode: typ | 0o644, Nlink: 1, Size: size, Blocks: uint64(len(blocks))}
	for _, b := range blocks {
		data := make([]byte, layout.BlockSize)
		if b*layout.BlockSize < size {
			copy(data, bytes.Repeat([]byte("d"), int(min(layout.BlockSize, size-b*layout.BlockSize))))
		}
		m.blocks[layout.DataAddr(ino, b)] = data
	}
	m.put(in)
	if name == "" {
		m.change(ino, func(in *layout.Inode) { in.Nlink = 0 })
		return
	}
	m.link(dir, name, ino, typ)
}

const (
	inoSub, inoBig, inoDeep        = 20, 21, 22
	inoInline, inoFile, inoLinked  = 30, 31, 32
	inoSym, inoLongSym, inoDev     = 33, 34, 35
	inoOrphan, inoTrunc, inoSparse = 36, 37, 38
	inoFirstSmall                  = 100
)

// newImage makes a sound file system with one of everything.
func newImage(t *testing.T) *image {
	m := &image{t: t, blocks: map[wal.Addr][]byte{}, bad: map[wal.Addr]bool{}}
	m.blocks[layout.SuperAddr()] = (&layout.Super{RootMade: true}).Encode()
	m.mkdir(layout.RootIno, layout.RootIno, "")
	m.mkdir(layout.RootIno, inoSub, "sub")
	m.mkdir(inoSub, inoBig, "big")
	m.mkdir(inoBig, inoDeep, "deep")
	m.file(inoSub, inoInline, "inline", syscall.S_IFREG, 0)
	m.change(inoInline, func(in *layout.Inode) {
		in.Flags, in.Inline, in.Size = layout.FlagInline, []byte("some data"), 9
	})
	m.file(inoDeep, inoFile, "file", syscall.S_IFREG, 10000, 0, 1, 2, 7) // 7: allocated ahead
	m.change(inoFile, func(in *layout.Inode) {
		if err := in.XattrSet(vdisk{m, inoFile}, "user.big", make([]byte, 9000), 0); err != nil {
			t.Fatal(err)
		}
	})
	m.file(inoSub, inoLinked, "one", syscall.S_IFREG, 5, 0)
	m.link(inoBig, "two", inoLinked, syscall.S_IFREG)
	m.change(inoLinked, func(in *layout.Inode) { in.Nlink = 2 })
	m.file(inoSub, inoSym, "sym", syscall.S_IFLNK, 3)
	m.change(inoSym, func(in *layout.Inode) { in.Flags, in.Inline = layout.FlagInline, []byte("one") })
	m.file(inoSub, inoLongSym, "longsym", syscall.S_IFLNK, 4000, 0)
	m.file(inoSub, inoDev, "dev", syscall.S_IFCHR, 0)
	m.file(inoSub, inoOrphan, "", syscall.S_IFREG, 5000, 0, 1)
	m.change(inoOrphan, func(in *layout.Inode) { in.Flags = layout.FlagOrphan })
	m.file(inoSub, inoTrunc, "truncated", syscall.S_IFREG, 4096, 0, 9)
	m.blocks[layout.DataAddr(inoTrunc, 9)][0] = 1 // not freed yet
	m.change(inoTrunc, func(in *layout.Inode) { in.Flags, in.TrimFrom = layout.FlagTruncating, 1 })
	m.file(inoSub, inoSparse, "sparse", syscall.S_IFREG, 1<<50, 300, 1<<37)
	for i := range uint64(400) {
		m.file(inoBig, inoFirstSmall+i, fmt.Sprintf("small%d", i), syscall.S_IFREG, 0)
	}
	page := layout.NewOrphanPage(5)
	layout.SetOrphan(page, 3, layout.Orphan{Ino: inoOrphan, Kind: layout.OrphanUnlinked})
	layout.SetOrphan(page, 9, layout.Orphan{Ino: inoTrunc, Kind: layout.OrphanTruncating})
	m.blocks[layout.OrphanAddr(5, 0)] = page
	return m
}

func (m *image) check() *Report {
	m.t.Helper()
	used := uint64(len(m.blocks))
	return m.checkWith(Options{UsedBlocks: &used})
}

func (m *image) checkWith(o Options) *Report {
	m.t.Helper()
	r, err := Check(context.Background(), m, o)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// client makes the unlinked file a thin client's session.
func (m *image) client() {
	m.change(inoOrphan, func(in *layout.Inode) {
		table := layout.NewClientTable(layout.ClientHead{Generation: 1})
		for i := range layout.ClientSlots {
			table = layout.ClientSet(table, i, layout.ClientSlot{Number: 1, State: layout.ClientDone})
		}
		in.Flags, in.Inline, in.Size, in.Blocks = layout.FlagInline|layout.FlagOrphan|layout.FlagClient, table, layout.ClientTableSize, 0
	})
	delete(m.blocks, layout.DataAddr(inoOrphan, 0))
	delete(m.blocks, layout.DataAddr(inoOrphan, 1))
}

// TestClientSession: a thin client's session is sound.
func TestClientSession(t *testing.T) {
	m := newImage(t)
	m.client()
	if r := m.check(); len(r.Problems) > 0 {
		t.Errorf("%v", r.Problems)
	}
}

func TestSound(t *testing.T) {
	m := newImage(t)
	r := m.check()
	var out bytes.Buffer
	if _, err := r.WriteTo(&out); err != nil || !r.Clean() {
		t.Fatal(err, out.String())
	}
	if r.Files != 405 || r.Dirs != 4 || r.Symlinks != 2 || r.Others != 1 || r.Orphans != 1 ||
		r.Bytes != 9+10000+5+4096+1<<50 || r.UsedBlocks != uint64(len(m.blocks)) {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(out.String(), "405 files, 4 directories") {
		t.Error(out.String())
	}
	if r := m.checkWith(Options{}); !r.Clean() {
		t.Error(r.Problems)
	}
}

// TestEmpty: a store in which nothing ever was is no damage; one that should hold something is.
func TestEmpty(t *testing.T) {
	m := &image{t: t}
	zero, three := uint64(0), uint64(3)
	var out strings.Builder
	r := m.checkWith(Options{UsedBlocks: &zero})
	if _, err := r.WriteTo(&out); err != nil || !r.Clean() || !r.Empty || !strings.Contains(out.String(), "the first mount makes it; 0 problems") {
		t.Errorf("%+v %q %v", r, out.String(), err)
	}
	for _, o := range []Options{{UsedBlocks: &three}, {}} {
		if r := m.checkWith(o); r.Clean() || r.Empty {
			t.Errorf("%+v", r)
		}
	}
}

// TestListedFree: an unlinked inode that another writer freed, closing it last, is on its list until that looks again; no damage.
func TestListedFree(t *testing.T) {
	m := newImage(t)
	layout.SetOrphan(m.blocks[layout.OrphanAddr(5, 0)], 4, layout.Orphan{Ino: 7777, Kind: layout.OrphanUnlinked})
	if r := m.check(); !r.Clean() {
		t.Error(r.Problems)
	}
}

// TestDying: inodes that are being freed in steps have some of their blocks still; no damage.
func TestDying(t *testing.T) {
	m := newImage(t)
	m.file(inoSub, 50, "", syscall.S_IFLNK, 5, 0)
	in := &layout.Inode{Ino: 51, Mode: syscall.S_IFDIR}
	in.NewDir(inoSub, 9)
	if err := in.SpillInline(vdisk{m, 51}); err != nil {
		t.Fatal(err)
	}
	in.Nlink = 0
	m.put(in)
	for _, ino := range []uint64{50, 51} {
		m.change(ino, func(in *layout.Inode) { in.Flags, in.Size = in.Flags|layout.FlagOrphan|layout.FlagTruncating, 0 })
		layout.SetOrphan(m.blocks[layout.OrphanAddr(5, 0)], int(ino), layout.Orphan{Ino: ino, Kind: layout.OrphanUnlinked})
		extraBlock(ino, 8)(m)
		extraBlock(ino, layout.XattrBase)(m)
		vdisk{m, ino}.Free(0)
		m.change(ino, func(in *layout.Inode) { in.Blocks-- })
	}
	if r := m.check(); !r.Clean() || r.Orphans != 3 {
		t.Error(r.Problems, r.Orphans)
	}
}

// TestDamage damages each aspect once: each is found, with the inode's path.
func TestDamage(t *testing.T) {
	type damage struct {
		name string
		kind Kind
		ino  uint64
		path string
		do   func(m *image)
	}
	inode := func(ino uint64, f func(in *layout.Inode)) func(*image) {
		return func(m *image) { m.change(ino, f) }
	}
	setOrphan := func(slot int, o layout.Orphan) func(*image) {
		return func(m *image) { layout.SetOrphan(m.blocks[layout.OrphanAddr(5, 0)], slot, o) }
	}
	cases := []damage{
		{"no superblock", BadSuper, 0, "", func(m *image) { delete(m.blocks, layout.SuperAddr()) }},
		{"root not made", BadSuper, 0, "", func(m *image) { m.blocks[layout.SuperAddr()] = (&layout.Super{}).Encode() }},
		{"inode magic", BadInode, inoFile, "/sub/big/deep/file", func(m *image) { m.blocks[layout.InodeAddr(inoFile)][0] = 'x' }},
		{"inode moved", BadInode, 5000, "", func(m *image) { m.blocks[layout.InodeAddr(5000)] = m.blocks[layout.InodeAddr(inoFile)] }},
		{"inode all zeros", BadInode, 5000, "", func(m *image) { m.blocks[layout.InodeAddr(5000)] = make([]byte, layout.BlockSize) }},
		{"inode checksum", BadBlock, 0, "", func(m *image) { m.bad[layout.InodeAddr(inoFile)] = true }},
		{"no root", BadInode, layout.RootIno, "/", func(m *image) { delete(m.blocks, layout.InodeAddr(layout.RootIno)) }},
		{"root parent", BadParent, layout.RootIno, "/", inode(layout.RootIno, func(in *layout.Inode) { in.Parent = inoSub })},
		{"orphan magic", BadOrphans, 0, "", func(m *image) { m.blocks[layout.OrphanAddr(5, 0)][0] = 'x' }},
		{"orphan twice", BadOrphans, inoOrphan, "", setOrphan(4, layout.Orphan{Ino: inoOrphan, Kind: layout.OrphanUnlinked})},
		{"orphan linked", OrphanMismatch, inoDev, "/sub/dev", setOrphan(4, layout.Orphan{Ino: inoDev, Kind: layout.OrphanUnlinked})},
		{"orphan unlisted", OrphanMismatch, inoOrphan, "", setOrphan(3, layout.Orphan{})},
		{"orphan mark", OrphanMismatch, inoOrphan, "", inode(inoOrphan, func(in *layout.Inode) { in.Flags = 0 })},
		{"truncating unlisted", OrphanMismatch, inoTrunc, "/sub/truncated", setOrphan(9, layout.Orphan{})},
		{"listed, not truncating", OrphanMismatch, inoDev, "/sub/dev", setOrphan(4, layout.Orphan{Ino: inoDev, Kind: layout.OrphanTruncating})},
		{"count of file", BlockCount, inoFile, "/sub/big/deep/file", inode(inoFile, func(in *layout.Inode) { in.Blocks++ })},
		{"count of empty file", BlockCount, inoFirstSmall, "/sub/big/small0", inode(inoFirstSmall, func(in *layout.Inode) { in.Blocks++ })},
		{"count of directory", BlockCount, inoBig, "/sub/big", inode(inoBig, func(in *layout.Inode) { in.Blocks-- })},
		{"block lost", BlockCount, inoFile, "/sub/big/deep/file", func(m *image) { delete(m.blocks, layout.DataAddr(inoFile, 1)) }},
		{"xattr block lost", Misplaced, inoFile, "/sub/big/deep/file", func(m *image) { delete(m.blocks, layout.DataAddr(inoFile, layout.XattrBase+1)) }},
		{"xattr block too many", Misplaced, inoDev, "/sub/dev", extraBlock(inoDev, layout.XattrBase)},
		{"data of inline file", Misplaced, inoInline, "/sub/inline", extraBlock(inoInline, 0)},
		{"data of inline dir", Misplaced, inoSub, "/sub", extraBlock(inoSub, 3)},
		{"data of device", Misplaced, inoDev, "/sub/dev", extraBlock(inoDev, 0)},
		{"overflow of file", Misplaced, inoFile, "/sub/big/deep/file", extraBlock(inoFile, layout.OverflowBase)},
		{"beyond all", Misplaced, inoFile, "/sub/big/deep/file", extraBlock(inoFile, layout.XattrEnd)},
		{"between", Misplaced, inoFile, "/sub/big/deep/file", extraBlock(inoFile, layout.DataBlocksMax)},
		{"extra bucket", Misplaced, inoBig, "/sub/big", extraBlock(inoBig, 100)},
		{"symlink without target", Misplaced, inoLongSym, "/sub/longsym", func(m *image) { vdisk{m, inoLongSym}.Free(0) }},
		{"bytes in the last block", StaleData, inoFile, "/sub/big/deep/file", func(m *image) { m.blocks[layout.DataAddr(inoFile, 2)][4000] = 1 }},
		{"bytes allocated ahead", StaleData, inoFile, "/sub/big/deep/file", func(m *image) { m.blocks[layout.DataAddr(inoFile, 7)][0] = 1 }},
		{"last block's checksum", BadBlock, inoFile, "/sub/big/deep/file", func(m *image) { m.bad[layout.DataAddr(inoFile, 2)] = true }},
		{"vdisk of a free inode", Ownerless, 0, "", func(m *image) { m.blocks[layout.DataAddr(999, 4)] = make([]byte, 4096) }},
		{"vdisk 0", Ownerless, 0, "", func(m *image) { m.blocks[layout.DataAddr(0, 4)] = make([]byte, 4096) }},
		{"inode 0", Ownerless, 0, "", func(m *image) { m.blocks[wal.Addr{VDisk: layout.TableVDiskBit}] = make([]byte, 4096) }},
		{"super's vdisk", Ownerless, 0, "", func(m *image) { m.blocks[wal.Addr{VDisk: layout.SuperVDisk, Block: 1}] = make([]byte, 4096) }},
		{"unknown vdisk", Ownerless, 0, "", func(m *image) { m.blocks[wal.Addr{VDisk: 1<<62 | 1<<61}] = make([]byte, 4096) }},
		{"unknown table", Ownerless, 0, "", func(m *image) { m.blocks[wal.Addr{VDisk: 1<<64 - 1}] = make([]byte, 4096) }},
		{"bucket magic", BadDir, inoBig, "/sub/big", func(m *image) { m.blocks[layout.DataAddr(inoBig, 1)][0] = 'x' }},
		{"bucket checksum", BadDir, inoBig, "/sub/big", func(m *image) { m.bad[layout.DataAddr(inoBig, 1)] = true }},
		{"header's count", BadDir, inoBig, "/sub/big", inode(inoBig, func(in *layout.Inode) { in.Dir.Entries-- })},
		{"inline entry misplaced", BadDir, inoSub, "/sub", inode(inoSub, func(in *layout.Inode) { in.Dir.Seed++ })},
		{"dangling", Dangling, inoBig, "/sub/big", func(m *image) { m.link(inoBig, "nothing", 7777, syscall.S_IFREG) }},
		{"entry type", BadType, inoSub, "/sub", func(m *image) {
			m.dir(inoSub, func(d *layout.Dir) error { return d.Replace("dev", inoDev, syscall.S_IFBLK) })
		}},
		{"parent", BadParent, inoDeep, "/sub/big/deep", inode(inoDeep, func(in *layout.Inode) { in.Parent = inoSub })},
		{"directory twice", DirTwice, inoDeep, "/sub/big/deep", func(m *image) { m.link(inoDeep, "again", inoDeep, syscall.S_IFDIR) }},
		{"root below", DirTwice, layout.RootIno, "/", func(m *image) { m.link(inoDeep, "root", layout.RootIno, syscall.S_IFDIR) }},
		{"nlink of file", LinkCount, inoLinked, "", inode(inoLinked, func(in *layout.Inode) { in.Nlink = 3 })},
		{"nlink of directory", LinkCount, inoBig, "/sub/big", inode(inoBig, func(in *layout.Inode) { in.Nlink = 2 })},
		{"nlink of root", LinkCount, layout.RootIno, "/", inode(layout.RootIno, func(in *layout.Inode) { in.Nlink = 2 })},
		{"linked with count 0", LinkCount, inoDev, "/sub/dev", inode(inoDev, func(in *layout.Inode) { in.Nlink = 0 })},
		{"no name", Unreferenced, inoDev, "", func(m *image) { m.unlink(inoSub, "dev") }},
		{"no name for directory", Unreferenced, inoBig, "", func(m *image) { m.unlink(inoSub, "big") }},
		{"loop", Unreachable, inoBig, "", func(m *image) {
			m.unlink(inoSub, "big")
			m.link(inoDeep, "loop", inoBig, syscall.S_IFDIR)
			m.change(inoBig, func(in *layout.Inode) { in.Parent = inoDeep })
		}},
		{"below a lost one", Unreachable, inoDeep, "", func(m *image) { m.unlink(inoSub, "big") }},
		{"a damaged thin client's session", BadInode, inoOrphan, "", func(m *image) {
			m.client()
			m.change(inoOrphan, func(in *layout.Inode) { in.Inline[500] ^= 1 })
		}},
		{"a thin client's session with a name", BadInode, inoOrphan, "", func(m *image) {
			m.client()
			m.change(inoOrphan, func(in *layout.Inode) { in.Nlink = 1 })
		}},
		{"unlinked and full", NotEmpty, inoDeep, "", func(m *image) {
			m.unlink(inoBig, "deep")
			m.change(inoDeep, func(in *layout.Inode) { in.Nlink, in.Flags = 0, in.Flags|layout.FlagOrphan })
			setOrphan(4, layout.Orphan{Ino: inoDeep, Kind: layout.OrphanUnlinked})(m)
		}},
	}
	for _, c := range cases {
		m := newImage(t)
		c.do(m)
		r := m.check()
		found := slices.ContainsFunc(r.Problems, func(p Problem) bool {
			return p.Kind == c.kind && p.Ino == c.ino && (p.Path == c.path || c.path == "" && c.ino == inoLinked)
		})
		if !found {
			t.Errorf("%s: not found among %v", c.name, r.Problems[:min(10, len(r.Problems))])
		}
		if c.name == "inode checksum" && len(r.Problems) != 1 {
			t.Errorf("%s: told more than once: %v", c.name, r.Problems)
		}
		if len(r.Problems) > 5 && !slices.Contains([]string{"no root", "bucket magic", "bucket checksum", "inline entry misplaced"}, c.name) {
			t.Errorf("%s: one damage, %d problems: %v", c.name, len(r.Problems), r.Problems[:min(10, len(r.Problems))])
		}
	}
}

// extraBlock puts a block of zeros where ino has none, and counts it.
func extraBlock(ino, block uint64) func(*image) {
	return func(m *image) {
		m.blocks[layout.DataAddr(ino, block)] = make([]byte, layout.BlockSize)
		m.change(ino, func(in *layout.Inode) { in.Blocks++ })
	}
}

func TestUsedAndBounds(t *testing.T) {
	m := newImage(t)
	used := uint64(len(m.blocks) + 1)
	if r := m.checkWith(Options{UsedBlocks: &used}); len(r.Problems) != 1 || r.Problems[0].Kind != UsedCount {
		t.Error(r.Problems)
	}
	for i := range uint64(400) {
		m.change(inoFirstSmall+i, func(in *layout.Inode) { in.Nlink = 9 })
	}
	if r := m.checkWith(Options{ProblemsMax: 10}); len(r.Problems) != 10 || r.Dropped != 390 || r.Clean() {
		t.Error(len(r.Problems), r.Dropped)
	}
	if _, err := Check(context.Background(), m, Options{ProblemsMax: -1}); !errors.Is(err, errors.KindInvalid) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Check(ctx, m, Options{}); !errors.Is(err, errors.KindInterrupted) {
		t.Error(err)
	}
}

// FuzzCheck flips bytes anywhere: a check ends without a panic.
func FuzzCheck(f *testing.F) {
	f.Add(uint32(1), uint32(2), uint64(0xff))
	f.Add(uint32(11), uint32(136), uint64(3))
	f.Fuzz(func(t *testing.T, block, off uint32, to uint64) {
		m := newImage(t)
		addrs := slices.SortedFunc(maps.Keys(m.blocks), func(a, b wal.Addr) int {
			return compareChunks(blockstore.ChunkID{VDisk: a.VDisk, Chunk: a.Block}, blockstore.ChunkID{VDisk: b.VDisk, Chunk: b.Block})
		})
		b := m.blocks[addrs[int(block)%len(addrs)]]
		for i := range 8 {
			b[(int(off%4096)+i)%4096] ^= byte(to >> (8 * i))
		}
		m.check()
	})
}
