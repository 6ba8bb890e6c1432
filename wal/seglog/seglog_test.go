package seglog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dfs/internal/errors"
)

const testSegment = 64 << 10

func small() Options { return Options{SegmentBytes: testSegment, IdleRelease: time.Hour} }

// still is small without the background goroutine.
func still() Options {
	o := small()
	o.manual = true
	return o
}

func mustOpen(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func payload(index uint64, version, n int) []byte {
	b := bytes.Repeat([]byte{byte(index), byte(version), byte(index >> 8)}, n/3+1)
	return append([]byte(fmt.Sprintf("%d/%d:", index, version)), b[:n]...)
}

func appendN(t testing.TB, l *Log, from, to uint64, version, n int) {
	t.Helper()
	var es []Entry
	for i := from; i <= to; i++ {
		p := payload(i, version, n)
		es = append(es, Entry{Index: i, Head: p[:3], Data: p[3:]})
	}
	if err := l.Append(es); err != nil {
		t.Fatal(err)
	}
}

func check(t testing.TB, l *Log, from, to uint64, version, n int) {
	t.Helper()
	for i := from; i <= to; i++ {
		got, err := l.Get(i)
		if err != nil {
			t.Fatalf("Get(%d): %v", i, err)
		}
		if !bytes.Equal(got, payload(i, version, n)) {
			t.Fatalf("entry %d differs: %.20q", i, got)
		}
	}
}

func bounds(t testing.TB, l *Log, first, last uint64) {
	t.Helper()
	if l.First() != first || l.Last() != last {
		t.Fatalf("bounds %d..%d, want %d..%d", l.First(), l.Last(), first, last)
	}
}

func TestAppendGetReopen(t *testing.T) {
	for _, buffered := range []bool{false, true} {
		dir := t.TempDir()
		o := small()
		o.Buffered = buffered
		l := mustOpen(t, dir, o)
		bounds(t, l, 0, 0)
		appendN(t, l, 5, 5, 0, 10)
		for i := uint64(6); i < 200; i += 3 {
			appendN(t, l, i, i+2, 0, int(i)*20)
			for k := i; k < i+3; k++ {
				check(t, l, k, k, 0, int(i)*20)
			}
		}
		if l.Stats().Segments < 3 {
			t.Fatalf("expected several segments: %+v", l.Stats())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Get(5); !errors.Is(err, errors.KindUnavailable) {
			t.Fatalf("Get after Close: %v", err)
		}
		l = mustOpen(t, dir, o)
		bounds(t, l, 5, 200)
		check(t, l, 5, 5, 0, 10)
		for i := uint64(6); i < 200; i += 3 {
			check(t, l, i, i+2, 0, int(i)*20)
		}
		if _, err := l.Get(201); !errors.Is(err, errors.KindNotExist) {
			t.Fatalf("Get(201): %v", err)
		}
		l.Close()
	}
}

func TestTruncate(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	appendN(t, l, 1, 60, 1, 5000)
	if err := l.TruncateBack(41); err != nil {
		t.Fatal(err)
	}
	appendN(t, l, 41, 50, 2, 5000)
	if err := l.TruncateBack(15); err != nil { // below the segment that the first one made
		t.Fatal(err)
	}
	appendN(t, l, 15, 30, 3, 5000)
	if err := l.TruncateFront(10); err != nil {
		t.Fatal(err)
	}
	verify := func() {
		t.Helper()
		bounds(t, l, 10, 30)
		check(t, l, 10, 14, 1, 5000)
		check(t, l, 15, 30, 3, 5000)
		if _, err := l.Get(9); !errors.Is(err, errors.KindNotExist) {
			t.Fatalf("Get(9): %v", err)
		}
	}
	verify()
	l.Close()
	l = mustOpen(t, dir, small())
	verify()
	if err := l.TruncateFront(31); err != nil {
		t.Fatal(err)
	}
	bounds(t, l, 0, 0)
	if err := l.Append([]Entry{{Index: 1000, Data: []byte("far")}, {Index: 1002}}); !errors.Is(err, errors.KindInvalid) {
		t.Fatalf("gap inside an append: %v", err)
	}
	appendN(t, l, 1000, 1010, 4, 50)
	if err := l.Append([]Entry{{Index: 1012}}); !errors.Is(err, errors.KindInvalid) {
		t.Fatalf("gap: %v", err)
	}
	l.Close()
	l = mustOpen(t, dir, small())
	bounds(t, l, 1000, 1010)
	check(t, l, 1000, 1010, 4, 50)
	if err := l.Reset(); err != nil {
		t.Fatal(err)
	}
	l.Close()
	l = mustOpen(t, dir, small())
	bounds(t, l, 0, 0)
}

func TestTooBigIsRefusedAndHarmless(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	if err := l.Append([]Entry{{Index: 1, Data: make([]byte, l.EntryBytesMax()+1)}}); !errors.Is(err, errors.KindTooBig) {
		t.Fatalf("got %v", err)
	}
	fits := int(l.EntryBytesMax()) - groupHeadBytes - tableEntry
	if err := l.Append([]Entry{{Index: 1, Data: make([]byte, fits)}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]Entry{{Index: 2, Data: make([]byte, l.EntryBytesMax())}, {Index: 3}}); err != nil {
		t.Fatal(err)
	}
}

func TestSegmentsAreRecycled(t *testing.T) {
	o := small()
	o.manual = true
	dir := t.TempDir()
	l := mustOpen(t, dir, o)
	l.fillSpare()
	l.fillSpare() // one is enough
	if n := l.Stats().FreeSegments; n != 1 {
		t.Fatalf("%d free segments", n)
	}
	next := uint64(1)
	for range 40 {
		appendN(t, l, next, next+9, 0, 4000)
		next += 10
		if err := l.TruncateFront(next - 5); err != nil {
			t.Fatal(err)
		}
		if l.free.ready() == 0 {
			l.fillSpare()
		}
	}
	s := l.Stats()
	if s.DiskBytes > 5*testSegment {
		t.Fatalf("not recycled: %+v", s)
	}
	if !l.active().filled {
		t.Fatal("the active segment is not a filled one")
	}
	l.Close()
	l = mustOpen(t, dir, o)
	bounds(t, l, next-5, next-1)
	check(t, l, next-5, next-1, 0, 4000)
}

// TestFreeFilesYield: on a disk that fills, free files go and none is made; the log goes on with sparse segments, and has them
// again when there is room.
func TestFreeFilesYield(t *testing.T) {
	d := newFakeDisk(1)
	d.size = 40 * testSegment
	o := still()
	o.FS = d
	l := mustOpen(t, "fake", o)
	next := uint64(1)
	round := func() {
		for range 6 {
			l.fillSpare()
			appendN(t, l, next, next+9, 0, 4000)
			next += 10
		}
		if err := l.TruncateFront(next - 5); err != nil {
			t.Fatal(err)
		}
	}
	free := func(name string) int64 {
		room, err := d.FreeBytes()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d free segments, %d bytes of room", name, l.Stats().FreeSegments, room)
		return room
	}
	for range 4 {
		round()
	}
	if free("roomy"); l.Stats().FreeSegments < 2 {
		t.Errorf("with room: %+v", l.Stats())
	}
	d.size = 10 * testSegment
	for range 3 {
		round()
		if n := int64(l.Stats().FreeSegments); n*testSegment > (free("narrow")+n*testSegment)/roomShare {
			t.Errorf("on a disk that is nearly full: %+v", l.Stats())
		}
	}
	d.size = 4 * testSegment
	l.Close()
	l = mustOpen(t, "fake", o)
	if free("full"); l.Stats().FreeSegments != 0 {
		t.Errorf("opened on a full disk: %+v", l.Stats())
	}
	check(t, l, next-5, next-1, 0, 4000)
	d.size = 40 * testSegment
	l.fillSpare()
	if free("roomy again"); l.Stats().FreeSegments == 0 {
		t.Errorf("with room again: %+v", l.Stats())
	}
}

func TestBytesSince(t *testing.T) {
	l := mustOpen(t, t.TempDir(), small())
	for i := uint64(1); i <= 50; i++ {
		appendN(t, l, i, i, 0, 5000) // two blocks each
	}
	if got := l.BytesSince(41); got != 10*2*Block {
		t.Fatalf("BytesSince(41) = %d", got)
	}
	if got := l.BytesSince(0); got != 50*2*Block || l.Stats().LogBytes != got {
		t.Fatalf("all: %d, %d", got, l.Stats().LogBytes)
	}
	if err := l.TruncateBack(46); err != nil {
		t.Fatal(err)
	}
	if got := l.BytesSince(41); got != 5*2*Block {
		t.Fatalf("after TruncateBack: %d", got)
	}
	if got := l.BytesSince(99); got != 0 {
		t.Fatalf("beyond: %d", got)
	}
}

func TestBuffersAreGivenBack(t *testing.T) {
	o := small()
	o.IdleRelease = time.Millisecond
	l := mustOpen(t, t.TempDir(), o)
	appendN(t, l, 1, 3, 0, 100)
	check(t, l, 1, 3, 0, 100)
	for deadline := time.Now().Add(5 * time.Second); l.Stats().BufferBytes != 0; {
		if time.Now().After(deadline) {
			t.Fatalf("buffers kept: %+v", l.Stats())
		}
		time.Sleep(time.Millisecond)
	}
	appendN(t, l, 4, 5, 0, 100)
	check(t, l, 1, 5, 0, 100)
}

func TestOneUserOnly(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, small())
	if _, err := Open(dir, small()); !errors.Is(err, errors.KindBusy) {
		t.Fatalf("second Open: %v", err)
	}
}

// segFiles lists the segments in dir, ascending.
func segFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, segPrefix+"*"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return names
}

