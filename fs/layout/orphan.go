package layout

import (
	"bytes"
	"encoding/binary"

	"dfs/internal/errors"
	"dfs/wal"
)

// An orphan page, little-endian:
//
//	 0  magic "DFSo"   4  version u16   6 zeros   8  writer u64   16  zeros
//	32  OrphanSlots slots u64: inode number | kind << 61; 0 is free
//
// Page n of a writer's list is block n of its vdisk. A page is made when its first slot
// is set; pages are freed with the list, when all are empty.
const (
	orphanMagic   = "DFSo"
	orphanVersion = 1
	orphanHeader  = 32
	// OrphanSlots is the number of slots of a page.
	OrphanSlots = (BlockSize - orphanHeader) / 8
)

// OrphanKind tells what is to be done with an orphan.
type OrphanKind uint8

// The kinds of orphan.
const (
	OrphanUnlinked   OrphanKind = iota + 1 // nlink is 0: free it when nobody has it open
	OrphanTruncating                       // free its blocks from TrimFrom on
)

// Orphan is an entry of an orphan list.
type Orphan struct {
	Ino  uint64
	Kind OrphanKind
}

func (o Orphan) encode() uint64 { return o.Ino | uint64(o.Kind)<<61 }

// NewOrphanPage makes an empty page of a writer's list.
func NewOrphanPage(writer uint64) []byte {
	b := make([]byte, BlockSize)
	copy(b, orphanMagic)
	binary.LittleEndian.PutUint16(b[4:], orphanVersion)
	binary.LittleEndian.PutUint64(b[8:], writer)
	return b
}

// OrphanSet is the change that puts o into a slot (0..OrphanSlots-1) of a page
// that is there; the zero Orphan clears the slot.
func OrphanSet(writer, page uint64, slot int, o Orphan) wal.Range {
	return wal.Range{
		Addr: OrphanAddr(writer, page), Off: uint32(orphanHeader + 8*slot),
		Data: binary.LittleEndian.AppendUint64(nil, o.encode()),
	}
}

// SetOrphan puts o into a slot of a page in memory; the zero Orphan clears it.
func SetOrphan(page []byte, slot int, o Orphan) {
	binary.LittleEndian.PutUint64(page[orphanHeader+8*slot:], o.encode())
}

// DecodeOrphans returns the content of all OrphanSlots slots of a page, free
// ones as the zero Orphan. KindNotExist (all zeros: no such page), KindForeign, KindTooNew, KindCorrupt.
func DecodeOrphans(writer uint64, page []byte) ([]Orphan, error) {
	if len(page) != BlockSize {
		return nil, errors.New(errors.KindCorrupt, "orphan page of writer %d has %d bytes", writer, len(page))
	}
	le := binary.LittleEndian
	if string(page[:4]) != orphanMagic {
		if bytes.Equal(page, zeroBlock[:]) {
			return nil, errors.Of(errors.KindNotExist)
		}
		return nil, errors.New(errors.KindForeign, "orphan page of writer %d is not one; run dfs fsck", writer)
	}
	if v := le.Uint16(page[4:]); v > orphanVersion {
		return nil, errors.New(errors.KindTooNew, "orphan list of writer %d has format version %d, this binary knows %d: upgrade it", writer, v, orphanVersion)
	} else if v == 0 || le.Uint64(page[8:]) != writer {
		return nil, errors.New(errors.KindCorrupt, "orphan page of writer %d is damaged; run dfs fsck", writer)
	}
	out := make([]Orphan, OrphanSlots)
	for i := range out {
		v := le.Uint64(page[orphanHeader+8*i:])
		o := Orphan{Ino: v & MaxIno, Kind: OrphanKind(v >> 61)}
		if v != 0 && (o.Ino == 0 || o.Kind == 0 || o.Kind > OrphanTruncating) {
			return nil, errors.New(errors.KindCorrupt, "orphan list of writer %d is damaged in slot %d; run dfs fsck", writer, i)
		}
		out[i] = o
	}
	return out, nil
}
