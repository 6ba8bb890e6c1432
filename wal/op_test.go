package wal

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// disk is the model of a device: the blocks that are present.
type disk map[Addr]*[BlockSize]byte

func (d disk) Trim(s Span) error {
	for i := range s.Count {
		delete(d, Addr{s.VDisk, s.Block + i})
	}
	return nil
}

func (d disk) Zero(s Span) error {
	for i := range s.Count {
		d[Addr{s.VDisk, s.Block + i}] = new([BlockSize]byte)
	}
	return nil
}

func (d disk) Write(list []Range) error {
	for _, g := range list {
		if d[g.Addr] == nil {
			d[g.Addr] = new([BlockSize]byte)
		}
		copy(d[g.Addr][g.Off:], g.Data)
	}
	return nil
}

func (d disk) write(a Addr, off uint32, data []byte) {
	for i, b := range data {
		at := uint64(off) + uint64(i)
		_ = d.Write([]Range{{Addr: Addr{a.VDisk, a.Block + at/BlockSize}, Off: uint32(at % BlockSize), Data: []byte{b}}})
	}
}

func (d disk) equal(e disk) bool {
	if len(d) != len(e) {
		return false
	}
	for a, b := range d {
		if e[a] == nil || *e[a] != *b {
			return false
		}
	}
	return true
}

// randomStep makes one random change of few blocks, so that changes meet, in o and in the model.
func randomStep(r *rand.Rand, o *Op, model disk) {
	s := Span{uint64(1 + r.IntN(2)), uint64(r.IntN(8)), uint64(r.IntN(4))}
	switch r.IntN(6) {
	case 0:
		o.Trim(s)
		_ = model.Trim(s)
	case 1:
		o.Zero(s)
		_ = model.Zero(s)
	default:
		off := uint32(r.IntN(BlockSize))
		n := 1 + r.IntN(60)
		switch r.IntN(4) {
		case 0:
			off, n = 0, BlockSize*(1+r.IntN(3))
		case 1:
			n = 1 + r.IntN(2*BlockSize)
		}
		data := fill(n, byte(r.Uint32()))
		a := Addr{s.VDisk, s.Block}
		o.Write(a, off, data)
		model.write(a, off, data)
	}
}

// TestOpOrder: whatever the order of the changes of an operation, its record gives the same blocks.
func TestOpOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 3000 {
		model, dev := disk{}, disk{}
		before := Op{}
		before.Zero(Span{1, 0, 6})
		before.Write(Addr{2, 3}, 5, fill(100, 1))
		_ = Redo(&before.Record, model)
		_ = Redo(&before.Record, dev)
		var op Op
		for range 1 + r.IntN(10) {
			randomStep(r, &op, model)
		}
		if err := op.Validate(); err != nil {
			t.Fatal(err)
		}
		rec := decode(t, op.AppendTo(nil))
		for range 2 { // redo is idempotent
			if err := Redo(rec, dev); err != nil {
				t.Fatal(err)
			}
			if !dev.equal(model) {
				t.Fatalf("run %d: blocks differ after %+v", i, op)
			}
		}
	}
}

func TestOpMerges(t *testing.T) {
	var op Op
	if !op.Empty() {
		t.Fatal("a new Op is not empty")
	}
	for i := range uint64(10) {
		op.Trim(Span{4, 100 + i, 1})
	}
	op.Trim(Span{4, 90, 10})
	op.Trim(Span{4, 5, 1 << 63})
	op.Trim(Span{4, BlocksMax, 1})
	op.Zero(Span{4, 0, 0})
	if len(op.Trims) != 1 || op.Trims[0] != (Span{4, 5, BlocksMax - 5}) || len(op.Zeros) != 0 {
		t.Fatalf("%+v", op)
	}
	op.Zero(Span{4, 10, 10})
	op.Trim(Span{4, 12, 3})
	if len(op.Zeros) != 2 || op.Zeros[0] != (Span{4, 10, 2}) || op.Zeros[1] != (Span{4, 15, 5}) {
		t.Fatalf("%+v", op.Zeros)
	}
	op.AddAlloc(7)
	op.AddAlloc(-9)
	if op.AllocDelta != -2 || op.Empty() {
		t.Fatal(op.AllocDelta)
	}
	op.Reset()
	if !op.Empty() || op.Bytes() != recordHeaderLen {
		t.Fatalf("after Reset %+v", op)
	}
}

type callDevice struct{ calls [][]Range }

func (c *callDevice) Trim(Span) error { return nil }
func (c *callDevice) Zero(Span) error { return nil }
func (c *callDevice) Write(l []Range) error {
	c.calls = append(c.calls, l)
	return nil
}

func TestRedoGroups(t *testing.T) {
	var op Op
	op.Write(Addr{1, 5}, 10, fill(20, 1))
	op.Write(Addr{9, 5}, 0, fill(BlockSize, 2)) // a whole block alone is no run
	op.Write(Addr{2, 7}, 0, fill(3*BlockSize, 3))
	op.Write(Addr{3, 10}, 0, fill(2*BlockSize, 4))
	op.Write(Addr{3, 2}, 1, fill(BlockSize, 5))
	rec := decode(t, op.AppendTo(nil))
	var dev callDevice
	if err := Redo(rec, &dev); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, c := range dev.calls {
		got = append(got, len(c))
	}
	if len(got) != 4 || got[0] != 2 || got[1] != 3 || got[2] != 2 || got[3] != 2 {
		t.Fatalf("groups %v", got)
	}
	if j := JoinRun(dev.calls[1]); !bytes.Equal(j, fill(3*BlockSize, 3)) {
		t.Fatal("the run of a decoded extent is not joined")
	}
	if JoinRun(dev.calls[0]) != nil || JoinRun(nil) != nil {
		t.Fatal("joined what does not lie together")
	}
	apart := []Range{{Addr: Addr{1, 1}, Data: make([]byte, BlockSize, 2*BlockSize)}, {Addr: Addr{1, 2}, Data: make([]byte, BlockSize)}}
	if JoinRun(apart) != nil {
		t.Fatal("joined bytes that are elsewhere")
	}
}
