package blockstore

import (
	"bytes"
	stderrors "errors"
	"fmt"
	"reflect"
	"testing"

	"dfs/internal/errors"
	"dfs/wal"
)

// script drives a State: it gives each command the next index.
type script struct {
	t     *testing.T
	s     *State
	index uint64
}

func newScript(t *testing.T) *script { return &script{t: t, s: NewState()} }

func (p *script) apply(c Command) (Result, *wal.Record) {
	p.index++
	return p.s.Apply(p.index, c)
}

// ok applies a command that must be done.
func (p *script) ok(c Command) Result {
	p.t.Helper()
	r, _ := p.apply(c)
	if r.Err != nil {
		p.t.Fatalf("%v: %v", c.Kind, r.Err)
	}
	return r
}

// refused applies a command that must be refused with kind and change nothing.
func (p *script) refused(kind errors.Kind, c Command) {
	p.t.Helper()
	before := withoutApplied(p.t, p.s)
	r, rec := p.apply(c)
	if !errors.Is(r.Err, kind) || rec != nil {
		p.t.Fatalf("%v: %v, want kind %d", c.Kind, r.Err, kind)
	}
	if !bytes.Equal(before, withoutApplied(p.t, p.s)) && c.Op == 0 {
		p.t.Fatalf("%v was refused, but changed the state", c.Kind)
	}
}

func withoutApplied(t *testing.T, s *State) []byte {
	c := *s
	c.applied = 1 << 60
	return c.Encode()
}

func (p *script) open(n byte) Session {
	p.t.Helper()
	tok := Token{n, 1}
	r := p.ok(Command{Kind: CmdOpenWriter, Token: tok, Name: fmt.Sprintf("host%d", n), TTLMilli: 10_000})
	return Session{r.Writer, tok}
}

func (p *script) attach(ses Session, e Epoch) {
	p.t.Helper()
	p.ok(Command{Kind: CmdAttachWriter, Writer: ses.Writer, Token: ses.Token, Epoch: e})
}

func write(ses Session, e Epoch, seq uint64, delta int64) Command {
	rec := wal.Record{AllocDelta: delta, Ranges: []wal.Range{{Addr: wal.Addr{VDisk: uint64(ses.Writer), Block: seq}, Data: []byte{byte(seq)}}}}
	return Command{Kind: CmdWrite, Writer: ses.Writer, Token: ses.Token, Epoch: e, Seq: seq, Record: rec.AppendTo(nil)}
}

func numbered(kind CommandKind, ses Session, op, count uint64) Command {
	return Command{Kind: kind, Writer: ses.Writer, Token: ses.Token, Op: op, Count: count}
}

func TestOpenWriterIsIdempotent(t *testing.T) {
	p := newScript(t)
	a, b := p.open(1), p.open(2)
	if a.Writer != 1 || b.Writer != 2 || p.open(1) != a {
		t.Fatal(a, b)
	}
	p.ok(Command{Kind: CmdFenceWriter, Writer: 1})
	p.ok(Command{Kind: CmdFenceWriter, Writer: 1})
	if c := p.open(1); c.Writer != 3 {
		t.Fatalf("the number %d came again", c.Writer)
	}
	p.refused(errors.KindDeadWriter, Command{Kind: CmdFenceWriter, Writer: 4})
	p.refused(errors.KindInvalid, Command{Kind: CmdOpenWriter})
	p.refused(errors.KindNameTooLong, Command{Kind: CmdOpenWriter, Token: Token{9}, Name: string(make([]byte, 256))})
	info, ok := p.s.Writer(2)
	want := WriterInfo{ID: 2, Name: "host2", TTLMilli: 10_000, OpenedIndex: 2, NextSeq: 1, NextOp: 1}
	if !ok || !reflect.DeepEqual(info, want) {
		t.Fatalf("%+v", info)
	}
	if _, ok := p.s.Writer(1); ok || p.s.WriterCount() != 2 {
		t.Fatal("a fenced writer is live")
	}
	if err := p.s.Authenticate(Session{2, Token{2, 2}}); !errors.Is(err, errors.KindWrongToken) {
		t.Fatal(err)
	}
	if err := p.s.Authenticate(Session{1, Token{1, 1}}); !errors.Is(err, errors.KindDeadWriter) {
		t.Fatal(err)
	}
	if err := p.s.Authenticate(b); err != nil {
		t.Fatal(err)
	}
}

