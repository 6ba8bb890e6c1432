package device

import (
	"encoding/binary"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// The header file, device.meta, binds a directory to one node of one cluster:
//
//	0   8  magic "dfs\x89dev\n"
//	8   4  format version, little-endian
//	12  4  CRC32C of everything from byte 16 on
//	16  16 device id: random, also in the chunk map, so that files of two devices cannot be mixed
//	32  2  length of the node id, then the node id
//	    2  length of the cluster id, then the cluster id
const (
	headerMagic   = "dfs\x89dev\n"
	headerVersion = 1
	headerIDMax   = 1024 // longest node or cluster id, bytes
	headerFixed   = 32
)

type header struct {
	deviceID  [16]byte
	nodeID    string
	clusterID string
}

func (h *header) encode() []byte {
	b := make([]byte, headerFixed, headerFixed+4+len(h.nodeID)+len(h.clusterID))
	copy(b, headerMagic)
	binary.LittleEndian.PutUint32(b[8:], headerVersion)
	copy(b[16:], h.deviceID[:])
	for _, s := range []string{h.nodeID, h.clusterID} {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	binary.LittleEndian.PutUint32(b[12:], crc.Checksum(b[16:]))
	return b
}

// decodeHeader reads a header. KindForeign: not one of ours; KindTooNew; KindCorrupt.
func decodeHeader(b []byte) (*header, error) {
	if len(b) < len(headerMagic) || string(b[:len(headerMagic)]) != headerMagic {
		return nil, errors.New(errors.KindForeign, "not the header of a dfs device")
	}
	if len(b) < headerFixed {
		return nil, errors.New(errors.KindCorrupt, "device header is cut off at %d bytes", len(b))
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > headerVersion {
		return nil, errors.New(errors.KindTooNew, "device format version %d; this program knows up to %d: use a newer dfs", v, headerVersion)
	} else if v == 0 {
		return nil, errors.New(errors.KindCorrupt, "device header names format version 0")
	}
	if binary.LittleEndian.Uint32(b[12:]) != crc.Checksum(b[16:]) {
		return nil, errors.New(errors.KindCorrupt, "device header does not fit its checksum")
	}
	h := &header{}
	copy(h.deviceID[:], b[16:])
	rest := b[headerFixed:]
	for _, s := range []*string{&h.nodeID, &h.clusterID} {
		if len(rest) < 2 {
			return nil, errors.New(errors.KindCorrupt, "device header is cut off")
		}
		n := int(binary.LittleEndian.Uint16(rest))
		if n > headerIDMax || len(rest) < 2+n {
			return nil, errors.New(errors.KindCorrupt, "device header names an id of %d bytes", n)
		}
		*s, rest = string(rest[2:2+n]), rest[2+n:]
	}
	if len(rest) != 0 {
		return nil, errors.New(errors.KindCorrupt, "device header has %d bytes too many", len(rest))
	}
	return h, nil
}