func flip(t *testing.T, file string, off int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

func TestDamage(t *testing.T) {
	tests := []struct {
		name     string
		seg, off int64 // segment counted from the front, or from the back if negative
		kind     errors.Kind
		want     string // in the error text
		openFine bool   // told only by Get (index 2) and by VerifyAll
	}{
		{"magic", 0, 3, errors.KindForeign, "magic", false},
		{"header", 0, 45, errors.KindCorrupt, "header", false},
		{"sealed head", 0, Block + 30, errors.KindCorrupt, "offset 4096", false},
		{"sealed table", 0, Block + groupHeadBytes + 2, errors.KindCorrupt, "offset 4096", false},
		{"sealed entry", 0, 3*Block + 100, errors.KindCorrupt, "index 2", true},
		{"active, good behind", -1, Block + 100, errors.KindCorrupt, "behind it", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, dir, still())
			for i := uint64(1); i <= 17; i++ {
				appendN(t, l, i, i, 0, 5000)
			}
			l.Close()
			files := segFiles(t, dir)
			if len(files) != 3 {
				t.Fatal(files)
			}
			k := int(tt.seg)
			if k < 0 {
				k += len(files)
			}
			flip(t, files[k], tt.off)
			l, err := Open(dir, still())
			if tt.openFine {
				if err != nil {
					t.Fatal(err)
				}
				check(t, l, 1, 1, 0, 5000)
				_, err = l.Get(2)
				l.Close()
				o := still()
				o.VerifyAll = true
				if _, err := Open(dir, o); !errors.Is(err, errors.KindCorrupt) {
					t.Fatalf("VerifyAll: %v", err)
				}
			}
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), filepath.Base(files[k])) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestTooNew(t *testing.T) {
	h := header{seq: 1, segBytes: testSegment}
	buf := make([]byte, Block)
	h.encode(buf)
	le.PutUint32(buf[8:], Version+1)
	le.PutUint32(buf[headerBytes-4:], crcOf(buf[:headerBytes-4]))
	if _, _, err := decodeHeader("x", buf); !errors.Is(err, errors.KindTooNew) {
		t.Fatalf("got %v", err)
	}
}

func TestMissingSegmentIsDamage(t *testing.T) {
	for _, which := range []int{0, 1} {
		dir := t.TempDir()
		l := mustOpen(t, dir, small())
		appendN(t, l, 1, 30, 0, 5000)
		l.Close()
		files := segFiles(t, dir)
		if err := os.Remove(files[which]); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, small()); !errors.Is(err, errors.KindCorrupt) || !strings.Contains(err.Error(), "the segment is missing") {
			t.Fatalf("without segment %d: %v", which, err)
		}
	}
}

