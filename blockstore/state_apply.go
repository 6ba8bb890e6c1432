package blockstore

import (
	stderrors "errors"
	"fmt"
	"slices"

	"dfs/internal/errors"
	"dfs/wal"
)

// ErrUndecodable is what errors.Is finds in the answer to a command that this
// binary cannot carry out, because it or its record cannot be decoded.
var ErrUndecodable = stderrors.New("blockstore: undecodable log entry")

// UndecodableError says which log entry could not be decoded and why. The node
// must stop.
type UndecodableError struct {
	Index uint64
	Cause error // of kind KindForeign, KindTooNew or KindCorrupt
}

// Error tells the index, the cause and what to do.
func (e *UndecodableError) Error() string {
	return fmt.Sprintf("blockstore: log entry %d cannot be decoded, so this node stops (upgrade it if the entry is newer, else restore it from the others): %v", e.Index, e.Cause)
}

// Is makes errors.Is(err, ErrUndecodable) true.
func (e *UndecodableError) Is(target error) bool { return target == ErrUndecodable }

// Unwrap returns the cause.
func (e *UndecodableError) Unwrap() error { return e.Cause }

func (s *State) openWriter(index uint64, cmd *Command) (WriterID, error) {
	if w := s.byToken[cmd.Token]; w != nil {
		return w.id, nil
	}
	if len(cmd.Name) > NameBytesMax {
		return 0, errors.New(errors.KindNameTooLong, "blockstore: a writer's name of %d bytes; at most %d are allowed", len(cmd.Name), NameBytesMax)
	}
	if len(s.writers) >= WritersMax {
		return 0, errors.New(errors.KindTooManyFiles, "blockstore: there are %d live writers already; unmount somewhere first", len(s.writers))
	}
	if len(s.retired) >= RetiredMax && len(s.writers) > 0 {
		return 0, errors.New(errors.KindTooManyFiles, "blockstore: %d ended writers wait for the live ones to empty their orphan lists; try again later", len(s.retired))
	}
	w := &writer{id: s.nextWriter, token: cmd.Token, name: cmd.Name, ttlMilli: cmd.TTLMilli, opened: index}
	s.nextWriter++
	s.writers = append(s.writers, w) // ids rise, so the order stays
	s.byToken[w.token] = w
	return w.id, nil
}

func (s *State) closeWriter(cmd *Command) error {
	if cmd.Writer < s.nextWriter && s.find(cmd.Writer) == nil {
		return nil // a repetition, or fenced meanwhile: over either way
	}
	if _, err := s.live(cmd.Writer, cmd.Token); err != nil {
		return err
	}
	return s.endWriter(cmd.Writer, cmd.Count == 1)
}

// endWriter takes the writer off the table: from here on it changes nothing.
func (s *State) endWriter(id WriterID, nothingLeft bool) error {
	if id >= s.nextWriter {
		return errors.New(errors.KindDeadWriter, "blockstore: writer %d was never opened", id)
	}
	i := s.position(id)
	if i == len(s.writers) || s.writers[i].id != id {
		return nil
	}
	w := s.writers[i]
	s.reserved -= w.reserved
	s.rangeCount -= len(w.inodes)
	if w.seq > 0 && !nothingLeft {
		at, _ := slices.BinarySearch(s.retired, id)
		s.retired = slices.Insert(s.retired, at, id)
	}
	s.writers = slices.Delete(s.writers, i, i+1)
	delete(s.byToken, w.token)
	return nil
}

func (s *State) beginEpoch(index uint64, e Epoch) error {
	if e < s.epoch {
		return errors.New(errors.KindStaleEpoch, "blockstore: epoch %d cannot begin, %d has begun already", e, s.epoch)
	}
	if e > s.epoch { // the same again is a repetition
		s.epoch, s.epochIndex = e, index
	}
	return nil
}

func (s *State) attachWriter(cmd *Command) error {
	w, err := s.live(cmd.Writer, cmd.Token)
	if err != nil {
		return err
	}
	if cmd.Epoch == 0 || cmd.Epoch != s.epoch {
		return errors.New(errors.KindStaleEpoch, "blockstore: writer %d cannot attach to epoch %d, the current one is %d", w.id, cmd.Epoch, s.epoch)
	}
	w.epoch = s.epoch
	return nil
}

// write applies the record iff its writer is live, the token its own, the epoch
// the current one and the one that the writer is attached to, and the number
// its next. An older number is answered as done (whatever the epoch: it was
// done), at the index of the writer's last record.
func (s *State) write(index uint64, cmd *Command) (Result, *wal.Record) {
	refuse := func(err error) (Result, *wal.Record) {
		return Result{Index: index, Writer: cmd.Writer, Err: err}, nil
	}
	w, err := s.live(cmd.Writer, cmd.Token)
	if err != nil {
		return refuse(err)
	}
	if cmd.Seq <= w.seq {
		return Result{Index: w.lastWrite, Writer: w.id}, nil
	}
	if s.epoch == 0 || cmd.Epoch != s.epoch || w.epoch != s.epoch {
		return refuse(errors.New(errors.KindStaleEpoch, "blockstore: writer %d, attached to epoch %d, sent record %d in epoch %d; the current one is %d: attach, then send again",
			w.id, w.epoch, cmd.Seq, cmd.Epoch, s.epoch))
	}
	if cmd.Seq != w.seq+1 {
		return refuse(errors.New(errors.KindSeqGap, "blockstore: writer %d sent record %d, its next is %d: send the earlier ones first", w.id, cmd.Seq, w.seq+1))
	}
	if err := cmd.CheckRecord(); err != nil {
		return refuse(&UndecodableError{Index: index, Cause: err})
	}
	rec := cmd.checked
	if err := s.account(w, rec.AllocDelta); err != nil {
		return refuse(err)
	}
	w.seq, w.lastWrite, s.lastWrite = cmd.Seq, index, index
	if len(rec.Trims)+len(rec.Zeros)+len(rec.Ranges) == 0 {
		rec = nil
	}
	return Result{Index: index, Writer: w.id}, rec
}

