package layout

import (
	"encoding/binary"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// The superblock, little-endian:
//
//	 0  magic "DFSsuper"   8  version u32   12  zeros u32
//	16  uuid              32  features u64: unknown bits refuse the mount
//	40  features that an older binary may ignore u64
//	48  made: seconds i64, nanoseconds u32   60  flags u32 (bit 0: the root has been made)
//	64  zeros           4092  CRC-32C of bytes 0..4091
const (
	superMagic   = "DFSsuper"
	superVersion = 1
	superRoot    = 1
	superCRC     = BlockSize - 4
	// FeaturesKnown are the bits of Super.Features that this binary knows.
	FeaturesKnown uint64 = 0
)

// Super is the superblock. It is written when the file system is made, in the
// record that makes the root directory.
type Super struct {
	UUID             [16]byte
	Features         uint64 // a bit that a binary does not know refuses the mount
	FeaturesOptional uint64 // bits that a binary may ignore
	Made             Time
	RootMade         bool
}

// Encode returns the superblock's block.
func (s *Super) Encode() []byte {
	b, le := make([]byte, BlockSize), binary.LittleEndian
	copy(b, superMagic)
	le.PutUint32(b[8:], superVersion)
	copy(b[16:32], s.UUID[:])
	le.PutUint64(b[32:], s.Features)
	le.PutUint64(b[40:], s.FeaturesOptional)
	le.PutUint64(b[48:], uint64(s.Made.Sec))
	le.PutUint32(b[56:], s.Made.Nsec)
	if s.RootMade {
		le.PutUint32(b[60:], superRoot)
	}
	le.PutUint32(b[superCRC:], crc.Checksum(b[:superCRC]))
	return b
}

// DecodeSuper decodes the superblock. KindNotExist (all zeros: no file system yet),
// KindForeign, KindTooNew, KindCorrupt.
func DecodeSuper(block []byte) (*Super, error) {
	if len(block) != BlockSize {
		return nil, errors.New(errors.KindCorrupt, "superblock of %d bytes", len(block))
	}
	b, le := block, binary.LittleEndian
	if string(b[:8]) != superMagic {
		if string(b) == string(zeroBlock[:]) {
			return nil, errors.New(errors.KindNotExist, "the store holds no file system yet")
		}
		return nil, errors.New(errors.KindForeign, "the superblock is not of dfs")
	}
	if v := le.Uint32(b[8:]); v > superVersion {
		return nil, errors.New(errors.KindTooNew, "the file system has format version %d, this binary knows %d: upgrade it", v, superVersion)
	}
	flags := le.Uint32(b[60:])
	if le.Uint32(b[superCRC:]) != crc.Checksum(b[:superCRC]) || le.Uint32(b[8:]) == 0 || le.Uint32(b[56:]) >= 1e9 {
		return nil, errors.New(errors.KindCorrupt, "the superblock is damaged; run dfs fsck")
	}
	s := &Super{
		UUID: [16]byte(b[16:32]), Features: le.Uint64(b[32:]), FeaturesOptional: le.Uint64(b[40:]),
		Made: Time{int64(le.Uint64(b[48:])), le.Uint32(b[56:])}, RootMade: flags&superRoot != 0,
	}
	if unknown := s.Features &^ FeaturesKnown; unknown != 0 {
		return nil, errors.New(errors.KindTooNew, "the file system uses features %#x that this binary does not know: upgrade it", unknown)
	}
	return s, nil
}
