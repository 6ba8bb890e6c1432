package raftstore

import (
	"bytes"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"dfs/internal/errors"
	"dfs/wal/seglog"
)

func logOptions() LogOptions {
	return LogOptions{Seg: seglog.Options{SegmentBytes: 128 << 10}}
}

func openTestLog(t testing.TB, kind LogKind, dir string, o LogOptions) *LogStore {
	t.Helper()
	s, err := OpenLog(kind, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func testLog(index, term uint64) *raft.Log {
	l := &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(index), byte(term)}, int(index*37%900)+1),
		AppendedAt: time.Unix(1_700_000_000+int64(index), int64(index)).UTC()}
	if index%5 == 0 {
		l.Extensions = []byte(fmt.Sprint("ext", index))
	}
	return l
}

func sameLog(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

func store(t testing.TB, s raft.LogStore, from, to, term uint64) {
	t.Helper()
	var logs []*raft.Log
	for i := from; i <= to; i++ {
		logs = append(logs, testLog(i, term))
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// TestLogStoreModel compares both kinds with a map through random calls such as raft makes, and reopens.
func TestLogStoreModel(t *testing.T) {
	for _, kind := range []LogKind{LogSeg, LogBolt} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprint(kind, seed), func(t *testing.T) { modelRun(t, kind, seed) })
		}
	}
}

func modelRun(t *testing.T, kind LogKind, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	o := logOptions()
	o.CacheBytes = 5000
	s := openTestLog(t, kind, dir, o)
	model := map[uint64]uint64{} // index to term
	first, last, term := uint64(0), uint64(0), uint64(1)
	for range 120 {
		switch k := rng.IntN(10); {
		case k < 5 || first == 0:
			from := last + 1
			if first == 0 || k == 0 {
				from += rng.Uint64N(50) // a gap: behind a snapshot
				if from != last+1 {
					clear(model)
					first = 0
				}
			}
			to := from + rng.Uint64N(20)
			store(t, s, from, to, term)
			for i := from; i <= to; i++ {
				model[i] = term
			}
			if first == 0 {
				first = from
			}
			last = to
		case k < 7:
			to := first + rng.Uint64N(last-first+1)
			mustDelete(t, s, first, to)
			for i := first; i <= to; i++ {
				delete(model, i)
			}
			if first = to + 1; first > last {
				first, last = 0, last+0
			}
		case k < 9:
			from := first + rng.Uint64N(last-first+1)
			mustDelete(t, s, from, last)
			for i := from; i <= last; i++ {
				delete(model, i)
			}
			if last = from - 1; last < first {
				first = 0
			}
			term++
		default:
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openTestLog(t, kind, dir, o)
		}
		compareModel(t, s, model, first, last)
	}
}

func mustDelete(t testing.TB, s raft.LogStore, from, to uint64) {
	t.Helper()
	if err := s.DeleteRange(from, to); err != nil {
		t.Fatal(err)
	}
}

