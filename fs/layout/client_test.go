package layout

import (
	"bytes"
	"testing"

	"dfs/internal/errors"
)

func sampleClientTable() []byte {
	table := NewClientTable(ClientHead{Who: [16]byte{1, 2, 3}, Generation: 7})
	table = ClientSet(table, 0, ClientSlot{Number: 5, State: ClientDone, Ino: MaxIno, At: 1 << 50})
	return ClientSet(table, ClientSlots-1, ClientSlot{Number: 1 << 60, State: ClientPart, At: 4096, Done: 262144})
}

func TestClientTable(t *testing.T) {
	table := sampleClientTable()
	if len(table) > InlineMax {
		t.Errorf("%d bytes are no inline data", len(table))
	}
	golden(t, "client.golden", table)
	h, err := DecodeClientHead(9, table)
	if err != nil || h != (ClientHead{Who: [16]byte{1, 2, 3}, Generation: 7}) {
		t.Error(h, err)
	}
	for i, want := range map[int]ClientSlot{0: {5, ClientDone, MaxIno, 1 << 50, 0}, 1: {}, ClientSlots - 1: {1 << 60, ClientPart, 0, 4096, 262144}} {
		if got, err := ClientGet(9, table, i); got != want || err != nil {
			t.Errorf("slot %d: %+v %v", i, got, err)
		}
	}
	// A slot in another's place does not fit.
	moved := bytes.Clone(table)
	copy(moved[clientHeader+clientSlot:], table[clientHeader:][:clientSlot])
	if _, err := ClientGet(9, moved, 1); !errors.Is(err, errors.KindCorrupt) {
		t.Error(err)
	}
	for _, c := range []struct {
		off  int
		to   byte
		want errors.Kind
	}{{0, 'x', errors.KindForeign}, {4, 9, errors.KindTooNew}, {6, 1, errors.KindCorrupt}, {24, 1, errors.KindCorrupt}, {60, 1, errors.KindCorrupt}} {
		d := bytes.Clone(table)
		d[c.off] = c.to
		if _, err := DecodeClientHead(9, d); !errors.Is(err, c.want) {
			t.Errorf("byte %d: %v", c.off, err)
		}
	}
	if _, err := DecodeClientHead(9, table[:100]); !errors.Is(err, errors.KindCorrupt) {
		t.Error(err)
	}
	for off := range clientSlot {
		d := bytes.Clone(table)
		d[clientHeader+off] ^= 0x10
		if _, err := ClientGet(9, d, 0); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("byte %d of a slot: %v", off, err)
		}
	}
}

func FuzzClientTable(f *testing.F) {
	f.Add(sampleClientTable())
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := DecodeClientHead(9, b); err != nil {
			return
		}
		for i := range ClientSlots {
			if s, err := ClientGet(9, b, i); err == nil && s.State != ClientNone && !bytes.Equal(ClientSet(b, i, s), b) {
				t.Fatalf("slot %d: %+v", i, s)
			}
		}
	})
}