// account counts the change in present blocks: growth uses up the writer's
// reservation, what shrinks goes back to the store.
func (s *State) account(w *writer, delta int64) error {
	if delta < 0 {
		freed := uint64(-delta) // right for the least int64, too
		if freed > s.used {
			return errors.New(errors.KindInvalid, "blockstore: writer %d frees %d blocks, but only %d are in use; this is a defect of the writer", w.id, freed, s.used)
		}
		s.used -= freed
		return nil
	}
	n := uint64(delta)
	if n > w.reserved {
		return errors.New(errors.KindNoReserve, "blockstore: writer %d allocates %d blocks, but has reserved %d; this is a defect of the writer", w.id, n, w.reserved)
	}
	w.reserved -= n
	s.reserved -= n
	s.used += n
	return nil
}

// numbered carries out a writer's numbered command once, and answers a
// repetition as the first time. Numbers rise; they may skip.
func (s *State) numbered(index uint64, cmd *Command) Result {
	res := Result{Index: index, Writer: cmd.Writer}
	w, err := s.live(cmd.Writer, cmd.Token)
	if err != nil {
		res.Err = err
		return res
	}
	last := &w.last
	switch {
	case cmd.Op < last.op:
		res.Err = errors.New(errors.KindStale, "blockstore: command %d of writer %d comes after its command %d: it was given up", cmd.Op, w.id, last.op)
		return res
	case cmd.Op == last.op && cmd.Kind != last.command:
		res.Err = errors.New(errors.KindInvalid, "blockstore: command %d of writer %d was %v before and is %v now; this is a defect of the writer", cmd.Op, w.id, last.command, cmd.Kind)
		return res
	case cmd.Op == last.op:
		res.Index, res.Inodes = last.index, last.inodes
		if last.refused {
			res.Err = errors.New(last.kind, "blockstore: %v %d of writer %d was refused before", cmd.Kind, cmd.Op, w.id)
		}
		return res
	}
	switch cmd.Kind {
	case CmdTakeInodes:
		res.Inodes, res.Err = s.takeInodes(w, cmd.Count)
	case CmdReserve:
		res.Err = s.reserve(w, cmd.Count)
	case CmdUnreserve:
		n := min(cmd.Count, w.reserved)
		w.reserved -= n
		s.reserved -= n
	case CmdForgetRetired:
		if i, ok := slices.BinarySearch(s.retired, WriterID(cmd.Count)); ok {
			s.retired = slices.Delete(s.retired, i, i+1)
		}
	}
	*last = opResult{op: cmd.Op, command: cmd.Kind, index: index, inodes: res.Inodes}
	if res.Err != nil {
		last.refused, last.kind = true, errors.KindOf(res.Err)
	}
	return res
}

func (s *State) takeInodes(w *writer, n uint64) (InodeRange, error) {
	if s.nextInode+n > InodeMax {
		return InodeRange{}, errors.New(errors.KindNoSpace, "blockstore: inode numbers are used up")
	}
	r := InodeRange{First: s.nextInode, Count: n}
	if k := len(w.inodes); k > 0 && w.inodes[k-1].First+w.inodes[k-1].Count == r.First {
		w.inodes[k-1].Count += n
	} else {
		if s.rangeCount >= InodeRangesMax {
			return InodeRange{}, errors.New(errors.KindTooManyFiles, "blockstore: live writers hold %d inode ranges already; take larger ones, or open a new writer", s.rangeCount)
		}
		w.inodes = append(w.inodes, r)
		s.rangeCount++
	}
	s.nextInode += n
	return r, nil
}

func (s *State) reserve(w *writer, n uint64) error {
	total := s.used + s.reserved + n // each below 2^62: no overflow
	if limit := s.Capacity(); total > reservedMax || limit > 0 && total > limit {
		return errors.New(errors.KindNoSpace, "blockstore: %d blocks are not free: %d used, %d reserved, capacity %d", n, s.used, s.reserved, limit)
	}
	w.reserved += n
	s.reserved += n
	return nil
}

func (s *State) setSetting(name string, value uint64) error {
	if len(name) > SettingNameBytesMax {
		return errors.New(errors.KindNameTooLong, "blockstore: a setting's name of %d bytes; at most %d are allowed", len(name), SettingNameBytesMax)
	}
	i, ok := s.findSetting(name)
	if ok {
		s.settings[i].Value = value
		return nil
	}
	if len(s.settings) >= SettingsMax {
		return errors.New(errors.KindNoMemory, "blockstore: there are %d settings already", len(s.settings))
	}
	s.settings = slices.Insert(s.settings, i, Setting{name, value})
	return nil
}
