package wal

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dfs/internal/errors"
)

// heldSink keeps records until the test answers them, in order.
type heldSink struct {
	mu      sync.Mutex
	records [][]byte
	done    []func(uint64, error)
	next    int // the first not answered
	auto    bool
}

func (s *heldSink) Submit(b []byte, done func(uint64, error)) {
	s.mu.Lock()
	s.records = append(s.records, b)
	s.done = append(s.done, done)
	auto := s.auto
	s.mu.Unlock()
	if auto {
		s.answer(1, nil)
	}
}

func (s *heldSink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// answer answers the next n records: index 10 times their number.
func (s *heldSink) answer(n int, err error) {
	for range n {
		s.mu.Lock()
		i := s.next
		s.next++
		done := s.done[i]
		s.mu.Unlock()
		done(uint64(10*(i+1)), err)
	}
}

func newTestWriter(t *testing.T, s Sink, opt Options) *Writer {
	t.Helper()
	w, err := NewWriter(s, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func put(t testing.TB, w *Writer, block uint64, n int) Gen {
	t.Helper()
	var op Op
	op.Write(Addr{1, block}, 0, fill(n, byte(block)))
	g, err := w.Commit(&op)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// start calls f on a goroutine and returns where its answer will be.
func start(f func() error) chan error {
	ch := make(chan error, 1)
	go func() { ch <- f() }()
	return ch
}

func pending(ch chan error) bool {
	synctest.Wait()
	return len(ch) == 0
}

func TestFlushGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := &heldSink{}
		var told []Gen
		w := newTestWriter(t, s, Options{FlushesInFlight: 2, OnDurable: func(g Gen) { told = append(told, g) }})
		if err := w.Flush(ctx, 0); err != nil {
			t.Fatal(err)
		}
		var waits []chan error
		for i := range 10 {
			g := put(t, w, uint64(i), 100)
			waits = append(waits, start(func() error { return w.Flush(ctx, g) }))
			synctest.Wait()
		}
		// Two go at once; the eight others wait for an answer and share a record.
		if n := s.count(); n != 2 {
			t.Fatalf("%d records in flight", n)
		}
		s.answer(1, nil)
		if err := <-waits[0]; err != nil || w.Durable() != 1 || w.LastIndex() != 10 {
			t.Fatal(err, w.Durable(), w.LastIndex())
		}
		synctest.Wait()
		if n := s.count(); n != 3 {
			t.Fatalf("%d records after the first answer", n)
		}
		s.answer(1, nil)
		if !pending(waits[9]) {
			t.Fatal("Flush returned before its record was durable")
		}
		s.answer(1, nil)
		for _, ch := range waits[1:] {
			if err := <-ch; err != nil {
				t.Fatal(err)
			}
		}
		if len(told) != 3 || told[0] != 1 || told[2] != 3 || w.Durable() != 3 || w.LastIndex() != 30 {
			t.Fatal(told, w.Durable(), w.LastIndex())
		}
		if g, err := w.Commit(&Op{}); g != 3 || err != nil {
			t.Fatal(g, err)
		}
		if err := w.Flush(ctx, 4); !errors.Is(err, errors.KindInvalid) {
			t.Fatal(err)
		}
		put(t, w, 1, 1)
		if err := w.Flush(ctx, 3); err != nil {
			t.Fatal(err)
		}
		if s.count() != 3 {
			t.Fatal("a Flush of what is durable sealed a record")
		}
	})
}

func TestOldIsSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldSink{auto: true}
		w := newTestWriter(t, s, Options{})
		synctest.Wait() // its goroutine waits
		put(t, w, 1, 10)
		time.Sleep(600 * time.Millisecond)
		put(t, w, 1, 10) // makes it no younger
		time.Sleep(399 * time.Millisecond)
		synctest.Wait()
		if s.count() != 0 {
			t.Fatal("sealed too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if s.count() != 1 || w.Durable() != 1 {
			t.Fatalf("%d records, durable %d, after a second", s.count(), w.Durable())
		}
		if st := w.Stats(); st.SealedOld != 1 || st.AbsorbedBytes != 10 || st.PendingBytes != 0 || st.Ops != 2 {
			t.Fatalf("%+v", st)
		}
	})
}

func TestFullIsSubmittedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldSink{}
		w := newTestWriter(t, s, Options{})
		for i := range 40 {
			put(t, w, uint64(i)*32, 32*BlockSize) // 128 KiB
		}
		synctest.Wait()
		if s.count() != 20 {
			t.Fatalf("40 writes of 128 KiB are in %d records", s.count())
		}
		put(t, w, 9999, 1)
		put(t, w, 10000, 100*BlockSize) // greater than the target: alone
		synctest.Wait()
		if s.count() != 22 {
			t.Fatalf("%d records", s.count())
		}
		var big Op
		big.Write(Addr{1, 1}, 0, fill(128*BlockSize, 1))
		if _, err := w.Commit(&big); !errors.Is(err, errors.KindInvalid) {
			t.Fatal(err)
		}
		s.answer(22, nil)
		if st := w.Stats(); st.PendingBytes != 0 || st.InFlight != 0 || w.Durable() != 22 {
			t.Fatalf("%+v", st)
		}
	})
}

func TestAdmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := &heldSink{}
		w := newTestWriter(t, s, Options{PendingBytesMax: 2 << 20})
		admit := func(n int) chan error { return start(func() error { return w.Admit(ctx, n) }) }
		for i := range 7 {
			if err := w.Admit(ctx, 256<<10); err != nil {
				t.Fatal(err)
			}
			put(t, w, uint64(i)*64, 64*BlockSize)
		}
		first := admit(512 << 10)
		if !pending(first) {
			t.Fatal("admitted beyond the maximum")
		}
		second := admit(1)
		if !pending(second) {
			t.Fatal("a small one overtook a great one")
		}
		cctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := w.Admit(cctx, 5); err != context.DeadlineExceeded {
			t.Fatal(err)
		}
		s.answer(2, nil)
		if pending(first) || pending(second) {
			t.Fatal("not admitted at the acknowledgement that made room")
		}
		if err1, err2 := <-first, <-second; err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		// 5 records are pending and 512 KiB + 1 promised: no room for 512 KiB, until the promises run out.
		third := admit(512 << 10)
		if !pending(third) {
			t.Fatal("promised bytes do not count")
		}
		time.Sleep(2 * promiseFor)
		if pending(third) {
			t.Fatal("a promise that nobody used still counts")
		}
		if err := <-third; err != nil {
			t.Fatal(err)
		}
		// One that waits gives way when it gives up.
		cctx2, cancel2 := context.WithCancel(ctx)
		great := start(func() error { return w.Admit(cctx2, 3<<20) })
		synctest.Wait()
		small := admit(10)
		if !pending(small) {
			t.Fatal("overtook")
		}
		cancel2()
		if err := <-great; err != context.Canceled {
			t.Fatal(err)
		}
		if pending(small) {
			t.Fatal("one that gave up is still in the way")
		}
		if err := <-small; err != nil {
			t.Fatal(err)
		}
		// More than the maximum is let in alone.
		s.answer(5, nil)
		time.Sleep(3 * promiseFor)
		if err := w.Admit(ctx, 100<<20); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAdmitIsRedeemed: a Commit redeems the whole promise, however much too great it was.
func TestAdmitIsRedeemed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTestWriter(t, &heldSink{}, Options{PendingBytesMax: 2 << 20})
		began := time.Now()
		for i := range 100 {
			if err := w.Admit(context.Background(), 64<<10); err != nil {
				t.Fatal(err)
			}
			put(t, w, uint64(i), 10)
		}
		if time.Since(began) != 0 || w.Stats().PromisedBytes != 0 {
			t.Fatalf("%v, %+v", time.Since(began), w.Stats())
		}
	})
}

