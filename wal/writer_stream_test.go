package wal

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestWriterPrefix: whatever is committed, the records up to a generation give
// the blocks as they were after the last operation of that generation.
func TestWriterPrefix(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for _, target := range []int{1, 5000, 30_000, 0} {
		s := &heldSink{}
		w, err := newWriter(s, Options{RecordBytesTarget: target})
		if err != nil {
			t.Fatal(err)
		}
		model := disk{}
		after := map[Gen]disk{}
		for range 250 {
			var op Op
			for range r.IntN(4) {
				randomStep(r, &op, model)
			}
			op.AddAlloc(int64(r.IntN(9) - 4))
			g, err := w.Commit(&op)
			if err != nil {
				t.Fatal(err)
			}
			op.Reset()
			c := disk{}
			for a, b := range model {
				x := *b
				c[a] = &x
			}
			after[g] = c
			if r.IntN(40) == 0 {
				w.mu.Lock()
				w.sealWanted(&w.stats.SealedWanted)
				w.mu.Unlock()
			}
			if r.IntN(10) == 0 {
				w.step()
			}
		}
		w.mu.Lock()
		if !w.running.empty() {
			w.seal(&w.stats.SealedWanted)
		}
		w.mu.Unlock()
		w.step()
		dev := disk{}
		for i, b := range s.records {
			if len(b) > RecordBytesMax {
				t.Fatalf("a record of %d bytes", len(b))
			}
			_ = Redo(decode(t, b), dev)
			if want, ok := after[Gen(i+1)]; ok && !dev.equal(want) {
				t.Fatalf("target %d: blocks differ after record %d", target, i+1)
			}
		}
		if !dev.equal(model) || len(s.records) < 2 {
			t.Fatalf("target %d: blocks differ at the end, %d records", target, len(s.records))
		}
		s.answer(len(s.records), nil)
		if st := w.Stats(); st.PendingBytes != 0 || int(st.Records) != len(s.records) || w.Durable() != Gen(len(s.records)) {
			t.Fatalf("%+v", st)
		}
	}
}

// asyncSink answers from a goroutine of its own, some time later.
type asyncSink struct {
	mu      sync.Mutex
	records [][]byte
	ch      chan func(uint64, error)
}

func (s *asyncSink) Submit(b []byte, done func(uint64, error)) {
	s.mu.Lock()
	s.records = append(s.records, b)
	s.mu.Unlock()
	s.ch <- done
}

// TestWriterConcurrent: many goroutines commit and flush; what Flush said is durable is in
// the records, in each goroutine's order, each whole.
func TestWriterConcurrent(t *testing.T) {
	s := &asyncSink{ch: make(chan func(uint64, error), 1<<16)}
	var last Gen
	w, err := NewWriter(s, Options{PendingBytesMax: 1 << 20, RecordBytesTarget: 20_000, OnDurable: func(g Gen) {
		if g != last+1 {
			t.Errorf("told of %d after %d", g, last)
		}
		last = g
	}})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		index := uint64(0)
		for done := range s.ch {
			index++
			done(index, nil)
		}
	}()
	const workers, rounds = 8, 200
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			ctx := context.Background()
			for i := range rounds {
				var op Op
				// Two blocks with the same mark: torn if they differ in any record's prefix.
				mark := fill(500+i, byte(i))
				op.Write(Addr{uint64(k + 1), 1}, 0, mark)
				op.Write(Addr{uint64(k + 1), 9}, 0, mark)
				op.AddAlloc(1)
				if err := w.Admit(ctx, op.Bytes()); err != nil {
					t.Error(err)
					return
				}
				g, err := w.Commit(&op)
				if err != nil {
					t.Error(err)
					return
				}
				if i%10 == 9 {
					if err := w.Flush(ctx, g); err != nil || w.Durable() < g {
						t.Error(err, w.Durable(), g)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if err := w.Flush(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	close(s.ch)
	<-answered
	dev := disk{}
	alloc := int64(0)
	for _, b := range s.records {
		rec := decode(t, b)
		alloc += rec.AllocDelta
		_ = Redo(rec, dev)
		for k := range uint64(workers) {
			a, b := dev[Addr{k + 1, 1}], dev[Addr{k + 1, 9}]
			if (a == nil) != (b == nil) || a != nil && *a != *b {
				t.Fatalf("worker %d: half an operation in a record", k)
			}
		}
	}
	if alloc != workers*rounds {
		t.Fatalf("alloc %d", alloc)
	}
}

func BenchmarkCommit128K(b *testing.B) {
	w, err := NewWriter(&heldSink{auto: true}, Options{})
	if err != nil {
		b.Fatal(err)
	}
	data, inode := fill(32*BlockSize, 1), fill(256, 2)
	b.SetBytes(int64(len(data)))
	ctx := context.Background()
	s := w.sink.(*heldSink)
	for i := range b.N {
		var op Op
		op.Write(Addr{7, uint64(i * 32)}, 0, data)
		op.Write(Addr{1, 7}, 0, inode)
		if err := w.Admit(ctx, op.Bytes()); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Commit(&op); err != nil {
			b.Fatal(err)
		}
		s.mu.Lock()
		for k := range s.records {
			s.records[k] = nil
		}
		s.mu.Unlock()
	}
	if err := w.Flush(ctx, 0); err != nil {
		b.Fatal(err)
	}
	_ = w.Close()
}

func BenchmarkDecode256K(b *testing.B) {
	var op Op
	op.Write(Addr{7, 0}, 0, fill(64*BlockSize, 1))
	enc := op.AppendTo(nil)
	b.SetBytes(int64(len(enc)))
	for range b.N {
		if _, err := DecodeRecord(enc); err != nil {
			b.Fatal(err)
		}
	}
}
