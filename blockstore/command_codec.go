package blockstore

import (
	"encoding/binary"
	"math/bits"

	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/wal"
)

// The encoded command: one entry of the replicated log. Integers are
// little-endian, "uv" is a minimal uvarint.
//
//	 0  u32  magic "dfsC"
//	 4  u8   version (1)
//	 5  u8   kind
//	 6  u16  length of the fields in bytes
//	 8  u32  CRC32C of bytes 4..7 and of the fields (a record has a checksum of its own)
//	12  fields: uv writer, 16 bytes token, uv epoch, uv seq, uv op, uv count,
//	            uv lease in ms, uv value, uv length of the name, name, uv length of the record
//	    record, to the end
const (
	commandMagic     = 0x43736664 // "dfsC"
	commandVersion   = 1
	commandHeaderLen = 12

	// CommandOverheadMax is what a Write command's encoding adds to its record at most, in bytes.
	CommandOverheadMax = commandHeaderLen + len(Token{}) + 9*binary.MaxVarintLen64
)

// Bounds of what commands may hold.
const (
	NameBytesMax        = 255     // a writer's name
	SettingNameBytesMax = 64      // a setting's name
	TakeInodesMax       = 1 << 20 // inode numbers of one TakeInodes
	ReserveBlocksMax    = 1 << 40 // blocks of one Reserve or Unreserve
	TTLMilliMax         = 24 * 3600 * 1000
)

// AppendTo appends the encoded command to buf and returns the longer slice.
// The command must be one that Validate accepts.
func (c *Command) AppendTo(buf []byte) []byte { return append(c.appendHead(buf), c.Record...) }

// Encode gives the encoded command: around the record in Room, if there is one, else in memory of its own.
func (c *Command) Encode() []byte {
	at := len(c.Room) - len(c.Record)
	if len(c.Record) == 0 || at < CommandOverheadMax+len(c.Name) || &c.Room[at] != &c.Record[0] {
		return c.AppendTo(make([]byte, 0, c.EncodedSize()))
	}
	head := c.appendHead(make([]byte, 0, CommandOverheadMax+len(c.Name)))
	copy(c.Room[at-len(head):at], head)
	return c.Room[at-len(head):]
}

// appendHead appends all but the record.
func (c *Command) appendHead(buf []byte) []byte {
	start := len(buf)
	buf = append(buf, make([]byte, commandHeaderLen)...)
	buf = binary.AppendUvarint(buf, uint64(c.Writer))
	buf = append(buf, c.Token[:]...)
	for _, v := range [...]uint64{uint64(c.Epoch), c.Seq, c.Op, c.Count, c.TTLMilli, c.Value, uint64(len(c.Name))} {
		buf = binary.AppendUvarint(buf, v)
	}
	buf = append(buf, c.Name...)
	buf = binary.AppendUvarint(buf, uint64(len(c.Record)))
	h := buf[start:]
	binary.LittleEndian.PutUint32(h, commandMagic)
	h[4], h[5] = commandVersion, byte(c.Kind)
	binary.LittleEndian.PutUint16(h[6:], uint16(len(h)-commandHeaderLen))
	binary.LittleEndian.PutUint32(h[8:], commandSum(h, h[commandHeaderLen:]))
	return buf
}

// EncodedSize is the number of bytes that AppendTo adds at most.
func (c *Command) EncodedSize() int {
	return CommandOverheadMax + len(c.Name) + len(c.Record)
}

func commandSum(header, fields []byte) uint32 {
	return crc.Update(crc.Checksum(header[4:8]), fields)
}

// CommandHeadMax is how many bytes of a command StartsCommand needs at most.
const CommandHeadMax = CommandOverheadMax + NameBytesMax

// StartsCommand tells whether b, the first CommandHeadMax bytes of a log entry's data or all of them, begins with an undamaged
// head of a command.
func StartsCommand(b []byte) bool {
	if len(b) < commandHeaderLen || binary.LittleEndian.Uint32(b) != commandMagic {
		return false
	}
	end := commandHeaderLen + int(binary.LittleEndian.Uint16(b[6:]))
	return end <= len(b) && commandSum(b, b[commandHeaderLen:end]) == binary.LittleEndian.Uint32(b[8:])
}

// DecodeCommand decodes b, which holds one command and nothing else. Record
// aliases b. Errors: KindForeign (no command), KindTooNew (version or kind),
// KindCorrupt. An entry of the replicated log that fails here stops the node:
// skipping it would make this replica another than the rest. It never
// panics and allocates nothing but the name.
func DecodeCommand(b []byte) (Command, error) {
	var c Command
	if len(b) < 5 || binary.LittleEndian.Uint32(b) != commandMagic {
		return c, errors.New(errors.KindForeign, "blockstore: a log entry of %d bytes that is not a command (no magic)", len(b))
	}
	if b[4] > commandVersion {
		return c, errors.New(errors.KindTooNew, "blockstore: a command of version %d; this binary knows versions up to %d: upgrade it", b[4], commandVersion)
	}
	if b[4] == 0 || len(b) < commandHeaderLen {
		return c, errors.New(errors.KindCorrupt, "blockstore: damaged command: its header does not fit its %d bytes", len(b))
	}
	end := commandHeaderLen + int(binary.LittleEndian.Uint16(b[6:]))
	if len(b) < end {
		return c, errors.New(errors.KindCorrupt, "blockstore: damaged command: its fields do not fit its %d bytes", len(b))
	}
	r := reader{b: b[commandHeaderLen:end]}
	if got, want := commandSum(b, r.b), binary.LittleEndian.Uint32(b[8:]); got != want {
		return c, errors.New(errors.KindCorrupt, "blockstore: damaged command: checksum %08x, expected %08x", got, want)
	}
	if c.Kind = CommandKind(b[5]); c.Kind == 0 || c.Kind > commandKindLast {
		return Command{}, errors.New(errors.KindTooNew, "blockstore: a command of unknown kind %d; this binary knows kinds up to %d: upgrade it", c.Kind, commandKindLast)
	}
	recordLen := c.readFields(&r)
	if r.bad || len(r.b) != 0 || recordLen != uint64(len(b)-end) {
		return Command{}, errors.New(errors.KindCorrupt, "blockstore: damaged command of kind %d: its fields do not fit its %d bytes", b[5], len(b))
	}
	if recordLen > 0 {
		c.Record = b[end:len(b):len(b)]
	}
	return c, nil
}

