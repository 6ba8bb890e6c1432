package blockstore

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sort"
	"testing"

	"dfs/internal/errors"
	"dfs/wal"
)

// model is the state machine told another way: maps, and sums made anew each time.
type model struct {
	epoch      Epoch
	opened     int
	nextInode  uint64
	used       int64
	capacity   uint64
	live       map[WriterID]*modelWriter
	retired    map[WriterID]bool
	everInodes map[uint64]WriterID // of the small ranges that the test takes, who has them
	marks      map[string]uint64   // what was applied, by its mark: at which index
}

type modelWriter struct {
	token    Token
	epoch    Epoch
	records  []uint64 // their indexes
	reserved int64
	ops      map[uint64]string // answers
	lastOp   uint64
	lastKind CommandKind
}

func newModel() *model {
	return &model{nextInode: 16, live: map[WriterID]*modelWriter{}, retired: map[WriterID]bool{}, everInodes: map[uint64]WriterID{}, marks: map[string]uint64{}}
}

func (m *model) reserved() (sum int64) {
	for _, w := range m.live {
		sum += w.reserved
	}
	return sum
}

func (m *model) end(id WriterID, clean bool) {
	if w := m.live[id]; w != nil && len(w.records) > 0 && !clean {
		m.retired[id] = true
	}
	delete(m.live, id)
}

// answer is what the model expects: a kind (or ok), and the writer, index and inodes where they matter.
func show(ok bool, kind errors.Kind, index uint64, w WriterID, r InodeRange, applied bool) string {
	if !ok {
		return fmt.Sprintf("refused %d", kind)
	}
	return fmt.Sprintf("index %d writer %d inodes %v applied %v", index, w, r, applied)
}

func (m *model) apply(index uint64, c Command, mark string, delta int64) string {
	refuse := func(k errors.Kind) string { return show(false, k, 0, 0, InodeRange{}, false) }
	done := show(true, 0, index, c.Writer, InodeRange{}, false)
	w := m.live[c.Writer]
	switch c.Kind {
	case CmdOpenWriter:
		for id, w := range m.live {
			if w.token == c.Token {
				return show(true, 0, index, id, InodeRange{}, false)
			}
		}
		m.opened++
		m.live[WriterID(m.opened)] = &modelWriter{token: c.Token, ops: map[uint64]string{}}
		return show(true, 0, index, WriterID(m.opened), InodeRange{}, false)
	case CmdFenceWriter:
		if int(c.Writer) > m.opened {
			return refuse(errors.KindDeadWriter)
		}
		m.end(c.Writer, false)
		return done
	case CmdBeginEpoch:
		if c.Epoch < m.epoch {
			return refuse(errors.KindStaleEpoch)
		}
		m.epoch = c.Epoch
		return done
	case CmdSetSetting:
		m.capacity = c.Value
		return done
	case CmdCloseWriter:
		if w == nil && int(c.Writer) <= m.opened {
			return done
		}
	}
	if w == nil {
		return refuse(errors.KindDeadWriter)
	}
	if w.token != c.Token {
		return refuse(errors.KindWrongToken)
	}
	switch c.Kind {
	case CmdCloseWriter:
		m.end(c.Writer, c.Count == 1)
		return done
	case CmdAttachWriter:
		if m.epoch == 0 || c.Epoch != m.epoch {
			return refuse(errors.KindStaleEpoch)
		}
		w.epoch = c.Epoch
		return done
	case CmdWrite:
		n := uint64(len(w.records))
		switch {
		case c.Seq <= n:
			return show(true, 0, w.records[n-1], c.Writer, InodeRange{}, false)
		case m.epoch == 0 || c.Epoch != m.epoch || w.epoch != m.epoch:
			return refuse(errors.KindStaleEpoch)
		case c.Seq > n+1:
			return refuse(errors.KindSeqGap)
		case delta > w.reserved:
			return refuse(errors.KindNoReserve)
		case m.used+delta < 0:
			return refuse(errors.KindInvalid)
		}
		m.used += delta
		w.reserved -= max(delta, 0)
		w.records = append(w.records, index)
		m.marks[mark] = index
		return show(true, 0, index, c.Writer, InodeRange{}, true)
	}
	if c.Op < w.lastOp {
		return refuse(errors.KindStale)
	}
	if c.Op == w.lastOp {
		if w.lastKind != c.Kind {
			return refuse(errors.KindInvalid)
		}
		return w.ops[c.Op]
	}
	answer := done
	switch c.Kind {
	case CmdTakeInodes:
		answer = show(true, 0, index, c.Writer, InodeRange{m.nextInode, c.Count}, false)
		for range c.Count {
			m.everInodes[m.nextInode] = c.Writer
			m.nextInode++
		}
	case CmdReserve:
		if m.capacity > 0 && uint64(m.used+m.reserved())+c.Count > m.capacity {
			answer = refuse(errors.KindNoSpace)
		} else {
			w.reserved += int64(c.Count)
		}
	case CmdUnreserve:
		w.reserved = max(0, w.reserved-int64(c.Count))
	case CmdForgetRetired:
		delete(m.retired, WriterID(c.Count))
	}
	w.lastOp, w.lastKind = c.Op, c.Kind
	w.ops[c.Op] = answer
	return answer
}

