package blockstore

import (
	"fmt"

	"dfs/wal"
)

// Command is one entry of the replicated log, decoded. Exactly one field but Kind's own is
// meaningful; see state.go for what each does.
type Command struct {
	Kind CommandKind
	// Writer, Token: who; for OpenWriter Token is the new session's token, chosen by the client, and makes retries idempotent.
	Writer WriterID
	Token  Token
	Epoch  Epoch  // Write, AttachWriter, BeginEpoch
	Seq    uint64 // Write: the record's number, from 1
	Record []byte // Write: the encoded wal.Record
	// Room, if not nil, is the buffer that Record is the end of, with CommandOverheadMax bytes or more before it that
	// nobody uses: Encode puts the command there, around the record, and so need not copy it.
	Room []byte
	// Op numbers a writer's own non-Write commands (TakeInodes, Reserve, Unreserve, ForgetRetired) from 1;
	// the last number repeated is answered as the first time, an older one is refused (KindStale). Numbers rise and may
	// skip: so a writer sends one at a time, and a number is never used for a second command.
	Op       uint64
	Count    uint64 // TakeInodes: inodes; Reserve, Unreserve: blocks; ForgetRetired: the writer; CloseWriter: 1 if no orphan list is left
	Name     string // OpenWriter: for people (host, mount point); SetSetting: its name
	TTLMilli uint64 // OpenWriter: the lease
	Value    uint64 // SetSetting

	checked *wal.Record // what CheckRecord decoded
}

// CommandKind tells commands apart; part of the log format.
type CommandKind uint8

// The commands.
const (
	CmdOpenWriter CommandKind = iota + 1
	CmdCloseWriter
	CmdFenceWriter
	CmdBeginEpoch
	CmdAttachWriter
	CmdWrite
	CmdTakeInodes
	CmdReserve
	CmdUnreserve
	CmdForgetRetired
	CmdSetSetting

	commandKindLast = CmdSetSetting
)

// String names the kind for logs.
func (k CommandKind) String() string {
	names := [...]string{"", "OpenWriter", "CloseWriter", "FenceWriter", "BeginEpoch", "AttachWriter", "Write",
		"TakeInodes", "Reserve", "Unreserve", "ForgetRetired", "SetSetting"}
	if k == 0 || int(k) >= len(names) {
		return fmt.Sprintf("command kind %d", uint8(k))
	}
	return names[k]
}

// The settings.
const (
	SettingCapacityBlocks = "capacity-blocks" // admitted capacity, in blocks; 0 or never set: reservations are not limited
	SettingFeatures       = "features"        // bit set of format features in use
)

// Result is the state machine's answer to a command.
type Result struct {
	// Index is the command's log index; of a numbered command repeated, the first one's; of a Write done before, that of the writer's
	// last record, which is not below the first answer's.
	Index  uint64
	Writer WriterID
	Inodes InodeRange
	// Err is a typed refusal (package errors), nil if done. If errors.Is(Err, ErrUndecodable) the node must stop.
	Err error
}