func TestWriteRules(t *testing.T) {
	p := newScript(t)
	a := p.open(1)
	p.refused(errors.KindStaleEpoch, write(a, 0, 1, 0)) // no epoch yet
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 5})
	p.refused(errors.KindStaleEpoch, write(a, 5, 1, 0)) // not attached
	p.refused(errors.KindStaleEpoch, Command{Kind: CmdAttachWriter, Writer: a.Writer, Token: a.Token, Epoch: 4})
	p.refused(errors.KindStaleEpoch, Command{Kind: CmdAttachWriter, Writer: a.Writer, Token: a.Token, Epoch: 0})
	p.refused(errors.KindWrongToken, Command{Kind: CmdAttachWriter, Writer: a.Writer, Epoch: 5})
	p.attach(a, 5)

	r1, rec := p.apply(write(a, 5, 1, 0))
	if r1.Err != nil || rec == nil || rec.Ranges[0].Data[0] != 1 || r1.Index != p.index || p.s.LastWriteIndex() != p.index {
		t.Fatal(r1, rec)
	}
	p.refused(errors.KindSeqGap, write(a, 5, 3, 0))
	p.refused(errors.KindStaleEpoch, write(a, 4, 2, 0)) // made under an older epoch
	p.refused(errors.KindStaleEpoch, write(a, 6, 2, 0))
	p.refused(errors.KindInvalid, write(a, 5, 0, 0))
	wrong := write(a, 5, 2, 0)
	wrong.Token[3]++
	p.refused(errors.KindWrongToken, wrong)
	r2 := p.ok(write(a, 5, 2, 0))

	// A repetition is answered with an index not below the first answer's, and applied no second time.
	for seq := uint64(1); seq <= 2; seq++ {
		if r, rec := p.apply(write(a, 5, seq, 0)); r.Err != nil || rec != nil || r.Index != r2.Index {
			t.Fatal(r, rec)
		}
	}
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 7})
	p.refused(errors.KindStaleEpoch, Command{Kind: CmdBeginEpoch, Epoch: 6})
	if p.s.Epoch() != 7 || p.s.EpochIndex() != p.index-1 {
		t.Fatal(p.s.Epoch(), p.s.EpochIndex())
	}
	at := p.s.EpochIndex()
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 7})
	if p.s.EpochIndex() != at {
		t.Fatal("a repetition moved the epoch's index")
	}
	p.refused(errors.KindStaleEpoch, write(a, 7, 3, 0)) // not attached to the new one
	p.refused(errors.KindStaleEpoch, write(a, 5, 3, 0))
	if r, rec := p.apply(write(a, 5, 2, 0)); r.Err != nil || rec != nil { // done is done
		t.Fatal(r)
	}
	p.attach(a, 7)
	p.refused(errors.KindStaleEpoch, write(a, 5, 3, 0))
	p.ok(write(a, 7, 3, 0))
	p.ok(Command{Kind: CmdFenceWriter, Writer: a.Writer})
	p.refused(errors.KindDeadWriter, write(a, 7, 4, 0))
	p.refused(errors.KindDeadWriter, write(a, 7, 3, 0))
	p.refused(errors.KindDeadWriter, Command{Kind: CmdAttachWriter, Writer: a.Writer, Token: a.Token, Epoch: 7})
	if got := p.s.Retired(); len(got) != 1 || got[0] != a.Writer {
		t.Fatal(got)
	}
}

func TestUndecodable(t *testing.T) {
	p := newScript(t)
	a := p.open(1)
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 1})
	p.attach(a, 1)
	newer := write(a, 1, 1, 0)
	newer.Record[4] = 9
	for _, c := range []Command{newer, {Kind: commandKindLast + 1}, {Kind: 0}} {
		r, rec := p.apply(c)
		var u *UndecodableError
		if !stderrors.Is(r.Err, ErrUndecodable) || !stderrors.As(r.Err, &u) || u.Index != p.index || !errors.Is(r.Err, errors.KindTooNew) || rec != nil {
			t.Fatalf("%v: %v", c.Kind, r.Err)
		}
	}
	if r, _ := p.s.Apply(p.index, Command{Kind: CmdBeginEpoch, Epoch: 9}); !errors.Is(r.Err, errors.KindInvalid) || p.s.Epoch() != 1 {
		t.Fatal("an index was applied twice: ", r.Err)
	}
}

