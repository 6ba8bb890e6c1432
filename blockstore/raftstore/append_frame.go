package raftstore

import (
	"encoding/binary"
	"io"

	"github.com/hashicorp/raft"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// Entries travel from the leader to a follower in frames of our own. A frame is a head, a body, and behind a
// request's body the data of its large entries, as they are. All integers are little-endian.
//
//	head     0  u32  magic "dfsA"            request  0  u64  term
//	         4  u8   version (1)                      8  u64  index of the entry before the first
//	         5  u8   1 request, 2 answer             16  u64  and its term
//	         6  u16  zero                            24  u64  the leader's commit index
//	         8  u32  length of the body              32  u32  raft's protocol version
//	        12  u32  CRC32C of the body              36  u16  length of the sender's id
//	        16  u32  CRC32C of the head so far       38  u16  length of its address
//	                                                 40  u16  length of the leader's address
//	answer   0  u64  term                            42  u16  number of entries
//	         8  u64  index of the last entry         44  id, address, leader, then the entries, each:
//	        16  u32  raft's protocol version             u64  index
//	        20  u16  flags: 1 success, 2 no backoff      u32  length of what follows here
//	        22  u16  length of the sender's id           u32  length of the data behind the body
//	        24  u16  length of its address               the entry as it stands in the log (logstore_seg.go); its
//	        26  u16  length of the error (0: none)       data is left out if there is any behind the body
//	        28  id, address, error
//
// The data behind the body has no checksum here: it is that of commands, which have theirs, and those are checked when they
// are applied. Everything else is in the body.
const (
	appendMagic    = 0x41736664 // "dfsA"
	appendVersion  = 1
	appendHead     = 20
	appendRequest  = 1
	appendAnswer   = 2
	requestFixed   = 44
	answerFixed    = 28
	entryFixed     = 16
	flagSuccess    = 1
	flagNoBackoff  = 2
	appendErrorMax = 4096

	// appendInlineMax: a command up to this size stands in the body, which saves a small batch the reads of its own.
	appendInlineMax = 4096
	appendBodyMax   = 1 << 20
	appendCountMax  = 128
	appendDataMax   = 32 << 20 // of one frame, behind its body
)

// sealFrame fills in the head of b, which has room for it in front of its body.
func sealFrame(b []byte, kind byte) {
	le := binary.LittleEndian
	le.PutUint32(b, appendMagic)
	b[4], b[5] = appendVersion, kind
	le.PutUint16(b[6:], 0)
	le.PutUint32(b[8:], uint32(len(b)-appendHead))
	le.PutUint32(b[12:], crc.Checksum(b[appendHead:]))
	le.PutUint32(b[16:], crc.Checksum(b[:16]))
}

// encodeAppend puts the frame of a request up to the end of its body into buf, which it may grow, and gives the data that
// follows: the entries' own. ok is false if a frame cannot hold the request.
func encodeAppend(buf []byte, a *raft.AppendEntriesRequest, behind [][]byte) (frame []byte, data [][]byte, size int, ok bool) {
	if len(a.ID) > 0xffff || len(a.Addr) > 0xffff || len(a.Leader) > 0xffff || len(a.Entries) > appendCountMax || a.ProtocolVersion < 0 {
		return buf, behind, 0, false
	}
	le := binary.LittleEndian
	b := append(buf[:0], make([]byte, appendHead)...)
	b = le.AppendUint64(b, a.Term)
	b = le.AppendUint64(b, a.PrevLogEntry)
	b = le.AppendUint64(b, a.PrevLogTerm)
	b = le.AppendUint64(b, a.LeaderCommitIndex)
	b = le.AppendUint32(b, uint32(a.ProtocolVersion))
	b = le.AppendUint16(b, uint16(len(a.ID)))
	b = le.AppendUint16(b, uint16(len(a.Addr)))
	b = le.AppendUint16(b, uint16(len(a.Leader)))
	b = le.AppendUint16(b, uint16(len(a.Entries)))
	b = append(append(append(b, a.ID...), a.Addr...), a.Leader...)
	for _, l := range a.Entries {
		at := len(b)
		b = appendLogHead(append(b, make([]byte, entryFixed)...), l)
		le.PutUint64(b[at:], l.Index)
		if l.Type == raft.LogCommand && len(l.Data) > appendInlineMax {
			le.PutUint32(b[at+12:], uint32(len(l.Data)))
			behind = append(behind, l.Data)
			size += len(l.Data)
			if len(l.Data) > entryBytesMax {
				return b, behind, 0, false
			}
		} else {
			b = append(b, l.Data...)
		}
		le.PutUint32(b[at+8:], uint32(len(b)-at-entryFixed))
		if len(b) > appendHead+appendBodyMax || size > appendDataMax {
			return b, behind, 0, false
		}
	}
	sealFrame(b, appendRequest)
	return b, behind, size + len(b), true
}

// encodeAppended is the frame of an answer.
func encodeAppended(buf []byte, resp *raft.AppendEntriesResponse, problem string) []byte {
	if resp == nil {
		resp = new(raft.AppendEntriesResponse)
	}
	if len(problem) > appendErrorMax {
		problem = problem[:appendErrorMax]
	}
	id, addr := resp.ID[:min(len(resp.ID), 0xffff)], resp.Addr[:min(len(resp.Addr), 0xffff)]
	flags := uint16(0)
	if resp.Success {
		flags |= flagSuccess
	}
	if resp.NoRetryBackoff {
		flags |= flagNoBackoff
	}
	le := binary.LittleEndian
	b := append(buf[:0], make([]byte, appendHead)...)
	b = le.AppendUint64(b, resp.Term)
	b = le.AppendUint64(b, resp.LastLog)
	b = le.AppendUint32(b, uint32(max(resp.ProtocolVersion, 0)))
	b = le.AppendUint16(b, flags)
	b = le.AppendUint16(b, uint16(len(id)))
	b = le.AppendUint16(b, uint16(len(addr)))
	b = le.AppendUint16(b, uint16(len(problem)))
	b = append(append(append(b, id...), addr...), problem...)
	sealFrame(b, appendAnswer)
	return b
}

// readFrame reads the head and the body of a frame. Errors: the reader's, io.EOF if it ends before the frame begins; KindForeign,
// KindTooNew, KindCorrupt. It takes memory for a body only when the head's checksum fits.
func readFrame(r io.Reader, kind byte) ([]byte, error) {
	le := binary.LittleEndian
	var head [appendHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if le.Uint32(head[:]) != appendMagic {
		return nil, errors.New(errors.KindForeign, "what arrives is no frame of log entries")
	}
	if head[4] > appendVersion {
		return nil, errors.New(errors.KindTooNew, "a frame of log entries has version %d, this program knows %d: upgrade this node", head[4], appendVersion)
	}
	size := le.Uint32(head[8:])
	if le.Uint32(head[16:]) != crc.Checksum(head[:16]) || head[4] == 0 || head[5] != kind || le.Uint16(head[6:]) != 0 || size > appendBodyMax {
		return nil, errors.New(errors.KindCorrupt, "the head of a frame of log entries is damaged")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, noEOF(err)
	}
	if le.Uint32(head[12:]) != crc.Checksum(body) {
		return nil, errors.New(errors.KindCorrupt, "a frame of log entries is damaged: its checksum does not fit")
	}
	return body, nil
}

// noEOF tells the end inside a frame from the end behind one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

var errFrame = errors.New(errors.KindCorrupt, "a frame of log entries makes no sense")

// decodeAppend decodes the body of a request, which it keeps: what stands in it is not copied. The entries behind are still without
// their data, of which sizes tells the lengths.
func decodeAppend(b []byte) (a *raft.AppendEntriesRequest, behind []*raft.Log, sizes []int, err error) {
	le := binary.LittleEndian
	if len(b) < requestFixed {
		return nil, nil, nil, errFrame
	}
	a = &raft.AppendEntriesRequest{Term: le.Uint64(b), PrevLogEntry: le.Uint64(b[8:]), PrevLogTerm: le.Uint64(b[16:]), LeaderCommitIndex: le.Uint64(b[24:])}
	a.ProtocolVersion = raft.ProtocolVersion(le.Uint32(b[32:]))
	names := [...]*[]byte{&a.ID, &a.Addr, &a.Leader}
	var ok bool
	count, rest := int(le.Uint16(b[42:])), b[requestFixed:]
	for i, to := range names {
		if *to, rest, ok = cut(rest, uint64(le.Uint16(b[36+2*i:]))); !ok {
			return nil, nil, nil, errFrame
		}
	}
	if count > appendCountMax || count*entryFixed > len(rest) {
		return nil, nil, nil, errFrame
	}
	logs, total := make([]raft.Log, count), 0
	a.Entries = make([]*raft.Log, count)
	for i := range logs {
		if len(rest) < entryFixed {
			return nil, nil, nil, errFrame
		}
		index, far := le.Uint64(rest), le.Uint32(rest[12:])
		var entry []byte
		if entry, rest, ok = cut(rest[entryFixed:], uint64(le.Uint32(rest[8:]))); !ok {
			return nil, nil, nil, errFrame
		}
		l := &logs[i]
		if len(entry) == 0 {
			return nil, nil, nil, errFrame
		}
		if err := decodeLog(index, entry, l); err != nil {
			return nil, nil, nil, err
		}
		if far > 0 {
			if total += int(far); len(l.Data) > 0 || far > entryBytesMax || total > appendDataMax {
				return nil, nil, nil, errFrame
			}
			behind, sizes = append(behind, l), append(sizes, int(far))
		}
		a.Entries[i] = l
	}
	if len(rest) > 0 {
		return nil, nil, nil, errFrame
	}
	return a, behind, sizes, nil
}

// cut takes n bytes off the front of b.
func cut(b []byte, n uint64) (front, rest []byte, ok bool) {
	if n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n:n], b[n:], true
}

// readAppend reads one request; follows is told, once head and body are there, how many bytes of data are still to come. Each large
// entry is read straight into a buffer of its own, which is taken when it is that entry's turn.
func readAppend(r io.Reader, follows func(bytes int)) (*raft.AppendEntriesRequest, error) {
	b, err := readFrame(r, appendRequest)
	if err != nil {
		return nil, err
	}
	a, behind, sizes, err := decodeAppend(b)
	if err != nil {
		return nil, err
	}
	left := 0
	for _, n := range sizes {
		left += n
	}
	follows(left)
	for i, l := range behind {
		l.Data = make([]byte, sizes[i])
		if _, err := io.ReadFull(r, l.Data); err != nil {
			return nil, noEOF(err)
		}
	}
	return a, nil
}

// readAppended reads an answer into resp; problem is the error of the other side, "" if none.
func readAppended(r io.Reader, resp *raft.AppendEntriesResponse) (problem string, err error) {
	b, err := readFrame(r, appendAnswer)
	if err != nil {
		return "", noEOF(err)
	}
	le := binary.LittleEndian
	if len(b) < answerFixed {
		return "", errFrame
	}
	id, addr, text := uint64(le.Uint16(b[22:])), uint64(le.Uint16(b[24:])), uint64(le.Uint16(b[26:]))
	flags := le.Uint16(b[20:])
	if uint64(len(b)) != answerFixed+id+addr+text || flags&^(flagSuccess|flagNoBackoff) != 0 {
		return "", errFrame
	}
	*resp = raft.AppendEntriesResponse{Term: le.Uint64(b), LastLog: le.Uint64(b[8:]), Success: flags&flagSuccess != 0, NoRetryBackoff: flags&flagNoBackoff != 0}
	resp.ProtocolVersion = raft.ProtocolVersion(le.Uint32(b[16:]))
	b = b[answerFixed:]
	resp.ID, resp.Addr = b[:id:id], b[id:id+addr:id+addr]
	return string(b[id+addr:]), nil
}
