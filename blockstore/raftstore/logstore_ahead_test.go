package raftstore

import (
	"bytes"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/wal/seglog"
)

// aheadOptions are those of a log whose entries all come from its files.
func aheadOptions() LogOptions {
	return LogOptions{CacheBytes: -1, Seg: seglog.Options{SegmentBytes: 4 << 20}}
}

// storeLarge appends entries of 64 KiB, whose content tells index and term.
func storeLarge(t testing.TB, s raft.LogStore, from, to, term uint64) {
	t.Helper()
	for i := from; i <= to; i += 8 {
		var logs []*raft.Log
		for j := i; j <= min(i+7, to); j++ {
			logs = append(logs, &raft.Log{Index: j, Term: term, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(j), byte(term)}, 32<<10)})
		}
		if err := s.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
}

func readLarge(t testing.TB, s *LogStore, index, term uint64) {
	t.Helper()
	var l raft.Log
	if err := s.GetLog(index, &l); err != nil {
		t.Fatalf("entry %d: %v", index, err)
	}
	if l.Index != index || l.Term != term || len(l.Data) != 64<<10 || l.Data[0] != byte(index) || l.Data[1] != byte(term) || l.Data[len(l.Data)-1] != byte(term) {
		t.Fatalf("entry %d of term %d: got %d of term %d, %d bytes", index, term, l.Index, l.Term, len(l.Data))
	}
}

// settle waits until nothing is being read ahead any more.
func (a *logAhead) settle() { a.fills.Wait() }

// TestReadAhead: a reader in order finds what it asks for read in large pieces, within the bound, also the entry that it got last.
func TestReadAhead(t *testing.T) {
	o := aheadOptions()
	o.AheadBytes = 3 << 20
	s := openTestLog(t, LogSeg, t.TempDir(), o)
	storeLarge(t, s, 1, 200, 1)
	before, _ := s.SegStats()
	for i := uint64(1); i <= 200; i++ {
		readLarge(t, s, i, 1)
		s.ahead.settle()
		readLarge(t, s, i, 1)
		if n := s.ahead.size(); n > o.AheadBytes {
			t.Fatalf("%d bytes are kept, the bound is %d", n, o.AheadBytes)
		}
	}
	after, _ := s.SegStats()
	if n := after.FileReads - before.FileReads; n > 25 { // 200 entries of 64 KiB, 16 in a piece, 4 segments
		t.Fatalf("%d reads", n)
	}
	if n := s.ahead.size(); n != 0 {
		t.Fatalf("%d bytes are kept at the end of the log", n)
	}
	var l raft.Log
	if err := s.GetLog(201, &l); !stderrors.Is(err, raft.ErrLogNotFound) {
		t.Fatal(err)
	}
	storeLarge(t, s, 201, 203, 2)
	for i := uint64(201); i <= 203; i++ {
		readLarge(t, s, i, 2)
	}
}

// TestReadAheadForSeveral: each of more readers than there may be gets what it asks for, and no more memory is used.
func TestReadAheadForSeveral(t *testing.T) {
	o := aheadOptions()
	o.AheadBytes = 4 << 20
	s := openTestLog(t, LogSeg, t.TempDir(), o)
	storeLarge(t, s, 1, 200, 1)
	for i := uint64(1); i <= 120; i++ {
		for reader := range uint64(aheadReaders + 1) {
			readLarge(t, s, i+reader*16, 1)
		}
	}
	s.ahead.settle()
	if n := s.ahead.size(); n > o.AheadBytes+aheadReaders*(aheadPiece+(64<<10)) {
		t.Fatalf("%d bytes are kept", n)
	}
}