func TestConcurrentReaders(t *testing.T) {
	o := small()
	l := mustOpen(t, t.TempDir(), o)
	appendN(t, l, 1, 10, 0, 2000)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				i := l.Last()
				got, err := l.Get(i)
				if err != nil && !errors.Is(err, errors.KindNotExist) {
					t.Errorf("Get(%d): %v", i, err)
					return
				}
				if err == nil && !bytes.Equal(got, payload(i, 0, 2000)) {
					t.Errorf("entry %d differs", i)
					return
				}
				l.Stats()
			}
		}()
	}
	for i := uint64(11); i < 300; i += 3 {
		appendN(t, l, i, i+2, 0, 2000)
		if i%10 == 0 {
			if err := l.TruncateFront(i - 2); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// TestGetOfRetiredSegment truncates between the two halves of a Get.
func TestGetOfRetiredSegment(t *testing.T) {
	l := mustOpen(t, t.TempDir(), still())
	appendN(t, l, 1, 30, 0, 5000)
	seg, ref, end := l.locate(2)
	if err := l.TruncateFront(28); err != nil {
		t.Fatal(err)
	}
	if _, err := l.getFrom(seg, ref, 2, end); !errors.Is(err, errors.KindNotExist) {
		t.Fatalf("got %v", err)
	}
}

// reseal makes the checksum of the group at off of seg fit again.
func reseal(seg []byte, off int) {
	n := groupHeadBytes + int(le.Uint32(seg[off+40:]))*tableEntry
	le.PutUint32(seg[off+4:], crcOf(seg[off+8:off+n]))
}

// TestMisplacedGroups gives a group the wrong place, index or predecessor, all checksums good.
func TestMisplacedGroups(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(first, active []byte)
		want  string
	}{
		{"position", func(_, a []byte) { le.PutUint64(a[2*Block+16:], 3*Block); reseal(a, 2*Block) }, "behind it"},
		{"chain", func(_, a []byte) { a[2*Block+44] ^= 1; reseal(a, 2*Block) }, "does not follow"},
		{"index", func(_, a []byte) { a[3*Block+24]++; reseal(a, 3*Block) }, "does not follow"},
		{"sealed end", func(_, a []byte) { a[64] ^= 0x10; le.PutUint32(a[508:], crcOf(a[:508])) }, "successor"},
		{"sealed chain", func(_, a []byte) { a[72] ^= 1; le.PutUint32(a[508:], crcOf(a[:508])) }, "successor"},
		{"gap between segments", func(_, a []byte) { a[40] += 3; le.PutUint32(a[508:], crcOf(a[:508])) }, "missing"},
		{"number", func(f, _ []byte) { f[16] ^= 0x40; le.PutUint32(f[508:], crcOf(f[:508])) }, "another segment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := newFakeDisk(1)
			o := crashOptions(d, 1)
			l, err := build("fake", o)
			if err != nil {
				t.Fatal(err)
			}
			for i := uint64(1); len(l.segs) < 2 || l.active().end < 5*Block; i++ {
				if err := l.Append([]Entry{{Index: i, Data: []byte("entry")}}); err != nil {
					t.Fatal(err)
				}
			}
			first, active := l.segs[0].name, l.active().name
			l.Close()
			tt.spoil(d.names[first].seen, d.names[active].seen)
			if _, err := build("fake", o); !errors.Is(err, errors.KindCorrupt) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v", err)
			}
		})
	}
}
