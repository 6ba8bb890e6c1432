package layout

import (
	"encoding/binary"
	"slices"
	"syscall"

	"dfs/internal/errors"
)

// An extended attribute in the area at the end of the inode block:
//
//	0  name length u8   1  place u8 (0: here, 1: in a slot)   2  slot u16   4  value length u32
//	8  name, then the value if it is here
//
// A value that is long, or that the area has no room for, lies in the blocks of a
// slot of the inode's vdisk (XattrBase), as many as it needs, zero-padded.
const (
	xattrHeader = 8
	// xattrHereMax is the longest value, in bytes, that is put into the inode while there is room.
	xattrHereMax = 1024
)

// xattrView is one encoded attribute.
type xattrView []byte

func (x xattrView) name() []byte  { return x[xattrHeader : xattrHeader+int(x[0])] }
func (x xattrView) spilled() bool { return x[1] == 1 }
func (x xattrView) slot() uint16  { return binary.LittleEndian.Uint16(x[2:]) }
func (x xattrView) valueLen() int { return int(binary.LittleEndian.Uint32(x[4:])) }
func (x xattrView) value() []byte { return x[xattrHeader+int(x[0]):] }

// firstBlock and blocks are where a spilled value lies.
func (x xattrView) firstBlock() uint64 { return XattrBase + uint64(x.slot())*XattrSlotBlocks }
func (x xattrView) blocks() uint64     { return uint64(x.valueLen()+BlockSize-1) / BlockSize }

// xattrAt returns the attribute at the head of area; nil if it is damaged.
func xattrAt(area []byte) xattrView {
	if len(area) < xattrHeader || area[0] == 0 || area[1] > 1 {
		return nil
	}
	x := xattrView(area)
	n, v := xattrHeader+int(area[0]), x.valueLen()
	if v > XattrValueMax || x.spilled() && v == 0 || !x.spilled() && x.slot() != 0 {
		return nil
	}
	if !x.spilled() {
		n += v
	}
	if n > len(area) {
		return nil
	}
	return x[:n:n]
}

// makeXattr encodes an attribute; slot is -1 for a value kept here.
func makeXattr(name string, value []byte, slot int) []byte {
	x := make([]byte, xattrHeader, xattrHeader+len(name)+len(value))
	x[0] = byte(len(name))
	binary.LittleEndian.PutUint32(x[4:], uint32(len(value)))
	x = append(x, name...)
	if slot < 0 {
		return append(x, value...)
	}
	x[1] = 1
	binary.LittleEndian.PutUint16(x[2:], uint16(slot))
	return x
}

// eachXattr walks the attributes of a checked area until f returns false.
func (in *Inode) eachXattr(f func(off int, x xattrView) bool) {
	for off := 0; off < len(in.xattrBytes); {
		x := xattrAt(in.xattrBytes[off:])
		if x == nil || !f(off, x) {
			return
		}
		off += len(x)
	}
}

// checkXattrs checks the area of a decoded inode.
func (in *Inode) checkXattrs() error {
	if len(in.xattrBytes) == 0 {
		return nil
	}
	seen, slots := map[string]bool{}, map[uint16]bool{}
	for area := in.xattrBytes; len(area) > 0; {
		x := xattrAt(area)
		if x == nil || seen[string(x.name())] || x.spilled() && slots[x.slot()] {
			return corruptInode(in.Ino, "extended attributes")
		}
		seen[string(x.name())] = true
		if x.spilled() {
			slots[x.slot()] = true
		}
		area = area[len(x):]
	}
	return nil
}

// HasXattrs reports whether the inode has any extended attribute.
func (in *Inode) HasXattrs() bool { return len(in.xattrBytes) > 0 }

// XattrNames lists the names of the extended attributes.
func (in *Inode) XattrNames() []string {
	var names []string
	in.eachXattr(func(_ int, x xattrView) bool {
		names = append(names, string(x.name()))
		return true
	})
	return names
}

// findXattr returns the attribute and its offset, or nil.
func (in *Inode) findXattr(name string) (x xattrView, off int) {
	in.eachXattr(func(o int, y xattrView) bool {
		if string(y.name()) == name {
			x, off = y, o
		}
		return x == nil
	})
	return x, off
}

// XattrSize is the length of an attribute's value, in bytes; ok is false if there is none.
func (in *Inode) XattrSize(name string) (size int, ok bool) {
	x, _ := in.findXattr(name)
	if x == nil {
		return 0, false
	}
	return x.valueLen(), true
}

// XattrGet returns the value of an attribute, a fresh slice. KindNoAttr, or an error of Get.
// b is not used (and may be nil) for values that stand in the inode.
func (in *Inode) XattrGet(b Blocks, name string) ([]byte, error) {
	x, _ := in.findXattr(name)
	if x == nil {
		return nil, errors.Of(errors.KindNoAttr)
	}
	if !x.spilled() {
		return append([]byte{}, x.value()...), nil
	}
	out := make([]byte, 0, x.blocks()*BlockSize)
	for i := range x.blocks() {
		block, err := b.Get(x.firstBlock() + i)
		if err != nil {
			return nil, err
		}
		if len(block) != BlockSize {
			return nil, corruptInode(in.Ino, "block of an extended attribute")
		}
		out = append(out, block...)
	}
	return out[:x.valueLen()], nil
}

