package wal

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"
)

// reusingSink copies each record and answers it when another has come; then it spoils it and gives it back.
type reusingSink struct {
	mu      sync.Mutex
	records [][]byte
	memory  map[*byte]int // how often each was seen
	release func([]byte)
	held    []func()
}

var _ Releaser = (*reusingSink)(nil)

func (s *reusingSink) OnRelease(f func([]byte)) { s.release = f }

func (s *reusingSink) Submit(b []byte, done func(uint64, error)) {
	s.mu.Lock()
	s.records = append(s.records, bytes.Clone(b))
	s.memory[&b[0]]++
	n := uint64(len(s.records))
	s.held = append(s.held, func() {
		done(n, nil)
		for i := range b {
			b[i] = 0xee
		}
		s.release(b)
	})
	s.mu.Unlock()
	s.answer(1)
}

// answer answers all but the newest, in order.
func (s *reusingSink) answer(but int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; len(s.held) > but; s.held = s.held[1:] {
		s.held[0]()
	}
}

// TestReleasedRecordsAreReused: their memory holds later records, which are whole, and little of it is kept.
func TestReleasedRecordsAreReused(t *testing.T) {
	s := &reusingSink{memory: map[*byte]int{}}
	w := newTestWriter(t, s, Options{PendingBytesMax: 2 * RecordBytesMax}) // some four records
	const n = 2560
	for i := range uint64(n) {
		if err := w.Admit(context.Background(), BlockSize); err != nil {
			t.Fatal(err)
		}
		put(t, w, i, BlockSize)
	}
	for flushed := start(func() error { return w.Flush(context.Background(), 0) }); ; {
		s.answer(0)
		select {
		case err := <-flushed:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := uint64(0)
	for i, b := range s.records {
		rec, err := DecodeRecord(b)
		if err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		for _, g := range rec.Ranges {
			if g.Block != next || !bytes.Equal(g.Data, fill(BlockSize, byte(next))) {
				t.Fatalf("record %d: block %d, want %d", i, g.Block, next)
			}
			next++
		}
	}
	if next != n {
		t.Fatalf("%d blocks arrived, want %d", next, n)
	}
	if len(s.memory) > len(s.records)/2 {
		t.Fatalf("%d records in %d buffers", len(s.records), len(s.memory))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.spares) > 2 { // of the last record, and one that was cut short
		t.Fatalf("%d buffers are kept though nothing is pending", len(w.spares))
	}
}

// TestSparesAreBounded: in bytes and in number.
func TestSparesAreBounded(t *testing.T) {
	w, err := newWriter(&reusingSink{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.pending = 1
	for range 2 * sparesMax {
		w.reuse(make([]byte, w.opt.RecordBytesTarget))
		w.reuse(make([]byte, 10))
		w.reuse(make([]byte, 2*w.opt.RecordBytesTarget+1))
	}
	if len(w.spares) != sparesMax {
		t.Fatalf("%d spares", len(w.spares))
	}
	w.pending = 0
	w.reuse(make([]byte, w.opt.RecordBytesTarget))
	if len(w.spares) != 1 {
		t.Fatalf("%d spares when idle", len(w.spares))
	}
}
