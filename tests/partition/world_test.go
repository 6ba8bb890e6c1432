package partition

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs/tests/check"
	"dfs/tests/harness"
	"dfs/tests/lossy"
)

const (
	lease      = 3 * time.Second // of the mounts
	mountCount = 4
	// healWait is how long after healing an operation may take at most: promised for a machine that has nothing else to do.
	healWait = lease + 5*time.Second
	// patience is where a test that is not a long run gives up: it may share its machine.
	patience = 90 * time.Second
)

// world is a cluster on a network, its disks and its mounts, that goes through rounds.
type world struct {
	t      *testing.T
	net    *harness.Network
	c      *harness.Cluster
	mounts []*harness.Mount
	disks  map[*harness.Node]*disk
	lossy  map[*harness.Node]*lossy.Disk
	dark   map[*harness.Node]bool // without power
	tally  *tally
	rounds int
	added  int // nodes that replaced others
	open   []*os.File
	traced bool

	undecided int // histories that took too long to judge

	lead   *harness.Node // the leader as the faults of a round begin
	others []*harness.Node
	values atomic.Uint64 // the last that was written anywhere
}

// serverArgs make checkpoints and cut the log often; eagerArgs do in each round, which checkpoints need that are to go wrong.
var (
	serverArgs = []string{"--checkpoint", "8M", "--keep-log", "4M"}
	eagerArgs  = []string{"--checkpoint", "1M", "--keep-log", "1M"}
)

// start starts three nodes and the mounts, all on hosts of their own. With prepare, it is called before the nodes are started.
func start(t *testing.T, seed uint64, args []string, prepare func(w *world, c *harness.Cluster)) *world {
	t.Helper()
	w := &world{t: t, net: harness.NewNetwork(t, seed), disks: map[*harness.Node]*disk{}, lossy: map[*harness.Node]*lossy.Disk{},
		dark: map[*harness.Node]bool{}, tally: openTally(t)}
	t.Cleanup(func() {
		if t.Failed() {
			w.tally.add("violations", 1) // whatever was wrong: the round that finds it is the last
			w.tally.log(t)
		}
	})
	opt := harness.Options{Network: w.net, Args: args}
	if prepare != nil {
		opt.Prepare = func(c *harness.Cluster) { prepare(w, c) }
	}
	w.c = harness.Start(t, opt)
	w.c.WaitReady()
	for range mountCount {
		w.mounts = append(w.mounts, w.c.Mount("--lease", lease.String()))
	}
	t.Cleanup(w.trace)
	return w
}

// finish unmounts everything, which must succeed, and looks at everything once more.
func (w *world) finish() {
	w.t.Helper()
	for _, f := range w.open {
		_ = f.Close()
	}
	for _, m := range w.mounts {
		m.Unmount()
	}
	w.c.Check()
	w.tally.log(w.t)
}

