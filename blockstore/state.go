package blockstore

import (
	"crypto/subtle"
	"sort"

	"dfs/internal/errors"
	"dfs/wal"
)

// Bounds of the state. What would go beyond is refused, by every replica alike.
const (
	WritersMax     = 16384   // live writers
	RetiredMax     = 65536   // retired writers; beyond, only a first writer is opened (it can empty orphan lists)
	InodeRangesMax = 1 << 20 // inode ranges of all live writers together
	SettingsMax    = 64

	// FirstInode is the first inode number given out; below it are fixed ones (1 is the root directory).
	FirstInode = 16
	// InodeMax bounds inode numbers: those given out are below it.
	InodeMax = 1 << 62

	reservedMax = 1 << 60 // blocks, so that no sum overflows
)

// State is the replicated state machine: what every replica derives from the
// log, and nothing else. It is pure: Apply reads no clock, no random number, no
// block and no map in map order, so replicas that were given the same commands
// encode to the same bytes. Not safe for concurrent use; it starts no goroutine.
//
// Invariants, checked by DecodeState and by the tests:
//
//	reserved is the sum of the live writers' reservations, rangeCount that of their inode ranges
//	every writer ever opened has a number below nextWriter, every inode number given out is below nextInode
//	no writer is both live and retired
type State struct {
	applied    uint64 // index of the last command
	lastWrite  uint64 // index of the last record that was applied
	epoch      Epoch
	epochIndex uint64 // of the first BeginEpoch of epoch
	nextWriter WriterID
	nextInode  uint64
	used       uint64 // blocks
	reserved   uint64 // blocks
	rangeCount int
	settings   []Setting  // by name
	retired    []WriterID // ascending
	writers    []*writer  // by id
	byToken    map[Token]*writer
}

// writer is a live writer.
type writer struct {
	id        WriterID
	token     Token
	name      string
	ttlMilli  uint64
	opened    uint64 // index
	epoch     Epoch  // attached to; 0 none
	seq       uint64 // of its last record
	lastWrite uint64 // index of its last record
	reserved  uint64 // blocks
	inodes    []InodeRange
	last      opResult
}

// opResult is the outcome of a writer's last numbered command, kept to answer a repetition.
// Of a refusal the kind alone is kept: texts may differ between versions of the binary.
type opResult struct {
	op      uint64
	command CommandKind
	index   uint64
	inodes  InodeRange
	refused bool
	kind    errors.Kind
}

// Setting is one setting of the store.
type Setting struct {
	Name  string
	Value uint64
}

// WriterInfo is what the state knows of a live writer.
type WriterInfo struct {
	ID          WriterID
	Name        string
	TTLMilli    uint64       // lease in ms; 0: the lock service's default
	OpenedIndex uint64       // log index of its OpenWriter
	Epoch       Epoch        // attached to; 0 none
	Attached    bool         // Epoch is the current one
	NextSeq     uint64       // number of its next record
	LastWrite   uint64       // index of its last applied record, 0 none
	NextOp      uint64       // the least number of its next numbered command
	Reserved    uint64       // blocks
	Inodes      []InodeRange // ascending, neighbours joined; a copy
}

// NewState returns the state before the first command.
func NewState() *State {
	return &State{nextWriter: 1, nextInode: FirstInode, byToken: map[Token]*writer{}}
}

// Applied is the index of the last command applied, 0 before the first.
func (s *State) Applied() uint64 { return s.applied }

// LastWriteIndex is the index of the last record applied, 0 before the first.
func (s *State) LastWriteIndex() uint64 { return s.lastWrite }

// Epoch is the current epoch, 0 before the first.
func (s *State) Epoch() Epoch { return s.epoch }

// EpochIndex is the index at which the current epoch began.
func (s *State) EpochIndex() uint64 { return s.epochIndex }

// Used is the number of present blocks, counted by AllocDelta.
func (s *State) Used() uint64 { return s.used }

// Reserved is the number of blocks reserved by live writers and not used yet.
func (s *State) Reserved() uint64 { return s.reserved }

// Capacity is the admitted capacity in blocks; 0: never set, and then
// reservations are not limited by it.
func (s *State) Capacity() uint64 { return s.Setting(SettingCapacityBlocks) }

// Space tells capacity and use.
func (s *State) Space() Space {
	return Space{CapacityBlocks: s.Capacity(), UsedBlocks: s.used, ReservedBlocks: s.reserved}
}

// Setting is the value of a setting, 0 if it was never set.
func (s *State) Setting(name string) uint64 {
	if i, ok := s.findSetting(name); ok {
		return s.settings[i].Value
	}
	return 0
}

// Settings lists the settings by name.
func (s *State) Settings() []Setting { return append([]Setting(nil), s.settings...) }

// Retired lists, ascending, the writers that ended and may have left an orphan list.
func (s *State) Retired() []WriterID { return append([]WriterID(nil), s.retired...) }

// NextInode is the next inode number to be given out; all given so far are below it.
func (s *State) NextInode() uint64 { return s.nextInode }