// TestAdmitSealsTheRunning: what is in the way of a waiter is sent, even if it is neither full nor old.
func TestAdmitSealsTheRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldSink{auto: true}
		w := newTestWriter(t, s, Options{PendingBytesMax: 1 << 20, FlushAfter: 4 * time.Second})
		put(t, w, 1, 10)
		began := time.Now()
		if err := w.Admit(context.Background(), 1<<20); err != nil || time.Since(began) != 0 {
			t.Fatal(err, time.Since(began))
		}
	})
}

func TestSinkErrorIsFinal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		s := &heldSink{}
		w := newTestWriter(t, s, Options{PendingBytesMax: 1 << 20, OnDurable: func(g Gen) {
			if g != 1 {
				t.Errorf("told of %d", g)
			}
		}})
		put(t, w, 1, 1)
		f1 := start(func() error { return w.Flush(ctx, 0) })
		synctest.Wait()
		put(t, w, 2, 1)
		f2 := start(func() error { return w.Flush(ctx, 0) })
		synctest.Wait()
		put(t, w, 3, 1)
		adm := start(func() error { return w.Admit(ctx, 2<<20) })
		synctest.Wait()
		s.answer(1, nil)
		dead := errors.Of(errors.KindDeadWriter)
		s.answer(1, dead)
		if err := <-f1; err != nil {
			t.Fatal(err)
		}
		if err := <-f2; err != dead {
			t.Fatal(err)
		}
		if err := <-adm; err != dead {
			t.Fatal(err)
		}
		var op Op
		op.AddAlloc(1)
		if _, err := w.Commit(&op); err != dead {
			t.Fatal(err)
		}
		if err := w.Flush(ctx, 0); err != dead {
			t.Fatal(err)
		}
		if err := w.Flush(ctx, 1); err != nil {
			t.Fatal("what was durable before is durable: ", err)
		}
		if err := w.Admit(ctx, 1); err != dead || w.Err() != dead || w.Durable() != 1 {
			t.Fatal(err, w.Err(), w.Durable())
		}
		if err := w.Close(); err != dead {
			t.Fatal(err)
		}
		if n := s.count(); n != 2 {
			t.Fatalf("%d records were submitted", n)
		}
	})
}

func TestSinkOutOfOrder(t *testing.T) {
	s := &heldSink{}
	w, err := newWriter(s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		put(t, w, i*64, 64*BlockSize)
	}
	w.step()
	s.next = 1
	s.answer(1, nil)
	if w.Durable() != 0 || w.Err() == nil {
		t.Fatal("a record was taken for durable though the one before it is not")
	}
}

func TestCloseWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		w, err := NewWriter(&heldSink{}, Options{PendingBytesMax: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		put(t, w, 1, 1)
		f := start(func() error { return w.Flush(ctx, 0) })
		a := start(func() error { return w.Admit(ctx, 1<<20) })
		synctest.Wait()
		if err := w.Close(); !errors.Is(err, errors.KindIO) {
			t.Fatal(err)
		}
		for _, ch := range []chan error{f, a} {
			if err := <-ch; !errors.Is(err, errors.KindUnavailable) {
				t.Fatal(err)
			}
		}
		if _, err := w.Commit(&Op{}); !errors.Is(err, errors.KindUnavailable) {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFlushContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heldSink{}
		w := newTestWriter(t, s, Options{})
		g := put(t, w, 1, 1)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := w.Flush(ctx, g); err != context.DeadlineExceeded {
			t.Fatal(err)
		}
		s.answer(1, nil) // the record was kept
		if err := w.Flush(context.Background(), g); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOptionsValidate(t *testing.T) {
	for _, o := range []Options{{RecordBytesTarget: -1}, {RecordBytesTarget: RecordBytesMax + 1}, {PendingBytesMax: RecordBytesMax}, {FlushAfter: 5 * time.Second}, {FlushesInFlight: -1}} {
		if _, err := NewWriter(&heldSink{}, o); !errors.Is(err, errors.KindInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

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
