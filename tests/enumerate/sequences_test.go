package enumerate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// number is that of a variable of the environment.
func number(t *testing.T, name string, def int64) int64 {
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, s, err)
	}
	return n
}

func draw(t *testing.T) (*rand.Rand, int64) {
	seed := number(t, "DFS_SEED", time.Now().UnixNano())
	return rand.New(rand.NewPCG(uint64(seed), 1)), seed
}

// singles are all sequences of length one, with everything that may follow.
func singles() (list []sequence) {
	for _, o := range operations() {
		for p := range persists {
			if p.fits(o) {
				list = append(list, sequence{{o, p}})
			}
		}
	}
	return list
}

// pairs are all sequences of length two: with everything that may follow either, or, if drawn, with one thing drawn for each.
func pairs(rng *rand.Rand, drawn bool) (list []sequence) {
	one := func(o *op) (fit []persist) {
		for p := range persists {
			if p.fits(o) {
				fit = append(fit, p)
			}
		}
		if drawn {
			return []persist{fit[rng.IntN(len(fit))]}
		}
		return fit
	}
	ops := operations()
	for _, a := range ops {
		for _, b := range ops {
			for _, p := range one(a) {
				for _, q := range one(b) {
					list = append(list, sequence{{a, p}, {b, q}})
				}
			}
		}
	}
	return list
}

// sample draws n of them.
func sample(rng *rand.Rand, list []sequence, n int) []sequence {
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(n, len(list))]
}

// counts are printed at the end.
type counts struct {
	writes, points, same atomic.Int64
}

// each runs test for the sequences, from that which DFS_FROM names on, several at a time, until one fails or the time is over. It tells how
// far it came, each minute and at the end.
func each(t *testing.T, seed int64, list []sequence, end time.Time, writes string, test func(nth int, s sequence, n *counts) error) {
	from := min(int(number(t, "DFS_FROM", 0)), len(list))
	var next, done, minutes atomic.Int64
	var n counts
	began := time.Now()
	tell := func() {
		t.Logf("%d of %d sequences, %d %s, %d crashes, and %d more that left the same disk as another; %v", done.Load(), len(list), n.writes.Load(), writes,
			n.points.Load(), n.same.Load(), time.Since(began).Round(time.Second))
	}
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !failed.Load() && (end.IsZero() || time.Now().Before(end)) {
				i := from + int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				if err := test(i, list[i], &n); err != nil {
					failed.Store(true)
					t.Errorf("%v:\n%v\nDFS_SEQUENCE=%q runs it alone", list[i], err, list[i].String())
					return
				}
				done.Add(1)
				if m := int64(time.Since(began) / time.Minute); minutes.Swap(m) < m {
					tell()
				}
			}
		})
	}
	wg.Wait()
	if to := from + int(done.Load()); to < len(list) {
		t.Logf("DFS_SEED=%d DFS_FROM=%d goes on", seed, to)
	}
	tell()
}

// chosen are the sequences of a run.
func chosen(t *testing.T, rng *rand.Rand, drawn bool, short int) (list []sequence, end time.Time) {
	if name := os.Getenv("DFS_SEQUENCE"); name != "" {
		for _, s := range append(singles(), pairs(rng, false)...) {
			if s.String() == name {
				return []sequence{s}, time.Time{}
			}
		}
		t.Fatalf("there is no sequence %q", name)
	}
	minutes := number(t, "DFS_SOAK_MINUTES", 0)
	if minutes == 0 {
		return append(singles(), sample(rng, pairs(rng, true), short)...), time.Time{}
	}
	all := pairs(rng, drawn)
	return append(singles(), sample(rng, all, len(all))...), time.Now().Add(time.Duration(minutes) * time.Minute)
}

func background() context.Context { return context.Background() }

// wrap says what a check was about.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