func compareModel(t *testing.T, s *LogStore, model map[uint64]uint64, first, last uint64) {
	t.Helper()
	wantFirst, wantLast := first, last
	if first == 0 {
		wantLast = 0
	}
	if f, _ := s.FirstIndex(); f != wantFirst {
		t.Fatalf("first %d, want %d", f, wantFirst)
	}
	if l, _ := s.LastIndex(); l != wantLast {
		t.Fatalf("last %d, want %d", l, wantLast)
	}
	for i, term := range model {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil || !sameLog(&l, testLog(i, term)) {
			t.Fatalf("entry %d: %v %+v", i, err, l)
		}
	}
	for _, i := range []uint64{0, first - 1, last + 1} {
		var l raft.Log
		if _, there := model[i]; there {
			continue
		}
		if err := s.GetLog(i, &l); err != raft.ErrLogNotFound {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	if first != 0 {
		prev := s.Bytes()
		for i := first; i <= last; i++ {
			b := s.BytesSince(i)
			if b > prev || b <= 0 {
				t.Fatalf("BytesSince(%d) = %d after %d", i, b, prev)
			}
			prev = b
		}
		limit := s.Bytes() / 2
		if n := s.TrailingFor(limit); n > 0 && s.BytesSince(last-n+1) > limit {
			t.Fatalf("TrailingFor(%d) = %d is too many", limit, n)
		}
		if n := s.TrailingFor(s.Bytes()); n != last-first+1 {
			t.Fatalf("TrailingFor(all) = %d of %d", n, last-first+1)
		}
	}
}

func TestDeleteFromTheMiddleIsRefused(t *testing.T) {
	s := openTestLog(t, LogSeg, t.TempDir(), logOptions())
	store(t, s, 1, 10, 1)
	if err := s.DeleteRange(3, 5); !errors.Is(err, errors.KindInvalid) {
		t.Fatal(err)
	}
}

func TestGapMustBeCovered(t *testing.T) {
	covered := uint64(0)
	o := logOptions()
	o.Covered = func() uint64 { return covered }
	s := openTestLog(t, LogSeg, t.TempDir(), o)
	store(t, s, 1, 10, 1)
	if err := s.StoreLog(testLog(21, 1)); !errors.Is(err, errors.KindInvalid) {
		t.Fatal(err)
	}
	covered = 20
	store(t, s, 21, 22, 1)
	if f, _ := s.FirstIndex(); f != 21 {
		t.Fatal(f)
	}
}

func TestHoldDeletes(t *testing.T) {
	for _, kind := range []LogKind{LogSeg, LogBolt} {
		s := openTestLog(t, kind, t.TempDir(), logOptions())
		store(t, s, 1, 100, 1)
		release1, release2 := s.HoldDeletes(), s.HoldDeletes()
		mustDelete(t, s, 1, 60)
		mustDelete(t, s, 90, 100) // conflicts must go, held or not
		release1()
		release1()
		if f, _ := s.FirstIndex(); f != 1 {
			t.Fatalf("%s: deleted while held: first is %d", kind, f)
		}
		release2()
		f, _ := s.FirstIndex()
		l, _ := s.LastIndex()
		if f != 61 || l != 89 {
			t.Fatalf("%s: after release: %d..%d", kind, f, l)
		}
		mustDelete(t, s, 61, 62)
		if f, _ := s.FirstIndex(); f != 63 {
			t.Fatalf("%s: first is %d", kind, f)
		}
	}
}

// What is held for a replica that copies is bounded in bytes, too.
func TestHeldLogIsBoundedInBytes(t *testing.T) {
	for _, kind := range []LogKind{LogSeg, LogBolt} {
		o := logOptions()
		o.HoldBytes = 1 << 20
		s := openTestLog(t, kind, t.TempDir(), o)
		release := s.HoldDeletes()
		store(t, s, 1, 100, 1)
		mustDelete(t, s, 1, 60)
		if f, _ := s.FirstIndex(); f != 1 {
			t.Fatalf("%s: a small log is cut while held: first is %d", kind, f)
		}
		for i := uint64(101); i <= 300; i++ {
			if err := s.StoreLog(&raft.Log{Index: i, Term: 1, Data: make([]byte, 8000)}); err != nil {
				t.Fatal(err)
			}
			if f, _ := s.FirstIndex(); f == 1 && s.Bytes() > o.HoldBytes {
				t.Fatalf("%s: %d bytes are held", kind, s.Bytes())
			}
		}
		if f, _ := s.FirstIndex(); f != 61 {
			t.Fatalf("%s: first is %d", kind, f)
		}
		mustDelete(t, s, 61, 290) // too great still: at once
		if f, _ := s.FirstIndex(); f != 291 {
			t.Fatalf("%s: first is %d", kind, f)
		}
		mustDelete(t, s, 291, 295) // small again: held again
		if f, _ := s.FirstIndex(); f != 291 {
			t.Fatalf("%s: first is %d", kind, f)
		}
		release()
		if f, _ := s.FirstIndex(); f != 296 {
			t.Fatalf("%s: first is %d", kind, f)
		}
	}
}

func TestCacheIsBoundedAndDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c logCache
		c.init(10_000, time.Second)
		for i := uint64(1); i <= 1000; i++ {
			c.add([]*raft.Log{{Index: i, Data: make([]byte, 1000)}})
			if c.size() > 10_000 {
				t.Fatal(c.size())
			}
		}
		var l raft.Log
		if !c.get(1000, &l) || !c.get(993, &l) || l.Index != 993 || c.get(900, &l) || c.get(1001, &l) {
			t.Fatal("wrong entries kept")
		}
		c.mu.Lock()
		slots := len(c.logs)
		c.mu.Unlock()
		if slots > 200 {
			t.Fatalf("%d slots", slots)
		}
		time.Sleep(3 * time.Second)
		if c.size() != 0 || c.get(1000, &l) {
			t.Fatal("kept while idle")
		}
		c.add([]*raft.Log{{Index: 7, Data: make([]byte, 50_000)}})
		if c.size() != 0 {
			t.Fatal("an entry above the bound was kept")
		}
		c.close()
	})
}