// client makes commands that are mostly right, and sometimes not.
type client struct {
	r    *rand.Rand
	m    *model
	sent []sentCommand
}

type sentCommand struct {
	c     Command
	mark  string
	delta int64
}

func (g *client) next(i int) sentCommand {
	r := g.r
	if len(g.sent) > 0 && r.IntN(4) == 0 { // duplicated and late commands
		return g.sent[max(0, len(g.sent)-1-r.IntN(1+r.IntN(60)))]
	}
	id := WriterID(1 + r.IntN(g.m.opened+1))
	if r.IntN(8) > 0 && len(g.m.live) > 0 {
		ids := make([]int, 0, len(g.m.live))
		for l := range g.m.live {
			ids = append(ids, int(l))
		}
		sort.Ints(ids)
		id = WriterID(ids[r.IntN(len(ids))])
	}
	w := g.m.live[id]
	if w == nil {
		w = &modelWriter{token: Token{99}}
	}
	s := sentCommand{c: Command{Writer: id, Token: w.token, Epoch: g.m.epoch, Count: 1 + uint64(r.IntN(40)), Op: w.lastOp + uint64(r.IntN(3)) + 1, Seq: uint64(len(w.records)) + 1}}
	c := &s.c
	if r.IntN(20) == 0 {
		c.Token[5]++
	}
	if r.IntN(12) == 0 {
		c.Epoch += Epoch(r.IntN(3)) - 1
	}
	if r.IntN(12) == 0 {
		c.Seq = 1 + uint64(r.IntN(int(c.Seq)+2))
	}
	kinds := []CommandKind{CmdWrite, CmdWrite, CmdWrite, CmdWrite, CmdWrite, CmdTakeInodes, CmdReserve, CmdReserve, CmdUnreserve, CmdForgetRetired, CmdAttachWriter, CmdAttachWriter,
		CmdOpenWriter, CmdSetSetting, CmdBeginEpoch, CmdFenceWriter, CmdCloseWriter}
	n := len(kinds)
	if len(g.m.live) < 3 || r.IntN(3) > 0 {
		n -= 3 // ends are rare
	}
	c.Kind = kinds[r.IntN(n)]
	if !g.m.isAttached(w) && r.IntN(2) == 0 {
		c.Kind = CmdAttachWriter
	}
	switch c.Kind {
	case CmdOpenWriter:
		c.Token = Token{1, byte(r.IntN(12)), byte(r.IntN(1 + i/500))}
	case CmdBeginEpoch:
		c.Epoch = g.m.epoch + Epoch(r.IntN(3))
	case CmdSetSetting:
		c.Name, c.Value = SettingCapacityBlocks, uint64(r.IntN(400))
	case CmdForgetRetired:
		c.Count = 1 + uint64(r.IntN(g.m.opened+1))
	case CmdCloseWriter:
		c.Count = uint64(r.IntN(2))
	case CmdWrite:
		s.mark = fmt.Sprintf("writer %d record %d command %d", id, c.Seq, i)
		s.delta = int64(r.IntN(20)) - 6
		rec := wal.Record{AllocDelta: s.delta, Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 1}, Data: []byte(s.mark)}}}
		c.Record = rec.AppendTo(nil)
	}
	return s
}

