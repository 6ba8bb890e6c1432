package blockstore

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// grownState is a state with a bit of everything.
func grownState(t testing.TB, seed uint64) *State {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	g := &client{r: r, m: newModel()}
	s := NewState()
	for i := range 1500 {
		c := g.next(i)
		if c.c.Kind == CmdBeginEpoch {
			c.c.Epoch++
		}
		g.m.apply(uint64(i+1), c.c, c.mark, c.delta)
		s.Apply(uint64(i+1), c.c)
	}
	return s
}

func resealState(b []byte) []byte {
	if len(b) >= stateHeaderLen {
		binary.LittleEndian.PutUint32(b[8:], crc.Checksum(b[stateHeaderLen:]))
	}
	return b
}

func TestDecodeStateRefuses(t *testing.T) {
	good := grownState(t, 1).Encode()
	tests := []struct {
		name string
		kind errors.Kind
		make func(b []byte) []byte
	}{
		{"nothing", errors.KindForeign, func([]byte) []byte { return nil }},
		{"magic", errors.KindForeign, func(b []byte) []byte { b[1]++; return b }},
		{"newer", errors.KindTooNew, func(b []byte) []byte { b[4]++; return b }},
		{"version 0", errors.KindCorrupt, func(b []byte) []byte { b[4] = 0; return b }},
		{"reserved", errors.KindCorrupt, func(b []byte) []byte { b[7] = 1; return b }},
		{"header alone", errors.KindCorrupt, func(b []byte) []byte { return b[:10] }},
		{"checksum", errors.KindCorrupt, func(b []byte) []byte { b[9]++; return b }},
		{"body", errors.KindCorrupt, func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"trailing", errors.KindCorrupt, func(b []byte) []byte { return resealState(append(b, 0)) }},
		{"cut", errors.KindCorrupt, func(b []byte) []byte { return resealState(b[:len(b)-1]) }},
		{"empty body", errors.KindCorrupt, func(b []byte) []byte { return resealState(b[:stateHeaderLen]) }},
	}
	for _, tt := range tests {
		if _, err := DecodeState(tt.make(bytes.Clone(good))); !errors.Is(err, tt.kind) {
			t.Errorf("%s: error %v, want kind %d", tt.name, err, tt.kind)
		}
	}
}

// TestDecodeStateInvariants: a state whose checksum fits, but which no log makes, is refused.
func TestDecodeStateInvariants(t *testing.T) {
	base := func() *State {
		s := grownState(t, 2)
		if len(s.writers) < 2 || len(s.retired) < 2 {
			t.Fatalf("too little to spoil: %d writers, %d retired", len(s.writers), len(s.retired))
		}
		return s
	}
	tests := map[string]func(s *State){
		"reserved":        func(s *State) { s.reserved++ },
		"overflow":        func(s *State) { s.writers[0].reserved = 1 << 63; s.writers[1].reserved = 1 << 63; s.reserved = 0 },
		"used":            func(s *State) { s.used = reservedMax + 1 },
		"next writer":     func(s *State) { s.nextWriter = s.writers[len(s.writers)-1].id },
		"next inode":      func(s *State) { s.nextInode = FirstInode - 1 },
		"writer order":    func(s *State) { s.writers[0], s.writers[1] = s.writers[1], s.writers[0] },
		"token twice":     func(s *State) { s.writers[0].token = s.writers[1].token },
		"empty token":     func(s *State) { s.writers[0].token = Token{} },
		"retired order":   func(s *State) { s.retired[0], s.retired[1] = s.retired[1], s.retired[0] },
		"live, retired":   func(s *State) { s.retired = []WriterID{s.writers[0].id} },
		"setting order":   func(s *State) { s.settings = []Setting{{"b", 1}, {"a", 1}} },
		"setting unnamed": func(s *State) { s.settings = []Setting{{"", 1}} },
		"last write":      func(s *State) { s.lastWrite = s.applied + 1 },
		"epoch":           func(s *State) { s.writers[0].epoch = s.epoch + 1 },
		"opened":          func(s *State) { s.writers[0].opened = s.applied + 1 },
		"inodes":          func(s *State) { s.writers[0].inodes = []InodeRange{{s.nextInode, 1}} },
		"inode order":     func(s *State) { s.writers[0].inodes = []InodeRange{{20, 1}, {20, 1}} },
		"inode overflow":  func(s *State) { s.writers[0].inodes = []InodeRange{{20, 1<<64 - 1}} },
	}
	for name, spoil := range tests {
		s := base()
		spoil(s)
		if _, err := DecodeState(s.Encode()); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeState(base().Encode()); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(NewState().Encode())
	for seed := range uint64(4) {
		f.Add(grownState(f, seed).Encode())
	}
	f.Add([]byte("dfsS\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = DecodeState(b)
		b = resealState(bytes.Clone(b))
		s, err := DecodeState(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Encode(), b) {
			t.Fatal("encode(decode(b)) differs")
		}
		// Whatever was decoded can be worked with.
		s.Apply(s.applied+1, Command{Kind: CmdOpenWriter, Token: Token{1}})
		for _, w := range s.writers {
			s.Apply(s.applied+1, Command{Kind: CmdReserve, Writer: w.id, Token: w.token, Op: w.last.op + 1, Count: ReserveBlocksMax})
			s.Apply(s.applied+1, Command{Kind: CmdTakeInodes, Writer: w.id, Token: w.token, Op: w.last.op + 1, Count: TakeInodesMax})
			break
		}
	})
}