func TestKindsAreNotMixed(t *testing.T) {
	dir := t.TempDir()
	openTestLog(t, LogSeg, dir, logOptions()).Close()
	if _, err := OpenLog(LogBolt, dir, logOptions()); !errors.Is(err, errors.KindInvalid) {
		t.Fatal(err)
	}
	if _, err := OpenLog("other", dir, logOptions()); !errors.Is(err, errors.KindInvalid) {
		t.Fatal(err)
	}
}

func TestLogCodec(t *testing.T) {
	for _, l := range []*raft.Log{testLog(5, 9), testLog(6, 1), {Index: 3, Type: raft.LogNoop}, {Index: 4, Extensions: []byte("x")},
		{Index: 5, AppendedAt: time.Date(1910, 1, 1, 0, 0, 0, 7, time.UTC)}} {
		var got raft.Log
		if err := decodeLog(l.Index, append(appendLogHead(nil, l), l.Data...), &got); err != nil || !sameLog(l, &got) {
			t.Fatalf("%v: %+v != %+v", err, got, l)
		}
	}
	var got raft.Log
	b := appendLogHead(nil, testLog(1, 1))
	b[0]++
	if err := decodeLog(1, b, &got); !errors.Is(err, errors.KindTooNew) {
		t.Fatal(err)
	}
}

func FuzzDecodeLog(f *testing.F) {
	f.Add(append(appendLogHead(nil, testLog(5, 9)), 1, 2, 3))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l, again raft.Log
		if decodeLog(7, b, &l) != nil {
			return
		}
		enc := append(appendLogHead(nil, &l), l.Data...)
		if err := decodeLog(7, enc, &again); err != nil || !reflect.DeepEqual(l, again) {
			t.Fatalf("%v: %+v != %+v", err, l, again)
		}
	})
}

// fakeStore fails or hangs when told to.
type fakeStore struct {
	raft.InmemStore
	err   error
	hang  time.Duration
	calls int
}

func (f *fakeStore) StoreLogs(logs []*raft.Log) error {
	f.calls++
	time.Sleep(f.hang)
	return f.err
}

func (f *fakeStore) GetLog(i uint64, l *raft.Log) error {
	if i == 1 {
		return raft.ErrLogNotFound
	}
	return f.err
}

func TestGuardFatalOnError(t *testing.T) {
	var fatal []error
	fake := &fakeStore{}
	g := NewGuardedLogStore(fake, GuardOptions{Fatal: func(err error) { fatal = append(fatal, err) }})
	if err := g.GetLog(1, new(raft.Log)); err != raft.ErrLogNotFound || len(fatal) != 0 {
		t.Fatal(err, fatal)
	}
	fake.err = stderrors.New("disk on fire")
	if err := g.StoreLogs(nil); err == nil || len(fatal) != 1 || !stderrors.Is(fatal[0], fake.err) {
		t.Fatal(err, fatal)
	}
	fake.err = nil
	if err := g.StoreLogs(nil); err == nil || fake.calls != 1 {
		t.Fatalf("a store goes on after a failure: %v, %d calls", err, fake.calls)
	}
	if len(fatal) != 1 {
		t.Fatal(fatal)
	}
}

func TestGuardFatalPastDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fatal := make(chan error, 2)
		fake := &fakeStore{hang: 29 * time.Second}
		g := NewGuardedLogStore(fake, GuardOptions{Fatal: func(err error) { fatal <- err }})
		if err := g.StoreLogs(nil); err != nil {
			t.Fatal(err)
		}
		fake.hang = time.Minute
		done := make(chan error)
		go func() { done <- g.StoreLogs(nil) }()
		start := time.Now()
		err := <-fatal
		if !errors.Is(err, errors.KindTimeout) || time.Since(start) != 30*time.Second {
			t.Fatal(err, time.Since(start))
		}
		if err := <-done; err == nil {
			t.Fatal("a call past its deadline was acknowledged")
		}
	})
}

func TestGuardDisarmed(t *testing.T) {
	fake := &fakeStore{err: stderrors.New("closed")}
	g := NewGuardedLogStore(fake, GuardOptions{Fatal: func(err error) { t.Error("fatal after Disarm", err) }})
	g.Disarm()
	if err := g.StoreLogs(nil); err == nil {
		t.Fatal("no error")
	}
}

func TestGuardedStable(t *testing.T) {
	db, err := raftboltdb.NewBoltStore(filepath.Join(t.TempDir(), "stable.db"))
	if err != nil {
		t.Fatal(err)
	}
	var fatal error
	g := NewGuardedStable(db, GuardOptions{Fatal: func(err error) { fatal = err }})
	if _, err := g.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" || fatal != nil {
		t.Fatal(err, fatal) // raft compares this text
	}
	if err := g.SetUint64([]byte("CurrentTerm"), 7); err != nil {
		t.Fatal(err)
	}
	if v, err := g.GetUint64([]byte("CurrentTerm")); v != 7 || err != nil {
		t.Fatal(v, err)
	}
	db.Close()
	if err := g.Set([]byte("a"), []byte("b")); err == nil || fatal == nil {
		t.Fatal(err, fatal)
	}
}

// TestRaftOverLogStore restarts a real raft over the guarded log and finds its entries.
func TestRaftOverLogStore(t *testing.T) {
	for _, kind := range []LogKind{LogSeg, LogBolt} {
		dir := t.TempDir()
		stable, snaps := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
		var total uint64
		for round := range 2 {
			s := openTestLog(t, kind, dir, logOptions())
			g := NewGuardedLogStore(s, GuardOptions{Fatal: func(err error) { t.Error(err) }})
			total += runRaftOnce(t, g, stable, snaps, round == 0)
			if last, _ := s.LastIndex(); last < total {
				t.Fatalf("last %d of %d", last, total)
			}
			s.Close()
		}
	}
}

func runRaftOnce(t *testing.T, logs raft.LogStore, stable raft.StableStore, snaps raft.SnapshotStore, bootstrap bool) uint64 {
	t.Helper()
	addr, trans := raft.NewInmemTransport("")
	cfg := raft.DefaultConfig()
	cfg.LocalID = "a"
	cfg.LogLevel = "ERROR"
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	if bootstrap {
		err := raft.BootstrapCluster(cfg, logs, stable, snaps, trans, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: addr}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := raft.NewRaft(cfg, &raft.MockFSM{}, logs, stable, snaps, trans)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { r.Shutdown().Error() }()
	select {
	case <-r.LeaderCh():
	case <-time.After(10 * time.Second):
		t.Fatal("no leader")
	}
	for i := range 50 {
		if err := r.Apply([]byte(fmt.Sprint("entry", i)), time.Second).Error(); err != nil {
			t.Fatal(err)
		}
	}
	return 50
}
