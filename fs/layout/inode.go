package layout

import (
	"bytes"
	"encoding/binary"
	"syscall"
	"time"

	"dfs/internal/errors"
)

// The inode block, little-endian:
//
//	   0  magic "DFSi"      4  version u16       6  flags u16
//	   8  ino u64          16  mode u32         20  uid u32
//	  24  gid u32          28  nlink u32        32  size u64
//	  40  blocks u64       48  rdev u32         52  inline length u16, xattr length u16
//	  56  atime s i64      64  mtime s          72  ctime s            80  btime s
//	  88  atime ns u32     92  mtime ns         96  ctime ns          100  btime ns
//	 104  change u64      112  parent u64      120  trim-from u64
//	 128  directory: hash seed u64, buckets u64, entries u64, live bytes u64, next overflow u64, overflow blocks u64
//	 176  zeros
//	 256  inline data, growing up
//	      zeros
//	4096  xattr entries, growing down (the area ends at 4096)
const (
	inodeMagic   = "DFSi"
	inodeVersion = 1
	headerSize   = 256

	// BodySize is what inline data and extended attributes of an inode share, in bytes.
	BodySize = BlockSize - headerSize
	// InlineMax is the most inline data that an inode without extended
	// attributes takes, in bytes; xattrMin bytes stay for attributes.
	InlineMax = BodySize - xattrMin
	xattrMin  = 256
)

// Flags of an inode.
type Flags uint16

// The flags. FlagInline: the data (a file's bytes, a symlink's target, a
// directory's entries) stands in Inode.Inline. FlagOrphan: nlink is 0 and the
// inode stands in an orphan list. FlagTruncating: blocks from TrimFrom on are
// still to be freed, and the inode stands in an orphan list. FlagClient: the inode is
// a thin client's session, an orphan whose inline data is its table (client.go).
const (
	FlagInline Flags = 1 << iota
	FlagOrphan
	FlagTruncating
	FlagClient
	flagsKnown = 1<<iota - 1
)

// Time is a point in time: seconds since 1970 and nanoseconds (below 1e9).
type Time struct {
	Sec  int64
	Nsec uint32
}

// TimeOf is t as a Time.
func TimeOf(t time.Time) Time { return Time{t.Unix(), uint32(t.Nanosecond())} }

// Time is t as a time.Time (UTC).
func (t Time) Time() time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// Before reports whether t is earlier than u.
func (t Time) Before(u Time) bool {
	return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec
}

// Later returns now, or the next nanosecond after prev if now is not later:
// times of one inode strictly increase.
func Later(prev, now Time) Time {
	if prev.Before(now) {
		return now
	}
	if prev.Nsec++; prev.Nsec == 1e9 {
		prev.Sec, prev.Nsec = prev.Sec+1, 0
	}
	return prev
}

// DirHeader is what the inode of a directory keeps of its entries.
type DirHeader struct {
	Seed         uint64 // of the name hash; random, set when the directory is made
	Buckets      uint64 // hash buckets, blocks 0..Buckets-1; 0 while inline
	Entries      uint64 // names in it
	LiveBytes    uint64 // bytes of their entries
	NextOverflow uint64 // number (less OverflowBase) of the next overflow block
	Overflows    uint64 // overflow blocks in use
}

// Inode is a decoded inode. A plain copy of the struct is an independent copy:
// Inline is never written in place, but replaced.
type Inode struct {
	Ino        uint64
	Mode       uint32 // type and permission bits, as st_mode
	UID, GID   uint32
	Nlink      uint32
	Rdev       uint32
	Flags      Flags
	Size       uint64 // bytes
	Blocks     uint64 // present blocks of the inode's own vdisk
	Atime      Time
	Mtime      Time
	Ctime      Time
	Btime      Time
	Change     uint64 // rises with every change
	Parent     uint64 // of a directory: where ".." leads
	TrimFrom   uint64 // with FlagTruncating: first block to free
	Dir        DirHeader
	Inline     []byte // with FlagInline; len(Inline) == Size for files and symlinks (until they are freed). Replace, never write in place.
	xattrBytes []byte // encoded entries; see xattr.go
}