// round does one round: faults are drawn from those given, how many at once and how long follows from the seed.
func (w *world) round(seed uint64, faults []fault, plan plan) {
	w.t.Helper()
	w.rounds++
	r := rand.New(rand.NewPCG(seed, 1))
	before := w.t.Failed()
	defer func() {
		if w.t.Failed() && !before {
			long := ""
			if soak() > 0 {
				long = "DFS_SOAK_MINUTES=5 "
			}
			w.t.Logf("to run this round again: %sDFS_SEED=%d DFS_ROUNDS=1 go test -count=1 -v -run '^%s$' ./tests/partition", long, seed, w.t.Name())
		}
	}()
	run := w.clients(seed)
	run.warm()
	begun := time.Now()
	names := w.disturb(r, faults, plan)
	healed := time.Now()
	w.answers(run, healed)
	run.end(healed)
	w.judge(run)
	w.whole()
	w.tally.add("rounds of "+w.t.Name(), 1)
	w.t.Logf("DFS_SEED=%d: %s; %d operations, slowest %v; faults lasted %v, all mounts answered after %v, checked after %v", seed, strings.Join(names, ", "),
		run.done.Load(), run.history.Slowest().Round(time.Millisecond), healed.Sub(begun).Round(time.Millisecond), run.answered.Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
	w.tally.save(w.t)
	if w.t.Failed() && !before {
		w.t.FailNow()
	}
}

// disturb begins faults, waits, and heals them.
func (w *world) disturb(r *rand.Rand, faults []fault, plan plan) (names []string) {
	w.t.Helper()
	for range plan.times(r) {
		w.look()
		already := len(names)
		var begun []fault
		heal := map[int][]func(){}
		for range plan.atOnce(r) {
			f := faults[r.IntN(len(faults))]
			if f.alone && len(begun) > 0 {
				continue
			}
			undo, what := f.begin(w, r)
			if !slices.Contains(names[already:], what) { // the same twice at once is one
				w.tally.add(f.counted, 1)
			}
			begun, names = append(begun, f), append(names, what)
			heal[f.order] = append(heal[f.order], undo)
			if f.alone {
				break
			}
		}
		time.Sleep(plan.length(r))
		for order := range orders {
			for _, undo := range heal[order] {
				undo()
			}
		}
	}
	return names
}

// plan is how much a round is disturbed.
type plan struct {
	most      int             // faults at once
	repeat    int             // how often, one after the other
	durations []time.Duration // one is drawn
}

func (p plan) atOnce(r *rand.Rand) int { return 1 + r.IntN(p.most) }
func (p plan) times(r *rand.Rand) int  { return 1 + r.IntN(p.repeat) }
func (p plan) length(r *rand.Rand) time.Duration {
	return p.durations[r.IntN(len(p.durations))] + time.Duration(r.IntN(700))*time.Millisecond
}

// answers checks that every mount answers an operation that changes something, soon after healing.
func (w *world) answers(run *run, healed time.Time) {
	w.t.Helper()
	var wait sync.WaitGroup
	took := make([]time.Duration, len(w.mounts))
	for i, m := range w.mounts {
		wait.Go(func() {
			path := m.Path(run.dir, fmt.Sprintf("probe-%d", i))
			_ = os.Remove(path)
			err := os.WriteFile(path, []byte("probe"), 0o644)
			if err == nil {
				err = harness.SyncPath(path)
			}
			took[i] = time.Since(healed)
			if err != nil {
				w.t.Logf("the first operation on %s after healing: %v", m.Dir, err)
			}
		})
	}
	w.within(run, "the first operation on every mount after healing", healed, wait.Wait)
	for _, d := range took {
		run.answered = max(run.answered, d)
	}
	w.tally.most("slowest answer after healing (ms)", run.answered.Milliseconds())
	if run.answered > healWait && onTime() {
		w.t.Errorf("an operation took %v after healing; the lease is %v", run.answered, lease)
	}
}

// within waits for f; if that takes too long it says who waits for what, and kills the mounts so that the test can end.
func (w *world) within(run *run, what string, since time.Time, f func()) {
	w.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
		return
	case <-time.After(time.Until(since.Add(patience))):
	}
	buf := make([]byte, 1<<20)
	w.t.Errorf("%s is not over after %v; goroutines:\n%s", what, patience, buf[:runtime.Stack(buf, true)])
	run.stop.Store(true)
	w.trace()
	for _, m := range w.mounts {
		m.Kill()
	}
	w.t.FailNow()
}

// trace lets the logs of a world that failed end with what everybody was about, if they are kept.
func (w *world) trace() {
	if os.Getenv("DFS_LOGS") == "" || !w.t.Failed() || w.traced {
		return
	}
	w.traced = true
	for _, m := range w.mounts {
		m.Process().Trace()
	}
	for _, n := range w.c.Nodes {
		n.Process().Trace()
	}
}

// judge checks the histories.
func (w *world) judge(run *run) {
	w.t.Helper()
	for _, m := range check.All() {
		got := run.history.Check(m, 30*time.Second)
		w.tally.add("operations checked", got.Operations)
		w.tally.add("of unknown outcome", got.Unknown)
		if got.Undecided {
			w.undecided++
			w.tally.add("histories not judged", 1)
			w.t.Logf("the search for an order of %s took too long: its history is not judged", m.Name)
			if w.undecided > 1+w.rounds/10 {
				w.t.Errorf("%d histories of %d rounds took too long to judge", w.undecided, w.rounds)
			}
		}
		if got.Violation != "" {
			w.t.Error(got.Violation)
		}
	}
	for _, bad := range run.bad() {
		w.t.Error(bad)
	}
}

// whole checks that all nodes are back, and equal, and the file system is consistent.
func (w *world) whole() {
	w.t.Helper()
	for _, n := range w.c.Nodes {
		if n.Process().Exited() {
			w.t.Errorf("node %s ended by itself:\n%s", n.ID, harness.Tail(n.Log, 5))
			n.Start()
		}
	}
	w.c.WaitReady()
	for _, command := range []string{"fsck", "compare"} {
		if out, err := w.c.Try(command, w.c.Addresses()); err != nil {
			w.t.Errorf("%v\n%s", err, out)
		}
	}
}
