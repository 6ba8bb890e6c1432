package wal

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// checkIndex checks the invariant of txn: the pieces of a block are in order and disjoint, and name the newest bytes.
func checkIndex(t *testing.T, x *txn) {
	t.Helper()
	s := sealed{buf: slices.Clone(x.buf), extents: x.extents}
	b, _ := s.finish()
	newest := disk{}
	rec := decode(t, b)
	_ = Redo(rec, newest)
	if len(newest) != len(x.index) {
		t.Fatalf("%d blocks in the record, %d in the index", len(newest), len(x.index))
	}
	for a, at := range x.index {
		prev := uint32(0)
		for _, p := range x.blocks[at] {
			if p.off < prev || p.end <= p.off || p.end > BlockSize {
				t.Fatalf("pieces of %v: %v", a, x.blocks[at])
			}
			prev = p.end
			if got := x.buf[p.pos : p.pos+int(p.end-p.off)]; string(got) != string(newest[a][p.off:p.end]) {
				t.Fatalf("piece %v of %v does not name the newest bytes", p, a)
			}
		}
	}
}

func TestTxnRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	var x txn
	for run := range 60 {
		model, dev := disk{}, disk{}
		seed := Op{}
		seed.Zero(Span{1, 2, 5})
		_ = Redo(&seed.Record, model)
		_ = Redo(&seed.Record, dev)
		redo := func() {
			s := x.seal(1)
			b, _ := s.finish()
			if len(b) != s.size {
				t.Fatalf("size %d, encoded %d", s.size, len(b))
			}
			_ = Redo(decode(t, b), dev)
			if !dev.equal(model) {
				t.Fatalf("run %d: blocks differ", run)
			}
		}
		for range 40 {
			var op Op
			before := disk{}
			for a, b := range model {
				c := *b
				before[a] = &c
			}
			for range 1 + r.IntN(4) {
				randomStep(r, &op, model)
			}
			if !x.empty() && x.conflicts(&op) {
				after := model
				model = before
				redo()
				model = after
			}
			if x.empty() {
				x.begin(make([]byte, 0, 1<<20), time.Time{})
			}
			was := max(x.size(), recordHeaderLen)
			x.add(&op)
			if grown := x.size() - was; grown > op.Bytes()-recordHeaderLen {
				t.Fatalf("run %d: grown by %d, the operation has %d", run, grown, op.Bytes()-recordHeaderLen)
			}
			checkIndex(t, &x)
		}
		redo()
	}
}

func newTxn() *txn {
	x := &txn{}
	x.begin(make([]byte, 0, 1<<20), time.Time{})
	return x
}

func commitTo(x *txn, change func(op *Op)) int {
	var op Op
	change(&op)
	return x.add(&op)
}

func TestTxnAbsorbs(t *testing.T) {
	x := newTxn()
	inode, dir := Addr{1, 77}, Addr{50, 3}
	for i := range 100 {
		absorbed := commitTo(x, func(op *Op) {
			op.Write(inode, 128, fill(256, byte(i)))
			op.Write(dir, uint32(i*20), fill(20, byte(i)))
		})
		if want := min(i, 1) * 256; absorbed != want {
			t.Fatalf("operation %d: %d bytes absorbed, want %d", i, absorbed, want)
		}
	}
	if x.size() > recordHeaderLen+256+2000+4*12 {
		t.Fatalf("100 changes of an inode and a directory take %d bytes in %d extents", x.size(), x.extents)
	}
	s := x.seal(1)
	b, _ := s.finish()
	d := disk{}
	_ = Redo(decode(t, b), d)
	if string(d[inode][128:384]) != string(fill(256, 99)) || string(d[dir][1980:2000]) != string(fill(20, 99)) {
		t.Fatal("the newest bytes are not in the record")
	}
}

// TestTxnJoinsSmallWrites: a file written in small pieces costs one header, as long as nothing comes between.
func TestTxnJoinsSmallWrites(t *testing.T) {
	x := newTxn()
	for i := range 1000 {
		commitTo(x, func(op *Op) {
			at := 100 * i
			op.Write(Addr{9, uint64(at / BlockSize)}, uint32(at%BlockSize), fill(100, 1))
		})
	}
	if x.extents != 1 || x.size() > 100_000+60 {
		t.Fatalf("%d extents, %d bytes", x.extents, x.size())
	}
	checkIndex(t, x)
}

// TestTxnClipPays: a range is not cut where that saves less than the extent header it may cost.
func TestTxnClipPays(t *testing.T) {
	for _, n := range []int{1, clipMin - 1, clipMin} {
		x := newTxn()
		commitTo(x, func(op *Op) { op.Write(Addr{1 << 63, 1 << 51}, 0, fill(n, 1)) })
		was := x.size()
		var op Op
		op.Write(Addr{1 << 63, 1<<51 - 1}, 0, fill(2*BlockSize, 2))
		x.add(&op)
		if grown := x.size() - was; grown > op.Bytes()-recordHeaderLen {
			t.Fatalf("%d bytes were there already: grown by %d, the operation has %d", n, grown, op.Bytes()-recordHeaderLen)
		}
		checkIndex(t, x)
	}
}

func TestTxnConflicts(t *testing.T) {
	x := newTxn()
	commitTo(x, func(op *Op) {
		op.Trim(Span{5, 100, 10})
		op.Zero(Span{5, 200, 10})
		op.Write(Addr{5, 50}, 0, fill(10, 1))
	})
	tests := []struct {
		name   string
		change func(op *Op)
		want   bool
	}{
		{"trim of bytes", func(op *Op) { op.Trim(Span{5, 50, 1}) }, true},
		{"trim of everything", func(op *Op) { op.Trim(Span{5, 0, 1 << 63}) }, true},
		{"zero of bytes", func(op *Op) { op.Zero(Span{5, 45, 10}) }, true},
		{"trim of zeros", func(op *Op) { op.Trim(Span{5, 209, 1}) }, true},
		{"zero of zeros", func(op *Op) { op.Zero(Span{5, 205, 100}) }, false},
		{"zero of trimmed", func(op *Op) { op.Zero(Span{5, 105, 1}) }, false},
		{"write to trimmed", func(op *Op) { op.Write(Addr{5, 105}, 0, fill(1, 1)) }, false},
		{"trim beside", func(op *Op) { op.Trim(Span{5, 51, 49}) }, false},
		{"trim elsewhere", func(op *Op) { op.Trim(Span{6, 0, 1 << 63}) }, false},
	}
	for _, tt := range tests {
		var op Op
		tt.change(&op)
		if got := x.conflicts(&op); got != tt.want {
			t.Errorf("%s: conflict %v", tt.name, got)
		}
	}
}
