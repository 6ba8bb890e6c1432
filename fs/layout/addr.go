package layout

import "dfs/wal"

// BlockSize is the size of a block, in bytes.
const BlockSize = wal.BlockSize

// Inode numbers. Those below FirstIno are reserved; MaxIno is the greatest
// that the layout can address.
const (
	RootIno  uint64 = 1
	FirstIno uint64 = 16
	MaxIno   uint64 = 1<<61 - 1
)

// Limits that applications see.
const (
	// MaxFileSize is the greatest size of a file, in bytes.
	MaxFileSize = 1 << 60
	// NameMax is the greatest length of a name in a directory, in bytes.
	NameMax = 255
	// SymlinkMax is the greatest length of a symbolic link's target, in bytes.
	SymlinkMax = 4095
	// LinkMax is the greatest link count of a file, and of a directory (2 + its subdirectories); as in XFS.
	LinkMax = 1<<31 - 1
	// XattrNameMax and XattrValueMax bound extended attributes, in bytes, as Linux does.
	XattrNameMax  = 255
	XattrValueMax = 64 << 10
)

// Block numbers inside the vdisk of an inode.
const (
	// DataBlocksMax is the number of blocks that a file of MaxFileSize has.
	DataBlocksMax uint64 = MaxFileSize / BlockSize
	// OverflowBase is the first overflow block of a directory.
	OverflowBase uint64 = 1 << 50
	// XattrBase is the first block of large extended attributes: slot s has the
	// XattrSlotBlocks blocks from XattrBase + s*XattrSlotBlocks on.
	XattrBase       uint64 = 1 << 51
	XattrSlotBlocks uint64 = XattrValueMax / BlockSize
	// XattrEnd is the first block number that no inode uses.
	XattrEnd = XattrBase + (1<<16)*XattrSlotBlocks
)

// Vdisk numbers that are not inode numbers.
const (
	SuperVDisk      uint64 = 1 << 61
	OrphanVDiskBit  uint64 = 1 << 62
	TableVDiskBit   uint64 = 1 << 63
	tableBlockBits         = 40
	tableBlockMask  uint64 = 1<<tableBlockBits - 1
	tableVDiskLimit uint64 = TableVDiskBit | MaxIno>>tableBlockBits
)

// VDiskKind tells what a vdisk holds.
type VDiskKind uint8

// The kinds of vdisk.
const (
	VDiskUnknown VDiskKind = iota // nothing of this layout
	VDiskInode                    // bytes of one inode; the vdisk's number is the inode's
	VDiskSuper
	VDiskOrphans
	VDiskTable
)

// InodeAddr is the block that holds inode ino.
func InodeAddr(ino uint64) wal.Addr {
	return wal.Addr{VDisk: TableVDiskBit | ino>>tableBlockBits, Block: ino & tableBlockMask}
}

// InodeAt is the inode number whose inode lies at a; ok is false if a is no place for an inode.
func InodeAt(a wal.Addr) (ino uint64, ok bool) {
	if KindOfVDisk(a.VDisk) != VDiskTable || a.Block > tableBlockMask {
		return 0, false
	}
	ino = (a.VDisk&^TableVDiskBit)<<tableBlockBits | a.Block
	return ino, ino != 0
}

// DataAddr is block number block of the inode's own vdisk.
func DataAddr(ino, block uint64) wal.Addr { return wal.Addr{VDisk: ino, Block: block} }

// SuperAddr is the superblock's place.
func SuperAddr() wal.Addr { return wal.Addr{VDisk: SuperVDisk} }

// OrphanAddr is page number page of the orphan list of a writer (below 1<<61).
func OrphanAddr(writer, page uint64) wal.Addr {
	return wal.Addr{VDisk: OrphanVDiskBit | writer, Block: page}
}

// KindOfVDisk tells what vdisk v holds.
func KindOfVDisk(v uint64) VDiskKind {
	switch {
	case v&TableVDiskBit != 0:
		if v <= tableVDiskLimit {
			return VDiskTable
		}
	case v&OrphanVDiskBit != 0:
		if v&SuperVDisk == 0 {
			return VDiskOrphans
		}
	case v == SuperVDisk:
		return VDiskSuper
	case v != 0 && v <= MaxIno:
		return VDiskInode
	}
	return VDiskUnknown
}

// WriterOf is the writer whose orphan list is vdisk v (of kind VDiskOrphans).
func WriterOf(v uint64) uint64 { return v &^ OrphanVDiskBit }