func (c *Command) readFields(r *reader) (recordLen uint64) {
	c.Writer = WriterID(r.uvarint())
	copy(c.Token[:], r.bytes(uint64(len(c.Token))))
	c.Epoch = Epoch(r.uvarint())
	c.Seq = r.uvarint()
	c.Op = r.uvarint()
	c.Count = r.uvarint()
	c.TTLMilli = r.uvarint()
	c.Value = r.uvarint()
	c.Name = r.string(NameBytesMax)
	return r.uvarint()
}

// Validate tells whether a command may be proposed: it is one that every
// replica can decode and whose values are in bounds. What a proposer refuses
// here never stops a node. It decodes a Write's record whole, checksum included,
// unless CheckRecord has.
// KindInvalid, KindNameTooLong, KindTooBig; for a damaged record the kinds of
// wal.DecodeRecord.
func (c *Command) Validate() error {
	if c.Kind == 0 || c.Kind > commandKindLast {
		return errors.New(errors.KindInvalid, "blockstore: unknown command kind %d", c.Kind)
	}
	nameMax := 0
	switch c.Kind {
	case CmdOpenWriter:
		nameMax = NameBytesMax
	case CmdSetSetting:
		nameMax = SettingNameBytesMax
	}
	if len(c.Name) > nameMax {
		return errors.New(errors.KindNameTooLong, "blockstore: the name in a %v command has %d bytes, at most %d are allowed", c.Kind, len(c.Name), nameMax)
	}
	if len(c.Record) > 0 && c.Kind != CmdWrite {
		return errors.New(errors.KindInvalid, "blockstore: a %v command carries a record", c.Kind)
	}
	if what := c.outOfBounds(); what != "" {
		return errors.New(errors.KindInvalid, "blockstore: %v command of writer %d: %s", c.Kind, c.Writer, what)
	}
	if c.Kind == CmdWrite {
		if len(c.Record) > wal.RecordBytesMax {
			return errors.New(errors.KindTooBig, "blockstore: a record of %d bytes is above the maximum of %d", len(c.Record), wal.RecordBytesMax)
		}
		return c.CheckRecord()
	}
	return nil
}

// CheckRecord decodes a Write's record, once: Validate and State.Apply take
// what it gave. The record must not change from then on. Errors: those of wal.DecodeRecord.
func (c *Command) CheckRecord() (err error) {
	if c.checked == nil {
		c.checked, err = wal.DecodeRecord(c.Record)
	}
	return err
}

// CheckedRecord is a record and what it was decoded to in this process.
type CheckedRecord struct {
	encoded []byte
	record  *wal.Record
}

// Checked gives what CheckRecord decoded; ok is false if it has not.
func (c *Command) Checked() (r CheckedRecord, ok bool) {
	return CheckedRecord{c.Record, c.checked}, c.checked != nil
}

// Adopt makes c one that was checked, if r was decoded from the very bytes in memory that c's record is; it tells
// whether it was.
func (c *Command) Adopt(r CheckedRecord) bool {
	same := r.record != nil && len(r.encoded) > 0 && len(r.encoded) == len(c.Record) && &r.encoded[0] == &c.Record[0]
	if same {
		c.checked = r.record
	}
	return same
}

// outOfBounds says what is wrong with the command's values, "" if nothing. The
// state machine asks it too, so that it never depends on a proposer's care.
func (c *Command) outOfBounds() string {
	switch c.Kind {
	case CmdOpenWriter:
		if c.Token == (Token{}) {
			return "the token is empty"
		}
		if c.TTLMilli > TTLMilliMax {
			return "the lease is longer than a day"
		}
	case CmdBeginEpoch:
		if c.Epoch == 0 {
			return "epoch 0 is none"
		}
	case CmdSetSetting:
		if c.Name == "" {
			return "the setting has no name"
		}
	default:
		if c.Writer == 0 {
			return "writer 0 is none"
		}
	}
	switch c.Kind {
	case CmdWrite:
		if c.Seq == 0 {
			return "records are numbered from 1"
		}
	case CmdTakeInodes:
		if c.Count == 0 || c.Count > TakeInodesMax {
			return "the count of inodes is out of bounds"
		}
	case CmdReserve, CmdUnreserve:
		if c.Count == 0 || c.Count > ReserveBlocksMax {
			return "the count of blocks is out of bounds"
		}
	}
	switch c.Kind {
	case CmdTakeInodes, CmdReserve, CmdUnreserve, CmdForgetRetired:
		if c.Op == 0 {
			return "a writer's commands are numbered from 1"
		}
	}
	return ""
}

// reader takes fields from the front of b; bad is set, and stays, at the first that does not fit.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n != (bits.Len64(v|1)+6)/7 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) string(most uint64) string {
	n := r.uvarint()
	if n > most {
		r.bad = true
	}
	return string(r.bytes(n))
}
