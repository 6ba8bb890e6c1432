package raftstore

import (
	"encoding/binary"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// A manifest is all that a Raft snapshot holds: the blocks stay on the devices, and
// a replica that is too far behind pulls them from one of the sources.
//
//	0   4         8      16        24            28
//	+---+---------+------+---------+-------------+----------------------+---------------+-------+
//	|dfsM| version | CRC32C | applied | sources | (u16 length, bytes)…  | u32 length    | state |
//	+---+---------+------+---------+-------------+----------------------+---------------+-------+
//
// all little-endian; the CRC32C covers everything behind it.
type manifest struct {
	Applied uint64   // the index of the checkpoint
	Sources []string // addresses (host:port) of replicas
	State   []byte   // the encoded state machine at Applied
}

const (
	manifestMagic    = 0x4d736664 // "dfsM"
	manifestVersion  = 1
	manifestBytesMax = 256 << 20
	manifestHead     = 12
	sourcesMax       = 1024
)

func (m *manifest) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, manifestHead, manifestHead+16+len(m.State)+64*len(m.Sources))
	b = le.AppendUint64(b, m.Applied)
	b = le.AppendUint32(b, uint32(len(m.Sources)))
	for _, s := range m.Sources {
		b = le.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	b = le.AppendUint32(b, uint32(len(m.State)))
	b = append(b, m.State...)
	le.PutUint32(b, manifestMagic)
	le.PutUint32(b[4:], manifestVersion)
	le.PutUint32(b[8:], crc.Checksum(b[manifestHead:]))
	return b
}

// decodeManifest: KindForeign, KindTooNew, KindCorrupt. State aliases b.
func decodeManifest(b []byte) (*manifest, error) {
	le := binary.LittleEndian
	if len(b) < manifestHead || le.Uint32(b) != manifestMagic {
		return nil, errors.New(errors.KindForeign, "the snapshot is not a manifest of dfs")
	}
	if v := le.Uint32(b[4:]); v > manifestVersion {
		return nil, errors.New(errors.KindTooNew, "the snapshot's manifest has version %d, this program knows %d: upgrade this node", v, manifestVersion)
	}
	if le.Uint32(b[8:]) != crc.Checksum(b[manifestHead:]) {
		return nil, errors.New(errors.KindCorrupt, "the snapshot's manifest is damaged: its checksum does not fit")
	}
	m := new(manifest)
	b = b[manifestHead:]
	short := errors.New(errors.KindCorrupt, "the snapshot's manifest ends too early")
	if len(b) < 12 {
		return nil, short
	}
	m.Applied = le.Uint64(b)
	count := le.Uint32(b[8:])
	b = b[12:]
	if count > sourcesMax {
		return nil, errors.New(errors.KindCorrupt, "the snapshot's manifest names %d sources", count)
	}
	for range count {
		if len(b) < 2 || len(b) < 2+int(le.Uint16(b)) {
			return nil, short
		}
		n := 2 + int(le.Uint16(b))
		m.Sources = append(m.Sources, string(b[2:n]))
		b = b[n:]
	}
	if len(b) < 4 || uint64(len(b)) != 4+uint64(le.Uint32(b)) {
		return nil, short
	}
	m.State = b[4:]
	return m, nil
}
