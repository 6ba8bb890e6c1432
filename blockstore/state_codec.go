package blockstore

import (
	"encoding/binary"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// The encoded state, as a snapshot holds it. Integers are little-endian, "uv" is
// a minimal uvarint. The order of everything is fixed, so replicas at one index
// have the same bytes.
//
//	 0  u32  magic "dfsS"
//	 4  u16  version (1)
//	 6  u16  zero
//	 8  u32  CRC32C of every byte from 12 to the end
//	12  uv   applied, last write, epoch, index of the epoch, next writer, next inode, used, reserved
//	    uv   number of settings; each: uv length of the name, name, uv value
//	    uv   number of retired writers; each: uv id
//	    uv   number of live writers; each:
//	           uv id, 16 bytes token, uv length of the name, name, uv lease in ms, uv opened, uv epoch, uv seq,
//	           uv last write, uv reserved, uv number of inode ranges, each: uv first, uv count,
//	           last numbered command: uv op, uv command kind, uv index, uv first and uv count of inodes, uv refused, uv error kind
const (
	stateMagic     = 0x53736664 // "dfsS"
	stateVersion   = 1
	stateHeaderLen = 12
)

// Encode returns the state in its snapshot form: the same bytes on every
// replica that has applied the same commands.
func (s *State) Encode() []byte {
	e := make([]byte, stateHeaderLen, 256+128*len(s.writers)+12*s.rangeCount+4*len(s.retired))
	binary.LittleEndian.PutUint32(e, stateMagic)
	binary.LittleEndian.PutUint16(e[4:], stateVersion)
	e = appendUvarints(e, s.applied, s.lastWrite, uint64(s.epoch), s.epochIndex, uint64(s.nextWriter), s.nextInode, s.used, s.reserved)
	e = appendUvarints(e, uint64(len(s.settings)))
	for _, g := range s.settings {
		e = appendString(e, g.Name)
		e = appendUvarints(e, g.Value)
	}
	e = appendUvarints(e, uint64(len(s.retired)))
	for _, id := range s.retired {
		e = appendUvarints(e, uint64(id))
	}
	e = appendUvarints(e, uint64(len(s.writers)))
	for _, w := range s.writers {
		e = w.appendTo(e)
	}
	binary.LittleEndian.PutUint32(e[8:], crc.Checksum(e[stateHeaderLen:]))
	return e
}

func (w *writer) appendTo(e []byte) []byte {
	e = appendUvarints(e, uint64(w.id))
	e = append(e, w.token[:]...)
	e = appendString(e, w.name)
	e = appendUvarints(e, w.ttlMilli, w.opened, uint64(w.epoch), w.seq, w.lastWrite, w.reserved, uint64(len(w.inodes)))
	for _, r := range w.inodes {
		e = appendUvarints(e, r.First, r.Count)
	}
	l := &w.last
	refused := uint64(0)
	if l.refused {
		refused = 1
	}
	return appendUvarints(e, l.op, uint64(l.command), l.index, l.inodes.First, l.inodes.Count, refused, uint64(l.kind))
}

func appendUvarints(e []byte, list ...uint64) []byte {
	for _, v := range list {
		e = binary.AppendUvarint(e, v)
	}
	return e
}

func appendString(e []byte, s string) []byte {
	return append(binary.AppendUvarint(e, uint64(len(s))), s...)
}

// DecodeState decodes what Encode made, and checks its invariants. Errors:
// KindForeign, KindTooNew, KindCorrupt. It never panics and allocates in
// proportion to len(b). b is not kept.
func DecodeState(b []byte) (*State, error) {
	le := binary.LittleEndian
	if len(b) < 8 || le.Uint32(b) != stateMagic {
		return nil, errors.New(errors.KindForeign, "blockstore: %d bytes that are not a state (no magic)", len(b))
	}
	if v := le.Uint16(b[4:]); v > stateVersion {
		return nil, errors.New(errors.KindTooNew, "blockstore: a state of version %d; this binary knows versions up to %d: upgrade it", v, stateVersion)
	}
	if le.Uint16(b[4:]) == 0 || le.Uint16(b[6:]) != 0 || len(b) < stateHeaderLen {
		return nil, errors.New(errors.KindCorrupt, "blockstore: damaged state: its header does not fit its %d bytes", len(b))
	}
	if got, want := crc.Checksum(b[stateHeaderLen:]), le.Uint32(b[8:]); got != want {
		return nil, errors.New(errors.KindCorrupt, "blockstore: damaged state: checksum %08x, expected %08x", got, want)
	}
	s := NewState()
	r := reader{b: b[stateHeaderLen:]}
	s.readFrom(&r)
	if r.bad || len(r.b) != 0 {
		return nil, errors.New(errors.KindCorrupt, "blockstore: damaged state: its fields do not fit its %d bytes", len(b))
	}
	if what := s.broken(); what != "" {
		return nil, errors.New(errors.KindCorrupt, "blockstore: damaged state: %s", what)
	}
	return s, nil
}

func (s *State) readFrom(r *reader) {
	s.applied = r.uvarint()
	s.lastWrite = r.uvarint()
	s.epoch = Epoch(r.uvarint())
	s.epochIndex = r.uvarint()
	s.nextWriter = WriterID(r.uvarint())
	s.nextInode = r.uvarint()
	s.used = r.uvarint()
	s.reserved = r.uvarint()
	for n := r.count(2, SettingsMax); n > 0; n-- {
		s.settings = append(s.settings, Setting{r.string(SettingNameBytesMax), r.uvarint()})
	}
	for n := r.count(1, RetiredMax+WritersMax); n > 0; n-- {
		s.retired = append(s.retired, WriterID(r.uvarint()))
	}
	for n := r.count(32, WritersMax); n > 0 && !r.bad; n-- {
		w := readWriter(r)
		s.writers = append(s.writers, w)
		s.byToken[w.token] = w
		s.rangeCount += len(w.inodes)
	}
}

func readWriter(r *reader) *writer {
	w := &writer{id: WriterID(r.uvarint())}
	copy(w.token[:], r.bytes(uint64(len(w.token))))
	w.name = r.string(NameBytesMax)
	w.ttlMilli = r.uvarint()
	w.opened = r.uvarint()
	w.epoch = Epoch(r.uvarint())
	w.seq = r.uvarint()
	w.lastWrite = r.uvarint()
	w.reserved = r.uvarint()
	for n := r.count(2, InodeRangesMax); n > 0; n-- {
		w.inodes = append(w.inodes, InodeRange{r.uvarint(), r.uvarint()})
	}
	l := &w.last
	l.op = r.uvarint()
	l.command = CommandKind(r.small(uint64(commandKindLast)))
	l.index = r.uvarint()
	l.inodes = InodeRange{r.uvarint(), r.uvarint()}
	l.refused = r.small(1) == 1
	l.kind = errors.Kind(r.small(1<<32 - 1))
	return w
}

// count reads a number of things of at least `size` bytes each, at most `most`.
func (r *reader) count(size int, most uint64) uint64 {
	n := r.small(most)
	if r.bad || n > uint64(len(r.b)/size) {
		r.bad = true
		return 0
	}
	return n
}

// small reads a number that is at most `most`.
func (r *reader) small(most uint64) uint64 {
	v := r.uvarint()
	if v > most {
		r.bad = true
		return 0
	}
	return v
}

// broken says which invariant of State does not hold, "" if all do.
func (s *State) broken() string {
	if s.nextWriter == 0 || s.nextInode < FirstInode || s.nextInode > InodeMax || s.used > reservedMax {
		return "a counter is out of bounds"
	}
	if s.lastWrite > s.applied || s.epochIndex > s.applied || s.rangeCount > InodeRangesMax || len(s.byToken) != len(s.writers) {
		return "an index, a token or a count is out of bounds"
	}
	for i, g := range s.settings {
		if g.Name == "" || i > 0 && s.settings[i-1].Name >= g.Name {
			return "the settings are not in order"
		}
	}
	for i, id := range s.retired {
		if id == 0 || id >= s.nextWriter || i > 0 && s.retired[i-1] >= id || s.find(id) != nil {
			return "the retired writers are not in order"
		}
	}
	sum, ranges := uint64(0), 0
	for i, w := range s.writers {
		if i > 0 && s.writers[i-1].id >= w.id {
			return "the writers are not in order"
		}
		if what := s.brokenWriter(w); what != "" {
			return what
		}
		ranges += len(w.inodes)
		if sum += w.reserved; sum+s.used > reservedMax { // here, before it can overflow
			return "the reservations are out of bounds"
		}
	}
	if sum != s.reserved || ranges != s.rangeCount {
		return "the reservations or inode ranges do not add up"
	}
	return ""
}

func (s *State) brokenWriter(w *writer) string {
	if w.id == 0 || w.id >= s.nextWriter || w.token == (Token{}) || w.epoch > s.epoch || w.reserved > reservedMax {
		return "a writer is out of bounds"
	}
	if w.opened > s.applied || w.lastWrite > s.lastWrite || w.last.index > s.applied || (w.seq == 0) != (w.lastWrite == 0) {
		return "a writer's indexes are out of bounds"
	}
	end := uint64(FirstInode)
	for _, r := range w.inodes {
		if r.Count == 0 || r.First < end || r.First >= s.nextInode || r.Count > s.nextInode-r.First {
			return "a writer's inode ranges are not in order"
		}
		end = r.First + r.Count
	}
	return ""
}