func TestSpace(t *testing.T) {
	p := newScript(t)
	a, b := p.open(1), p.open(2)
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 1})
	p.attach(a, 1)
	p.attach(b, 1)
	p.ok(numbered(CmdReserve, a, 1, 1<<40)) // no capacity is set: no limit
	p.ok(numbered(CmdUnreserve, a, 2, 1<<40))
	p.ok(Command{Kind: CmdSetSetting, Name: SettingCapacityBlocks, Value: 100})
	p.ok(numbered(CmdReserve, a, 3, 60))
	p.refused(errors.KindNoSpace, numbered(CmdReserve, b, 1, 41))
	p.ok(numbered(CmdReserve, b, 2, 40))
	p.refused(errors.KindNoReserve, write(a, 1, 1, 61))
	p.ok(write(a, 1, 1, 50))
	if got := p.s.Space(); got != (Space{100, 50, 50}) {
		t.Fatal(got)
	}
	p.ok(write(a, 1, 1, 50)) // a repetition counts nothing
	p.ok(write(a, 1, 2, -20))
	if got := p.s.Space(); got != (Space{100, 30, 50}) { // back to the store, not to the reservation
		t.Fatal(got)
	}
	p.refused(errors.KindInvalid, write(a, 1, 3, -31))
	p.refused(errors.KindInvalid, write(a, 1, 3, -1<<63))
	p.ok(numbered(CmdUnreserve, a, 4, 100)) // up to what is left
	p.ok(Command{Kind: CmdFenceWriter, Writer: b.Writer})
	if got := p.s.Space(); got != (Space{100, 30, 0}) {
		t.Fatal(got)
	}
	p.ok(Command{Kind: CmdSetSetting, Name: SettingCapacityBlocks, Value: 10}) // a smaller capacity refuses, never undoes
	p.refused(errors.KindNoSpace, numbered(CmdReserve, a, 5, 1))
	p.ok(Command{Kind: CmdSetSetting, Name: "a", Value: 1})
	if got := p.s.Settings(); !reflect.DeepEqual(got, []Setting{{"a", 1}, {SettingCapacityBlocks, 10}}) {
		t.Fatal(got)
	}
}

func TestNumberedCommands(t *testing.T) {
	p := newScript(t)
	a, b := p.open(1), p.open(2)
	first := p.ok(numbered(CmdTakeInodes, a, 1, 100))
	if first.Inodes != (InodeRange{FirstInode, 100}) {
		t.Fatal(first)
	}
	p.ok(numbered(CmdTakeInodes, b, 1, 10))
	if again := p.ok(numbered(CmdTakeInodes, a, 1, 100)); again != first {
		t.Fatal(again)
	}
	third := p.ok(numbered(CmdTakeInodes, a, 7, 5)) // numbers may skip
	if third.Inodes != (InodeRange{126, 5}) {
		t.Fatal(third)
	}
	p.ok(numbered(CmdTakeInodes, a, 8, 5)) // joined with the neighbour
	info, _ := p.s.Writer(a.Writer)
	if !reflect.DeepEqual(info.Inodes, []InodeRange{{16, 100}, {126, 10}}) || info.NextOp != 9 || p.s.NextInode() != 136 {
		t.Fatalf("%+v", info)
	}
	p.refused(errors.KindStale, numbered(CmdTakeInodes, a, 7, 5))
	p.refused(errors.KindInvalid, numbered(CmdReserve, a, 8, 5)) // the number was another command's
	p.refused(errors.KindInvalid, numbered(CmdReserve, a, 0, 5))
	p.refused(errors.KindInvalid, numbered(CmdTakeInodes, a, 9, TakeInodesMax+1))
	p.refused(errors.KindDeadWriter, numbered(CmdTakeInodes, Session{Writer: 99}, 1, 1))
	p.refused(errors.KindWrongToken, numbered(CmdTakeInodes, Session{Writer: a.Writer}, 10, 1))

	// A refusal is remembered too: the repetition of a Reserve that did not fit does not fit later.
	p.ok(Command{Kind: CmdSetSetting, Name: SettingCapacityBlocks, Value: 1})
	p.refused(errors.KindNoSpace, numbered(CmdReserve, a, 20, 2))
	p.ok(Command{Kind: CmdSetSetting, Name: SettingCapacityBlocks, Value: 10})
	p.refused(errors.KindNoSpace, numbered(CmdReserve, a, 20, 2))
	if p.s.Reserved() != 0 {
		t.Fatal("the repetition reserved")
	}
	s, err := DecodeState(p.s.Encode()) // and survives a snapshot
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := s.Apply(p.index+1, numbered(CmdReserve, a, 20, 2)); !errors.Is(r.Err, errors.KindNoSpace) {
		t.Fatal(r.Err)
	}
}