// TestReadAheadOfWhatIsRemoved: what was read ahead, and what is being read at the time, is not handed out once it has been removed.
func TestReadAheadOfWhatIsRemoved(t *testing.T) {
	for _, under := range []bool{false, true} {
		t.Run(fmt.Sprintf("under a read %v", under), func(t *testing.T) {
			t.Run("back", func(t *testing.T) {
				s, resume := ahead(t, under)
				mustDelete(t, s, 35, 100)
				storeLarge(t, s, 35, 100, 2)
				resume()
				for i := uint64(33); i <= 100; i++ {
					readLarge(t, s, i, 1+(i/35+1)/2)
				}
			})
			t.Run("front", func(t *testing.T) {
				s, resume := ahead(t, under)
				mustDelete(t, s, 1, 40)
				resume()
				var l raft.Log
				for i := uint64(30); i <= 40; i++ {
					if err := s.GetLog(i, &l); !stderrors.Is(err, raft.ErrLogNotFound) {
						t.Fatalf("entry %d: %v", i, err)
					}
				}
				readLarge(t, s, 41, 1)
			})
			t.Run("all", func(t *testing.T) {
				s, resume := ahead(t, under)
				store(t, s, 300, 310, 3) // leaves a gap
				resume()
				var l raft.Log
				for i := uint64(30); i <= 100; i++ {
					if err := s.GetLog(i, &l); !stderrors.Is(err, raft.ErrLogNotFound) {
						t.Fatalf("entry %d: %v", i, err)
					}
				}
			})
			t.Run("close", func(t *testing.T) {
				s, resume := ahead(t, under)
				time.AfterFunc(10*time.Millisecond, resume)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				var l raft.Log
				if err := s.GetLog(34, &l); err == nil || s.ahead.size() != 0 {
					t.Fatal("entries of a closed log")
				}
			})
		})
	}
}

// ahead is a log of 100 entries, read up to 32, with more read ahead; with under, that read has come back from the disk, and is handed over when
// resume is called.
func ahead(t *testing.T, under bool) (s *LogStore, resume func()) {
	s = openTestLog(t, LogSeg, t.TempDir(), aheadOptions())
	storeLarge(t, s, 1, 100, 1)
	readLarge(t, s, 31, 1)
	if !under {
		readLarge(t, s, 32, 1)
		s.ahead.settle()
		if s.ahead.size() == 0 {
			t.Fatal("nothing was read ahead")
		}
		return s, func() {}
	}
	read, came, on := s.ahead.read, make(chan struct{}), make(chan struct{})
	var first sync.Once
	s.ahead.read = func(index, limit uint64, bytes int64) ([]raft.Log, error) {
		logs, err := read(index, limit, bytes)
		first.Do(func() {
			close(came)
			<-on
		})
		return logs, err
	}
	go func() {
		var l raft.Log
		_ = s.GetLog(32, &l)
	}()
	<-came
	letOn := sync.OnceFunc(func() { close(on) })
	t.Cleanup(letOn)
	return s, func() {
		letOn()
		s.ahead.settle()
	}
}

// TestReadAheadModel reads in order from several places while the log is cut at both ends and appended to.
func TestReadAheadModel(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 4))
		o := aheadOptions()
		o.CacheBytes = []int64{-1, 1 << 20}[seed%2]
		s := openTestLog(t, LogSeg, t.TempDir(), o)
		terms := make([]uint64, 1000)
		first, last, term := uint64(1), uint64(0), uint64(1)
		at := []uint64{1, 1, 1}
		for range 400 {
			switch k := rng.IntN(16); {
			case k == 0 && last < 900:
				storeLarge(t, s, last+1, last+16, term)
				for i := last + 1; i <= last+16; i++ {
					terms[i] = term
				}
				last += 16
			case k == 1 && last > first+20:
				to := first + uint64(rng.IntN(10))
				mustDelete(t, s, first, to)
				first = to + 1
			case k == 2 && last > first+20:
				from := last - uint64(rng.IntN(10))
				mustDelete(t, s, from, last)
				last, term = from-1, term+1
			default:
				r := &at[rng.IntN(len(at))]
				if *r < first || *r > last || rng.IntN(20) == 0 {
					*r = first + rng.Uint64N(last+2-first)
				}
				for range rng.IntN(16) {
					if *r > last {
						var l raft.Log
						if err := s.GetLog(*r, &l); !stderrors.Is(err, raft.ErrLogNotFound) {
							t.Fatalf("seed %d: entry %d behind %d: %v", seed, *r, last, err)
						}
						break
					}
					readLarge(t, s, *r, terms[*r])
					*r++
				}
			}
		}
	}
}

