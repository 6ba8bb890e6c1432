package seglog

import (
	"bytes"
	"testing"

	"dfs/internal/errors"
)

// runs reads the log from first to last by Run, and tells how often it did.
func runs(t *testing.T, l *Log, first, last uint64, bytesMax int64, want func(uint64) []byte) (reads int) {
	t.Helper()
	for i := first; i <= last; reads++ {
		got, err := l.Run(i, last+1, bytesMax)
		if err != nil || len(got) == 0 {
			t.Fatalf("Run(%d): %d entries, %v", i, len(got), err)
		}
		for _, b := range got {
			if !bytes.Equal(b, want(i)) || cap(b) != len(b) {
				t.Fatalf("entry %d differs", i)
			}
			i++
		}
	}
	return reads
}

func TestRun(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	for i := uint64(1); i <= 90; i += 3 {
		appendN(t, l, i, i+2, 0, 2000)
	}
	want := func(i uint64) []byte { return payload(i, 0, 2000) }
	if n := runs(t, l, 1, 90, 1, want); n != 90 {
		t.Errorf("%d reads of one entry each", n)
	}
	if n := runs(t, l, 1, 90, 16<<10, want); n > 25 {
		t.Errorf("%d reads of 16 KiB", n)
	}
	if n := runs(t, l, 1, 90, 1<<20, want); n != l.Stats().Segments {
		t.Errorf("%d reads for %d segments", n, l.Stats().Segments)
	}
	if got, err := l.Run(5, 8, 1<<20); err != nil || len(got) != 3 {
		t.Errorf("up to a limit: %d entries, %v", len(got), err)
	}
	if got, err := l.Run(5, 5, 1<<20); err != nil || len(got) != 1 {
		t.Errorf("below a limit: %d entries, %v", len(got), err)
	}
	if err := l.TruncateBack(50); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 50, 60, 1, 2000)
	if err := l.TruncateFront(5); err != nil {
		t.Fatal(err)
	}
	runs(t, l, 5, 60, 1<<20, func(i uint64) []byte { return payload(i, int(i/50), 2000) })
	for _, i := range []uint64{0, 4, 61} {
		if _, err := l.Run(i, 100, 1<<20); !errors.Is(err, errors.KindNotExist) {
			t.Errorf("Run(%d): %v", i, err)
		}
	}
	l.Close()
	if _, err := l.Run(7, 100, 1<<20); !errors.Is(err, errors.KindUnavailable) {
		t.Errorf("closed: %v", err)
	}
}

// retiredUnder retires segments while they are read.
type retiredUnder struct {
	File
	retire func()
}

func (f retiredUnder) ReadAt(p []byte, off int64) (int, error) {
	f.retire()
	clear(p) // what the next use of the file has there
	return len(p), nil
}

// TestRunOfRetiredSegment: a segment that is taken away under the read is no damage.
func TestRunOfRetiredSegment(t *testing.T) {
	l := mustOpen(t, t.TempDir(), still())
	appendN(t, l, 1, 30, 0, 5000)
	seg := l.segs[0]
	seg.file = retiredUnder{seg.file, func() {
		if err := l.TruncateFront(28); err != nil {
			t.Error(err)
		}
	}}
	if _, err := l.Run(2, 100, 20000); !errors.Is(err, errors.KindNotExist) {
		t.Fatalf("got %v", err)
	}
}