func (m *model) isAttached(w *modelWriter) bool { return w.epoch == m.epoch && m.epoch != 0 }

func TestStateAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		runAgainstModel(t, seed, 1500)
	}
}

func runAgainstModel(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 77))
	m := newModel()
	g := &client{r: r, m: m}
	one, two := NewState(), NewState()
	times := map[string]int{}      // how often each mark was handed out for redo
	order := map[WriterID]uint64{} // the last record applied, by writer
	firstAt := map[string]uint64{} // the index first answered, by writer and record
	kinds := map[CommandKind]int{} // done
	index := uint64(0)
	for i := range steps {
		s := g.next(i)
		if s.c.Epoch == 0 && s.c.Kind == CmdBeginEpoch {
			s.c.Epoch = 1
		}
		g.sent = append(g.sent, s)
		index += 1 + uint64(r.IntN(3))
		enc := s.c.AppendTo(nil)
		c, err := DecodeCommand(enc)
		if err != nil {
			t.Fatal(err)
		}
		want := m.apply(index, s.c, s.mark, s.delta)
		res, rec := one.Apply(index, c)
		got := show(res.Err == nil, 0, res.Index, res.Writer, res.Inodes, rec != nil)
		if res.Err != nil {
			got = show(false, errors.KindOf(res.Err), 0, 0, InodeRange{}, false)
		} else {
			kinds[c.Kind]++
		}
		if got != want {
			t.Fatalf("seed %d step %d: %v %+v\n got %s (%v)\nwant %s", seed, i, c.Kind, s, got, res.Err, want)
		}
		if c.Kind == CmdWrite && res.Err == nil {
			key := fmt.Sprint(c.Writer, "/", c.Seq)
			if at, ok := firstAt[key]; ok && res.Index < at {
				t.Fatalf("record %s was answered with index %d, then with %d", key, at, res.Index)
			} else if !ok {
				firstAt[key] = res.Index
			}
		}
		if rec != nil {
			mark := string(rec.Ranges[0].Data)
			if times[mark]++; times[mark] > 1 {
				t.Fatalf("%q was applied twice", mark)
			}
			if c.Seq != order[c.Writer]+1 {
				t.Fatalf("writer %d: record %d after %d", c.Writer, c.Seq, order[c.Writer])
			}
			order[c.Writer] = c.Seq
		}
		res2, _ := two.Apply(index, c)
		if fmt.Sprint(res2) != fmt.Sprint(res) {
			t.Fatalf("another replica answered %v, not %v", res2, res)
		}
		b := one.Encode()
		if !bytes.Equal(b, two.Encode()) {
			t.Fatalf("seed %d step %d: replicas differ after %v", seed, i, c.Kind)
		}
		if two, err = DecodeState(b); err != nil { // goes on from the snapshot
			t.Fatalf("seed %d step %d: %v", seed, i, err)
		}
		if what := one.broken(); what != "" {
			t.Fatal(what)
		}
		m.compare(t, one)
	}
	for kind := CommandKind(1); kind <= commandKindLast; kind++ {
		if kinds[kind] == 0 {
			t.Fatalf("seed %d: no %v was done: the test tests too little", seed, kind)
		}
	}
}

func (m *model) compare(t *testing.T, s *State) {
	t.Helper()
	if s.Epoch() != m.epoch || s.Used() != uint64(m.used) || s.Reserved() != uint64(m.reserved()) || s.Capacity() != m.capacity ||
		s.NextInode() != m.nextInode || s.WriterCount() != len(m.live) || len(s.Retired()) != len(m.retired) {
		t.Fatalf("state %+v, model %+v", s, m)
	}
	for _, id := range s.Retired() {
		if !m.retired[id] {
			t.Fatalf("writer %d is retired", id)
		}
	}
	for _, info := range s.Writers() {
		w := m.live[info.ID]
		if w == nil || info.Reserved != uint64(w.reserved) || info.NextSeq != uint64(len(w.records)+1) || info.Attached != m.isAttached(w) {
			t.Fatalf("writer %+v, model %+v", info, w)
		}
		for _, r := range info.Inodes {
			for n := range r.Count {
				if m.everInodes[r.First+n] != info.ID {
					t.Fatalf("inode %d is writer %d's", r.First+n, info.ID)
				}
			}
		}
	}
}
