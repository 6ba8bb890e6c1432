package layout

import (
	"bytes"
	"encoding/binary"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// The table of a thin client's session, little-endian; it is the inline data of an inode with FlagClient:
//
//	 0  magic "DFSc"     4  version u16      6  slots u16
//	 8  who: 16 bytes   24  generation u64  32  zeros         60  CRC-32C of bytes 0..59
//	64  slots of 48 bytes, all zeros where none was used:
//	     0  number u64   8  inode u64   16  at u64   24  done u64   32  state u32   36  zeros   44  CRC-32C of bytes 0..43 and the slot's index u32
//
// A client numbers the requests of each slot; the slot keeps the number of the last one that changed something, and what came of it. It
// is written in the record of that change.
const (
	clientMagic   = "DFSc"
	clientVersion = 1
	clientHeader  = 64
	clientSlot    = 48
	// ClientSlots is the number of slots of a table: a client has at most so many changes under way.
	ClientSlots = 64
	// ClientTableSize is the length of a table, in bytes.
	ClientTableSize = clientHeader + ClientSlots*clientSlot
)

// ClientHead is the head of a table.
type ClientHead struct {
	Who        [16]byte // from the client's secret name
	Generation uint64   // rises whenever the client comes to a node: requests of an older one are void
}

// ClientState says how far the request of a slot went.
type ClientState uint32

// The states of a slot.
const (
	ClientNone ClientState = iota // never used
	ClientDone                    // the whole of it
	ClientPart                    // an append whose first Done bytes are written
)

// ClientSlot is what became of a request.
type ClientSlot struct {
	Number uint64
	State  ClientState
	Ino    uint64 // that was made or opened; 0: none
	At     uint64 // where a write began
	Done   uint64 // bytes done of a part
}

// NewClientTable makes an empty table.
func NewClientTable(h ClientHead) []byte {
	return ClientSetHead(make([]byte, ClientTableSize), h)
}

// ClientSetHead is the table with another head; the one given stays as it is.
func ClientSetHead(table []byte, h ClientHead) []byte {
	b, le := bytes.Clone(table), binary.LittleEndian
	copy(b, clientMagic)
	le.PutUint16(b[4:], clientVersion)
	le.PutUint16(b[6:], ClientSlots)
	copy(b[8:24], h.Who[:])
	le.PutUint64(b[24:], h.Generation)
	le.PutUint32(b[60:], crc.Checksum(b[:60]))
	return b
}

// DecodeClientHead checks the head of a table and its length. KindForeign, KindTooNew, KindCorrupt.
func DecodeClientHead(ino uint64, b []byte) (h ClientHead, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < clientHeader || string(b[:4]) != clientMagic:
		return h, errors.New(errors.KindForeign, "inode %d is no thin client's session; run dfs fsck", ino)
	case le.Uint16(b[4:]) > clientVersion:
		return h, errors.New(errors.KindTooNew, "the thin client's session %d has format version %d, this binary knows %d: upgrade it", ino, le.Uint16(b[4:]), clientVersion)
	case le.Uint32(b[60:]) != crc.Checksum(b[:60]) || le.Uint16(b[4:]) == 0 || le.Uint16(b[6:]) != ClientSlots || len(b) != ClientTableSize ||
		!bytes.Equal(b[32:60], zeroBlock[:28]):
		return h, errors.New(errors.KindCorrupt, "the head of the thin client's session %d is damaged; run dfs fsck", ino)
	}
	copy(h.Who[:], b[8:])
	h.Generation = le.Uint64(b[24:])
	return h, nil
}

func slotSum(slot int, b []byte) uint32 {
	return crc.Update(crc.Checksum(b[:44]), binary.LittleEndian.AppendUint32(nil, uint32(slot)))
}

// ClientSet is the table with another content of a slot; the one given stays as it is.
func ClientSet(table []byte, slot int, s ClientSlot) []byte {
	out, le := bytes.Clone(table), binary.LittleEndian
	b := out[clientHeader+slot*clientSlot:][:clientSlot]
	for i, v := range [...]uint64{s.Number, s.Ino, s.At, s.Done} {
		le.PutUint64(b[8*i:], v)
	}
	le.PutUint32(b[32:], uint32(s.State))
	le.PutUint32(b[44:], slotSum(slot, b))
	return out
}

// ClientGet decodes a slot of a table whose head was checked. KindCorrupt.
func ClientGet(ino uint64, table []byte, slot int) (s ClientSlot, err error) {
	b, le := table[clientHeader+slot*clientSlot:][:clientSlot], binary.LittleEndian
	if bytes.Equal(b, zeroBlock[:clientSlot]) {
		return s, nil
	}
	s = ClientSlot{Number: le.Uint64(b), Ino: le.Uint64(b[8:]), At: le.Uint64(b[16:]), Done: le.Uint64(b[24:]), State: ClientState(le.Uint32(b[32:]))}
	if le.Uint32(b[44:]) != slotSum(slot, b) || s.State == ClientNone || s.State > ClientPart || !bytes.Equal(b[36:44], zeroBlock[:8]) {
		return s, errors.New(errors.KindCorrupt, "slot %d of the thin client's session %d is damaged; run dfs fsck", slot, ino)
	}
	return s, nil
}

// CheckClient checks an inode with FlagClient and its whole table. KindCorrupt, KindForeign, KindTooNew.
func CheckClient(in *Inode) error {
	if in.Flags&FlagOrphan == 0 || in.Nlink != 0 || !in.IsRegular() {
		return errors.New(errors.KindCorrupt, "the thin client's session %d is no regular file without a name", in.Ino)
	}
	if _, err := DecodeClientHead(in.Ino, in.Inline); err != nil {
		return err
	}
	for i := range ClientSlots {
		if _, err := ClientGet(in.Ino, in.Inline, i); err != nil {
			return err
		}
	}
	return nil
}
