package fs

import "dfs/wal"

// groupBlocks is how many consecutive blocks share an entry of a frameTable's map; a power of two.
const groupBlocks = 16

// frameTable finds frames by address. Neighbours share an entry, and the groups last used are kept at hand, so a large
// write or read looks into the map once in groupBlocks blocks. Not safe for concurrent use.
type frameTable struct {
	groups map[wal.Addr]*frameGroup // by the address of the first block
	near   *frameGroup              // the one last looked into
	far    *frameGroup              // the one that a frame was last removed from: eviction goes elsewhere than reading
	n      int                      // frames
}

// frameGroup is never empty while it is in the table.
type frameGroup struct {
	at     wal.Addr
	n      int
	frames [groupBlocks]*frame
}

func newFrameTable() frameTable { return frameTable{groups: make(map[wal.Addr]*frameGroup)} }

// split gives the address of a's group, and a's place in it.
func split(a wal.Addr) (at wal.Addr, i int) {
	i = int(a.Block % groupBlocks)
	a.Block -= uint64(i)
	return a, i
}

// group gives the group at an address, nil if there is none.
func (t *frameTable) group(at wal.Addr) *frameGroup {
	for _, g := range [...]*frameGroup{t.near, t.far} {
		if g != nil && g.at == at {
			return g
		}
	}
	return t.groups[at]
}

// get gives the frame of a, nil if there is none.
func (t *frameTable) get(a wal.Addr) *frame {
	at, i := split(a)
	g := t.group(at)
	if g == nil {
		return nil
	}
	t.near = g
	return g.frames[i]
}

// add puts f, whose address has no frame yet, into the table.
func (t *frameTable) add(f *frame) {
	at, i := split(f.addr)
	g := t.group(at)
	if g == nil {
		g = &frameGroup{at: at}
		t.groups[at] = g
	}
	if g.frames[i] != nil {
		panic("fs: a block has two frames")
	}
	g.frames[i] = f
	g.n++
	t.n++
	t.near = g
}

// remove takes f out; false if it is not the one in the table.
func (t *frameTable) remove(f *frame) bool {
	at, i := split(f.addr)
	g := t.group(at)
	if g == nil || g.frames[i] != f {
		return false
	}
	g.frames[i] = nil
	g.n--
	t.n--
	t.far = g
	if g.n == 0 {
		delete(t.groups, at)
		t.far = nil
		if t.near == g {
			t.near = nil
		}
	}
	return true
}