// TestReadAheadBesideChanges is for the race detector.
func TestReadAheadBesideChanges(t *testing.T) {
	s := openTestLog(t, LogSeg, t.TempDir(), aheadOptions())
	storeLarge(t, s, 1, 100, 1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			var l raft.Log
			for i := uint64(1); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if first, _ := s.FirstIndex(); i < first {
					i = first
				}
				if err := s.GetLog(i, &l); err == nil && (l.Index != i || l.Data[0] != byte(i) || l.Data[1] != byte(l.Term)) {
					t.Errorf("entry %d is another", i)
				} else if stderrors.Is(err, raft.ErrLogNotFound) {
					i = 0
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for k := uint64(0); k < 12; k++ {
		last := 100 + k*20
		mustDelete(t, s, last-9, last)
		storeLarge(t, s, last-9, last+20, k+2)
		mustDelete(t, s, 1, last-80)
	}
	close(stop)
	wg.Wait()
}

// TestReadAheadIsGivenUp: idle readers keep no memory.
func TestReadAheadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a logAhead
		a.init(8<<20, time.Second)
		a.limit = func() uint64 { return 1000 }
		a.read = func(index, _ uint64, _ int64) ([]raft.Log, error) {
			return []raft.Log{{Index: index, Data: make([]byte, 500_000)}}, nil
		}
		var l raft.Log
		a.note(&raft.Log{Index: 6, Data: make([]byte, 10)}, 0)
		if ok, _, err := a.get(7, &l); !ok || err != nil || l.Index != 7 {
			t.Fatal(ok, err, l.Index)
		}
		a.settle()
		if n := a.size(); n < 6<<20 || n > 8<<20 {
			t.Fatalf("%d bytes are kept", n)
		}
		time.Sleep(3 * time.Second)
		if a.size() != 0 || len(a.readers) != 0 {
			t.Fatal("kept while idle")
		}
		a.close()
	})
}

// TestReadAheadTellsDamageWhereItIs: the entries in front of a damaged one are given, and it is an error each time.
func TestReadAheadTellsDamageWhereItIs(t *testing.T) {
	dir := t.TempDir()
	s := openTestLog(t, LogSeg, dir, aheadOptions())
	storeLarge(t, s, 1, 30, 1)
	files, err := filepath.Glob(filepath.Join(dir, "log", "seg-*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{99}, 4096+10*(64<<10)+30000); err != nil { // in entry 10 or 11
		t.Fatal(err)
	}
	var l raft.Log
	i := uint64(1)
	for ; err == nil && i <= 30; i++ {
		err = s.GetLog(i, &l)
	}
	if at := i - 1; at < 10 || at > 11 || !errors.Is(err, errors.KindCorrupt) {
		t.Fatalf("entry %d: %v", at, err)
	}
	if err := s.GetLog(i-1, &l); !errors.Is(err, errors.KindCorrupt) {
		t.Fatal(err)
	}
	readLarge(t, s, i, 1)
}

// BenchmarkFollowerFromFiles brings entries of 256 KiB from the files of one log into another one, 16 at a time, as raft does for a follower
// that is behind.
func BenchmarkFollowerFromFiles(b *testing.B) {
	for _, ahead := range []int64{-1, 8 << 20} {
		b.Run(fmt.Sprintf("ahead=%dMiB", max(0, ahead>>20)), func(b *testing.B) {
			const entries, each = 512, 16
			o := LogOptions{CacheBytes: -1, AheadBytes: ahead}
			from := openTestLog(b, LogSeg, b.TempDir(), o)
			data := make([]byte, 256<<10)
			for i := uint64(1); i <= entries; i++ {
				if err := from.StoreLog(&raft.Log{Index: i, Data: data}); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(entries * int64(len(data)))
			to := openTestLog(b, LogSeg, b.TempDir(), o)
			for range b.N {
				for i := uint64(1); i <= entries; i += each {
					logs := make([]*raft.Log, each)
					for j := range logs {
						logs[j] = new(raft.Log)
						if err := from.GetLog(i+uint64(j), logs[j]); err != nil {
							b.Fatal(err)
						}
					}
					if err := to.StoreLogs(logs); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				mustDelete(b, to, 1, entries)
				b.StartTimer()
			}
		})
	}
}