// XattrSet sets an attribute; flags are Linux's XATTR_CREATE (1) and XATTR_REPLACE (2).
// Where there is no room it moves, in this order, the value into a slot and the inline data
// out of the inode (see SpillInline).
// Nothing changed: KindExist, KindNoAttr (by the flags), KindInvalid, KindRange (name), KindTooBig (value), KindNoSpace
// (the names and short values of all attributes exceed the inode).
func (in *Inode) XattrSet(b Blocks, name string, value []byte, flags int) error {
	old, off := in.findXattr(name)
	switch {
	case name == "" || flags&^3 != 0:
		return errors.New(errors.KindInvalid, "extended attribute %q with flags %#x", name, flags)
	case len(name) > XattrNameMax:
		return errors.New(errors.KindRange, "name of an extended attribute has %d bytes: at most %d are allowed", len(name), XattrNameMax)
	case len(value) > XattrValueMax:
		return errors.New(errors.KindTooBig, "extended attribute %q of %d bytes: at most %d are allowed", name, len(value), XattrValueMax)
	case flags&1 != 0 && old != nil:
		return errors.Of(errors.KindExist)
	case flags&2 != 0 && old == nil:
		return errors.Of(errors.KindNoAttr)
	}
	rest := slices.Concat(in.xattrBytes[:off], in.xattrBytes[off+len(old):])
	room := BodySize - len(rest) - xattrHeader - len(name)
	roomNow := room - len(in.Inline)
	slot := -1
	switch {
	case len(value) <= min(roomNow, xattrHereMax):
	case roomNow >= 0 && len(value) > 0:
		slot = in.freeSlot(old)
	case len(value) <= min(room, xattrHereMax):
	case room >= 0 && len(value) > 0:
		slot = in.freeSlot(old)
	default:
		return errors.New(errors.KindNoSpace, "inode %d: no room for extended attribute %q among the others; remove some", in.Ino, name)
	}
	if roomNow < 0 || slot < 0 && len(value) > roomNow {
		if err := in.SpillInline(b); err != nil {
			return err
		}
	}
	in.freeXattr(b, old, slot, value)
	x := makeXattr(name, value, slot)
	in.xattrBytes = append(rest, x...)
	if slot >= 0 {
		first := xattrView(x).firstBlock()
		for i := range xattrView(x).blocks() {
			block := make([]byte, BlockSize)
			copy(block, value[i*BlockSize:])
			b.Put(first+i, block)
		}
	}
	return nil
}

// freeXattr frees the blocks of old that a value in slot (-1: none; else that of old, if
// old has one) does not write again, and counts those it adds.
func (in *Inode) freeXattr(b Blocks, old xattrView, slot int, value []byte) {
	keep := uint64(0)
	if slot >= 0 {
		keep = uint64(len(value)+BlockSize-1) / BlockSize
		in.Blocks += keep
	}
	if old == nil || !old.spilled() {
		return
	}
	in.Blocks -= old.blocks()
	for i := keep; i < old.blocks(); i++ {
		b.Free(old.firstBlock() + i)
	}
}

// freeSlot is the slot of old if it has one, else the least that is free.
func (in *Inode) freeSlot(old xattrView) int {
	if old != nil && old.spilled() {
		return int(old.slot())
	}
	used := map[int]bool{}
	in.eachXattr(func(_ int, x xattrView) bool {
		if x.spilled() {
			used[int(x.slot())] = true
		}
		return true
	})
	slot := 0
	for used[slot] {
		slot++
	}
	return slot
}

// XattrRemove removes an attribute. KindNoAttr (nothing changed).
func (in *Inode) XattrRemove(b Blocks, name string) error {
	old, off := in.findXattr(name)
	if old == nil {
		return errors.Of(errors.KindNoAttr)
	}
	in.freeXattr(b, old, -1, nil)
	in.xattrBytes = slices.Concat(in.xattrBytes[:off], in.xattrBytes[off+len(old):])
	return nil
}

// XattrBlocks calls f for every run of blocks that holds a value outside of the inode.
func (in *Inode) XattrBlocks(f func(first, count uint64)) {
	in.eachXattr(func(_ int, x xattrView) bool {
		if x.spilled() {
			f(x.firstBlock(), x.blocks())
		}
		return true
	})
}

// XattrFreeAll removes all attributes (of an inode that is being freed).
func (in *Inode) XattrFreeAll(b Blocks) {
	in.eachXattr(func(_ int, x xattrView) bool {
		in.freeXattr(b, x, -1, nil)
		return true
	})
	in.xattrBytes = nil
}

// SpillInline moves what stands in Inline into blocks of the inode's vdisk: a
// directory's entries into a bucket, other data into block 0. An empty file just
// loses the flag. Nothing happens if the inode is not inline.
func (in *Inode) SpillInline(b Blocks) error {
	if in.Flags&FlagInline == 0 {
		return nil
	}
	if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return OpenDir(in, b).spill()
	}
	if len(in.Inline) > 0 {
		block := make([]byte, BlockSize)
		copy(block, in.Inline)
		b.Put(0, block)
		in.Blocks++
	}
	in.Inline, in.Flags = nil, in.Flags&^FlagInline
	return nil
}