// IsDir reports whether the inode is a directory.
func (in *Inode) IsDir() bool { return in.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// IsRegular reports whether the inode is a regular file.
func (in *Inode) IsRegular() bool { return in.Mode&syscall.S_IFMT == syscall.S_IFREG }

// IsSymlink reports whether the inode is a symbolic link.
func (in *Inode) IsSymlink() bool { return in.Mode&syscall.S_IFMT == syscall.S_IFLNK }

// InlineRoom is how many bytes Inline may hold now: at most InlineMax, and
// less where extended attributes use more than their minimum.
func (in *Inode) InlineRoom() int { return min(InlineMax, BodySize-len(in.xattrBytes)) }

// NewDir makes in (with Ino and Mode set) an empty inline directory under parent,
// with the given random seed. Its link count is 2.
func (in *Inode) NewDir(parent, seed uint64) {
	in.Parent, in.Nlink, in.Flags = parent, 2, FlagInline
	in.Dir = DirHeader{Seed: seed}
	in.Size, in.Inline = dirSize(in.Dir), nil
}

// EncodeInto writes the whole block of in into block (BlockSize bytes).
func (in *Inode) EncodeInto(block []byte) {
	b, le := block[:BlockSize], binary.LittleEndian
	copy(b, inodeMagic)
	le.PutUint16(b[4:], inodeVersion)
	le.PutUint16(b[6:], uint16(in.Flags))
	le.PutUint64(b[8:], in.Ino)
	for i, v := range [...]uint32{in.Mode, in.UID, in.GID, in.Nlink} {
		le.PutUint32(b[16+4*i:], v)
	}
	le.PutUint64(b[32:], in.Size)
	le.PutUint64(b[40:], in.Blocks)
	le.PutUint32(b[48:], in.Rdev)
	le.PutUint16(b[52:], uint16(len(in.Inline)))
	le.PutUint16(b[54:], uint16(len(in.xattrBytes)))
	for i, t := range [...]Time{in.Atime, in.Mtime, in.Ctime, in.Btime} {
		le.PutUint64(b[56+8*i:], uint64(t.Sec))
		le.PutUint32(b[88+4*i:], t.Nsec)
	}
	d := &in.Dir
	for i, v := range [...]uint64{in.Change, in.Parent, in.TrimFrom,
		d.Seed, d.Buckets, d.Entries, d.LiveBytes, d.NextOverflow, d.Overflows} {
		le.PutUint64(b[104+8*i:], v)
	}
	clear(b[176:headerSize])
	n := copy(b[headerSize:], in.Inline)
	x := BlockSize - len(in.xattrBytes)
	clear(b[headerSize+n : x])
	copy(b[x:], in.xattrBytes)
}

// Encode is EncodeInto into a fresh block.
func (in *Inode) Encode() []byte {
	b := make([]byte, BlockSize)
	in.EncodeInto(b)
	return b
}

// DecodeInode decodes the block of inode ino; the result keeps no reference to
// it. Errors: KindNotExist (the block is all zeros: the inode is free), KindForeign, KindTooNew, KindCorrupt.
func DecodeInode(ino uint64, block []byte) (*Inode, error) {
	if len(block) != BlockSize {
		return nil, errors.New(errors.KindCorrupt, "inode %d: block of %d bytes", ino, len(block))
	}
	if string(block[:4]) != inodeMagic {
		if bytes.Equal(block, zeroBlock[:]) {
			return nil, errors.New(errors.KindNotExist, "inode %d is free", ino)
		}
		return nil, errors.New(errors.KindForeign, "inode %d: its block is no inode; run dfs fsck", ino)
	}
	b, le := block, binary.LittleEndian
	if v := le.Uint16(b[4:]); v > inodeVersion {
		return nil, errors.New(errors.KindTooNew, "inode %d has format version %d, this binary knows %d: upgrade it", ino, v, inodeVersion)
	} else if v == 0 {
		return nil, corruptInode(ino, "format version 0")
	}
	in := &Inode{
		Flags: Flags(le.Uint16(b[6:])), Ino: le.Uint64(b[8:]),
		Mode: le.Uint32(b[16:]), UID: le.Uint32(b[20:]), GID: le.Uint32(b[24:]), Nlink: le.Uint32(b[28:]),
		Size: le.Uint64(b[32:]), Blocks: le.Uint64(b[40:]), Rdev: le.Uint32(b[48:]),
		Change: le.Uint64(b[104:]), Parent: le.Uint64(b[112:]), TrimFrom: le.Uint64(b[120:]),
		Dir: DirHeader{Seed: le.Uint64(b[128:]), Buckets: le.Uint64(b[136:]), Entries: le.Uint64(b[144:]),
			LiveBytes: le.Uint64(b[152:]), NextOverflow: le.Uint64(b[160:]), Overflows: le.Uint64(b[168:])},
	}
	for i, t := range [...]*Time{&in.Atime, &in.Mtime, &in.Ctime, &in.Btime} {
		*t = Time{int64(le.Uint64(b[56+8*i:])), le.Uint32(b[88+4*i:])}
		if t.Nsec >= 1e9 {
			return nil, corruptInode(ino, "nanoseconds out of range")
		}
	}
	inlineLen, xattrLen := int(le.Uint16(b[52:])), int(le.Uint16(b[54:]))
	if inlineLen+xattrLen > BodySize {
		return nil, corruptInode(ino, "inline data and attributes overlap")
	}
	if !bytes.Equal(b[176:headerSize], zeroBlock[:headerSize-176]) {
		return nil, corruptInode(ino, "reserved bytes are not zero")
	}
	if inlineLen > 0 {
		in.Inline = bytes.Clone(b[headerSize : headerSize+inlineLen])
	}
	if xattrLen > 0 {
		in.xattrBytes = bytes.Clone(b[BlockSize-xattrLen:])
	}
	return in, in.validate(ino)
}

// dying reports whether the inode is unlinked and its blocks are being freed: then its
// size says nothing about what is left of it.
func (in *Inode) dying() bool { return in.Flags&FlagOrphan != 0 && in.Flags&FlagTruncating != 0 }

// validate checks what the decoded fields must satisfy together.
func (in *Inode) validate(ino uint64) error {
	bad := ""
	inline := in.Flags&FlagInline != 0
	sized := !in.dying()
	switch {
	case in.Ino != ino:
		bad = "the block names another inode"
	case ino == 0 || ino > MaxIno:
		bad = "inode number out of range"
	case in.Flags&^flagsKnown != 0:
		return errors.New(errors.KindTooNew, "inode %d has flags %#x that this binary does not know: upgrade it", ino, in.Flags)
	case !validType(in.Mode):
		bad = "unknown file type"
	case in.Nlink > LinkMax:
		bad = "link count out of range"
	case in.Size > MaxFileSize:
		bad = "size out of range"
	case !inline && len(in.Inline) != 0:
		bad = "inline data without the flag"
	case inline && !in.IsDir() && sized && uint64(len(in.Inline)) != in.Size:
		bad = "inline data and size differ"
	case inline && !in.IsDir() && !in.IsRegular() && !in.IsSymlink():
		bad = "inline data in a special file"
	case in.IsSymlink() && (in.Size == 0 && sized || in.Size > SymlinkMax):
		bad = "target length of a symlink out of range"
	case in.Flags&FlagTruncating == 0 && in.TrimFrom != 0 || in.TrimFrom > DataBlocksMax:
		bad = "trim mark without the flag"
	case !in.IsDir() && (in.Dir != DirHeader{} || in.Parent != 0):
		bad = "directory header in another type"
	}
	if bad != "" {
		return corruptInode(ino, bad)
	}
	if err := in.checkXattrs(); err != nil {
		return err
	}
	if in.IsDir() {
		return in.checkDirHeader()
	}
	return nil
}

const modeDir uint32 = syscall.S_IFDIR

// validType reports whether the type bits of mode are one of Linux's types.
func validType(mode uint32) bool {
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
		return mode&^(syscall.S_IFMT|0o7777) == 0
	}
	return false
}

// corruptInode is the error for damage in an inode.
func corruptInode(ino uint64, what string) error {
	return errors.New(errors.KindCorrupt, "inode %d is damaged: %s; run dfs fsck", ino, what)
}