func TestRetired(t *testing.T) {
	p := newScript(t)
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 1})
	var all []Session
	for n := range byte(5) {
		ses := p.open(n + 1)
		p.attach(ses, 1)
		all = append(all, ses)
	}
	closing := func(i int, count uint64) Command {
		return Command{Kind: CmdCloseWriter, Writer: all[i].Writer, Token: all[i].Token, Count: count}
	}
	for _, i := range []int{0, 1, 3} {
		p.ok(write(all[i], 1, 1, 0))
	}
	p.refused(errors.KindWrongToken, Command{Kind: CmdCloseWriter, Writer: all[0].Writer, Count: 1})
	p.ok(Command{Kind: CmdFenceWriter, Writer: all[3].Writer})
	p.ok(closing(0, 0)) // wrote: retired
	p.ok(closing(1, 1)) // wrote, but says that nothing is left
	p.ok(closing(2, 0)) // never wrote
	p.ok(closing(0, 0)) // a repetition
	if got := p.s.Retired(); !reflect.DeepEqual(got, []WriterID{1, 4}) {
		t.Fatal(got)
	}
	p.refused(errors.KindDeadWriter, Command{Kind: CmdCloseWriter, Writer: 77})
	p.ok(numbered(CmdForgetRetired, all[4], 1, 1))
	p.ok(numbered(CmdForgetRetired, all[4], 2, 1))
	if got := p.s.Retired(); !reflect.DeepEqual(got, []WriterID{4}) {
		t.Fatal(got)
	}
}

func TestBounds(t *testing.T) {
	p := newScript(t)
	for i := range WritersMax {
		p.ok(Command{Kind: CmdOpenWriter, Token: Token{1, byte(i), byte(i >> 8)}})
	}
	p.refused(errors.KindTooManyFiles, Command{Kind: CmdOpenWriter, Token: Token{2}})
	p.ok(Command{Kind: CmdOpenWriter, Token: Token{1}}) // a repetition is no new one
	p.ok(Command{Kind: CmdFenceWriter, Writer: 5})
	p.ok(Command{Kind: CmdOpenWriter, Token: Token{2}})
	for i := range SettingsMax {
		p.ok(Command{Kind: CmdSetSetting, Name: fmt.Sprint(i)})
	}
	p.refused(errors.KindNoMemory, Command{Kind: CmdSetSetting, Name: "more"})
	p.refused(errors.KindNameTooLong, Command{Kind: CmdSetSetting, Name: string(make([]byte, 65))})

	p = newScript(t)
	a, b := p.open(1), p.open(2)
	for i := range RetiredMax {
		p.s.retired = append(p.s.retired, WriterID(10+i))
	}
	p.s.nextWriter = 10 + RetiredMax
	p.refused(errors.KindTooManyFiles, Command{Kind: CmdOpenWriter, Token: Token{3}})
	p.ok(Command{Kind: CmdFenceWriter, Writer: 1})
	p.ok(Command{Kind: CmdFenceWriter, Writer: 2})
	p.open(3) // with none live, one is let in to empty orphan lists

	p.s.nextInode = InodeMax - 5
	p.s.rangeCount = InodeRangesMax
	c, _ := p.s.Writer(p.s.Writers()[0].ID)
	ses := Session{c.ID, Token{3, 1}}
	p.refused(errors.KindNoSpace, numbered(CmdTakeInodes, ses, 1, 6))
	p.refused(errors.KindTooManyFiles, numbered(CmdTakeInodes, ses, 2, 1))
	p.refused(errors.KindNoSpace, func() Command { p.s.used = reservedMax; return numbered(CmdReserve, ses, 3, 1) }())
	_, _ = a, b
}

func TestStateGolden(t *testing.T) {
	p := newScript(t)
	a, b := p.open(1), p.open(2)
	p.ok(Command{Kind: CmdBeginEpoch, Epoch: 3})
	p.attach(a, 3)
	p.attach(b, 3)
	p.ok(Command{Kind: CmdSetSetting, Name: SettingCapacityBlocks, Value: 1000})
	p.ok(numbered(CmdReserve, a, 1, 500))
	p.ok(write(a, 3, 1, 300))
	p.ok(write(b, 3, 1, 0))
	p.ok(numbered(CmdTakeInodes, a, 2, 1024))
	p.apply(numbered(CmdReserve, a, 3, 501))
	p.ok(Command{Kind: CmdFenceWriter, Writer: b.Writer})
	golden(t, "state-v1.hex", p.s.Encode())
}