// Writers lists the live writers by id.
func (s *State) Writers() []WriterInfo {
	list := make([]WriterInfo, len(s.writers))
	for i, w := range s.writers {
		list[i] = s.info(w)
	}
	return list
}

// WriterCount is the number of live writers.
func (s *State) WriterCount() int { return len(s.writers) }

// Writer tells of one live writer.
func (s *State) Writer(id WriterID) (WriterInfo, bool) {
	if w := s.find(id); w != nil {
		return s.info(w), true
	}
	return WriterInfo{}, false
}

// Authenticate tells whether the session's writer is live (KindDeadWriter
// else) and the token its own (KindWrongToken else).
func (s *State) Authenticate(ses Session) error {
	_, err := s.live(ses.Writer, ses.Token)
	return err
}

func (s *State) info(w *writer) WriterInfo {
	return WriterInfo{ID: w.id, Name: w.name, TTLMilli: w.ttlMilli, OpenedIndex: w.opened, Epoch: w.epoch,
		NextSeq: w.seq + 1, LastWrite: w.lastWrite, NextOp: w.last.op + 1, Reserved: w.reserved,
		Inodes: append([]InodeRange(nil), w.inodes...), Attached: s.epoch != 0 && w.epoch == s.epoch}
}

func (s *State) position(id WriterID) int {
	return sort.Search(len(s.writers), func(i int) bool { return s.writers[i].id >= id })
}

func (s *State) find(id WriterID) *writer {
	if i := s.position(id); i < len(s.writers) && s.writers[i].id == id {
		return s.writers[i]
	}
	return nil
}

func (s *State) findSetting(name string) (int, bool) {
	i := sort.Search(len(s.settings), func(i int) bool { return s.settings[i].Name >= name })
	return i, i < len(s.settings) && s.settings[i].Name == name
}

// live returns the live writer that the token opens.
func (s *State) live(id WriterID, token Token) (*writer, error) {
	w := s.find(id)
	if w == nil {
		return nil, errors.New(errors.KindDeadWriter, "blockstore: writer %d is not live (fenced, closed or never opened); open a new one", id)
	}
	if subtle.ConstantTimeCompare(w.token[:], token[:]) != 1 {
		return nil, errors.New(errors.KindWrongToken, "blockstore: the token given is not that of writer %d", id)
	}
	return w, nil
}

// Apply applies the command that stands at index in the log, and returns the
// answer and, if blocks are to change, the record to be redone on the device as
// of index. The record aliases cmd.Record. Indexes rise from call to call.
//
// A refusal is Result.Err and changes nothing but, for a numbered command, the
// outcome that is remembered. If Result.Err is ErrUndecodable the node must
// stop: it cannot know what the other replicas did.
//
//	OpenWriter     a live writer of the same token, else a new one
//	CloseWriter    ends it; Count 1 says that its orphan list is empty. Done already if not live
//	FenceWriter    ends it. Done already if not live
//	BeginEpoch     Epoch becomes the current one, if not less than it
//	AttachWriter   attaches the writer to Epoch, if that is the current one
//	Write          see write
//	TakeInodes     gives Count fresh inode numbers
//	Reserve        reserves Count blocks, if used + reserved stay within the capacity
//	Unreserve      gives back up to Count reserved blocks
//	ForgetRetired  strikes writer Count from the retired ones, if it is there
//	SetSetting     sets Name to Value
func (s *State) Apply(index uint64, cmd Command) (Result, *wal.Record) {
	if index <= s.applied {
		return Result{Index: index, Err: errors.New(errors.KindInvalid,
			"blockstore: command given at index %d, but the state is at %d already; this is a defect of the node", index, s.applied)}, nil
	}
	s.applied = index
	if cmd.Kind == 0 || cmd.Kind > commandKindLast {
		return Result{Index: index, Err: &UndecodableError{Index: index, Cause: errors.New(errors.KindTooNew, "unknown command kind %d", cmd.Kind)}}, nil
	}
	if what := cmd.outOfBounds(); what != "" {
		return Result{Index: index, Err: errors.New(errors.KindInvalid, "blockstore: %v refused: %s", cmd.Kind, what)}, nil
	}
	res := Result{Index: index, Writer: cmd.Writer}
	switch cmd.Kind {
	case CmdOpenWriter:
		res.Writer, res.Err = s.openWriter(index, &cmd)
	case CmdCloseWriter:
		res.Err = s.closeWriter(&cmd)
	case CmdFenceWriter:
		res.Err = s.endWriter(cmd.Writer, false)
	case CmdBeginEpoch:
		res.Err = s.beginEpoch(index, cmd.Epoch)
	case CmdAttachWriter:
		res.Err = s.attachWriter(&cmd)
	case CmdWrite:
		return s.write(index, &cmd)
	case CmdTakeInodes, CmdReserve, CmdUnreserve, CmdForgetRetired:
		return s.numbered(index, &cmd), nil
	case CmdSetSetting:
		res.Err = s.setSetting(cmd.Name, cmd.Value)
	}
	return res, nil
}
