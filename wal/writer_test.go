package wal

import (
	"context"
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
