//go:debug randseednop=0
package sim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// seedsShort is how many seeds a run takes, and shortFor for how long at most (on a machine that is busy otherwise), unless
// DFS_SIM_SEEDS says how many, or DFS_SOAK_MINUTES how long.
const (
	seedsShort = 300
	shortFor   = 5 * time.Minute
	seedsMost  = 1 << 40 // of a run that DFS_SOAK_MINUTES bounds in time
)

// TestSimulation runs seeds, each a cluster of its own that is broken about a hundred times, and prints what they came to.
// Seeds run in processes of one processor each: so a run is as alike from one time to the next as Go's scheduler allows, and a
// panic or a hang is one seed's.
func TestSimulation(t *testing.T) {
	switch {
	case os.Getenv("DFS_SIM_WORKER") != "":
		work(t)
	case os.Getenv("DFS_SIM_SEED") != "":
		replay(t)
	default:
		supervise(t)
	}
}

func number(t *testing.T, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, s, err)
	}
	return n
}

// replay runs one seed, again and again if that is asked for: where the scheduler decides, not every run does the same.
func replay(t *testing.T) {
	runtime.GOMAXPROCS(1)
	seed := uint64(number(t, "DFS_SIM_SEED", 1))
	for range number(t, "DFS_SIM_REPEAT", 1) {
		out := runSeed(t, seed)
		for _, line := range out.trace {
			fmt.Println(line)
		}
		if len(out.Failed) > 0 {
			t.Fatal(strings.Join(out.Failed, "\n"))
		}
	}
}

// work runs the seeds from DFS_SIM_WORKER on, each DFS_SIM_STEP-th, as many as the reader of the output takes.
func work(t *testing.T) {
	seed, step := number(t, "DFS_SIM_WORKER", 1), number(t, "DFS_SIM_STEP", 1)
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for ; in.Scan(); seed += step { // a line asks for a seed
		o := runSeed(t, uint64(seed))
		if len(o.Failed) > 0 {
			o.Trace = o.trace
		}
		fmt.Print("\nSIM ")
		if err := out.Encode(o); err != nil {
			t.Fatal(err)
		}
	}
}

// totals of a run.
type totals struct {
	mu       sync.Mutex
	outcomes []outcome
	broken   int
	stopped  int // seeds whose clock stood still
}

// stoppedMax is how many seeds of n may end because virtual time stands still, which says nothing of dfs: a connection that gRPC closes
// while its writer waits is tried again without a pause until that wait is over (5 s), and a mutex may be held by who waits.
func stoppedMax(n int) int { return max(2, n/50) }

func supervise(t *testing.T) {
	from, seeds := number(t, "DFS_SIM_FROM", 1), number(t, "DFS_SIM_SEEDS", seedsShort)
	until := time.Now().Add(24 * time.Hour)
	if os.Getenv("DFS_SIM_SEEDS") == "" {
		until = time.Now().Add(shortFor)
	}
	if minutes := number(t, "DFS_SOAK_MINUTES", 0); minutes > 0 {
		until = time.Now().Add(time.Duration(minutes) * time.Minute)
		seeds = number(t, "DFS_SIM_SEEDS", seedsMost)
	}
	var sum totals
	begin := time.Now()
	workers := runtime.NumCPU()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for seed := from + i; seed < from+seeds && time.Now().Before(until); {
				seed = sum.worker(t, seed, workers, from+seeds, until)
			}
		})
	}
	wg.Wait()
	sum.print(t, from, workers, time.Since(begin))
	if n := len(sum.outcomes); n < seeds && seeds < seedsMost {
		t.Logf("the time is over after %d of %d seeds", n, seeds)
	}
	if short := sum.failures(); short != "" {
		t.Log(short) // last of all, as records of a run keep its end
	}
}

// worker runs a process with the seeds from seed on; it returns the seed with which the next process goes on.
func (s *totals) worker(t *testing.T, seed, step, end int, until time.Time) int {
	cmd := exec.Command(os.Args[0], "-test.run=^TestSimulation$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", fmt.Sprint("DFS_SIM_WORKER=", seed), fmt.Sprint("DFS_SIM_STEP=", step))
	base := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "dfs-sim-")
	if err != nil {
		t.Error(err)
		return end
	}
	defer os.RemoveAll(dir) // a process that is ended leaves its files
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	var said tail
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Error(err)
		return end
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return end
	}
	answers := bufio.NewReader(io.TeeReader(out, &said))
	for ; seed < end && time.Now().Before(until); seed += step {
		if _, err := io.WriteString(in, "\n"); err != nil {
			break
		}
		o, err := nextOutcome(answers)
		if err != nil { // the process died with it
			_ = cmd.Wait()
			if keepDir != "" {
				_ = os.WriteFile(filepath.Join(keepDir, fmt.Sprintf("seed-%d-ended.log", seed)), said.b, 0o600)
			}
			s.note(t, outcome{Seed: uint64(seed), Failed: []string{"the process ended: " + said.String()}})
			return seed + step
		}
		s.note(t, o)
	}
	in.Close()
	_, _ = io.Copy(io.Discard, answers)
	_ = cmd.Wait()
	return seed
}

func nextOutcome(r *bufio.Reader) (o outcome, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return o, err
		}
		if rest, ok := strings.CutPrefix(line, "SIM "); ok {
			return o, json.Unmarshal([]byte(rest), &o)
		}
	}
}

// tail keeps the end of what a process said.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (s *tail) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p...)
	if len(s.b) > 1<<20 {
		s.b = append([]byte(nil), s.b[len(s.b)-1<<19:]...)
	}
	return len(p), nil
}

// String is the part from a panic on, shortened.
func (s *tail) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(s.b)
	for _, word := range []string{"panic: ", "fatal error: ", "hangs: "} {
		if i := strings.Index(text, word); i >= 0 {
			text = text[i:]
			break
		}
	}
	return text[:min(len(text), 4000)]
}

func (s *totals) note(t *testing.T, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !o.judged() {
		s.stopped++
		t.Logf("seed %d is not judged: %s", o.Seed, o.Failed[0][:min(len(o.Failed[0]), 200)])
	} else if len(o.Failed) > 0 {
		s.broken++
		t.Errorf("seed %d: %s\nthe last of what was done:\n%s\nagain: %s",
			o.Seed, strings.Join(o.Failed, "\n"), strings.Join(o.Trace[max(0, len(o.Trace)-60):], "\n"), o.again())
	}
	o.Trace = nil
	s.outcomes = append(s.outcomes, o)
}

// failuresMost is how many failed seeds are named at the end.
const failuresMost = 10

// failures names the seeds that failed, and what failed first in each; "": none did.
func (s *totals) failures() string {
	var lines []string
	for _, o := range s.outcomes {
		if len(o.Failed) > 0 && o.judged() {
			first, _, _ := strings.Cut(strings.TrimSpace(o.Failed[0]), "\n")
			lines = append(lines, fmt.Sprintf("seed %d: %.300s\n  again: %s", o.Seed, first, o.again()))
		}
	}
	n := len(lines)
	if n == 0 {
		return ""
	}
	if n > failuresMost {
		lines = append(lines[:failuresMost], fmt.Sprintf("and %d more", n-failuresMost))
	}
	return fmt.Sprintf("failed seeds: %d\n%s", n, strings.Join(lines, "\n"))
}

// print prints the figures.
func (s *totals) print(t *testing.T, from, workers int, real time.Duration) {
	var all outcome
	all.Faults = map[string]int{}
	var lateOf, faults int
	for _, o := range s.outcomes {
		all.Virtual += o.Virtual
		all.Ran += o.Ran
		all.Checked += o.Checked
		all.Ops += o.Ops
		all.Errors += o.Errors
		all.Compared += o.Compared
		all.Lost += o.Lost
		lateOf += len(o.Late)
		for kind, n := range o.Faults {
			all.Faults[kind] += n
			faults += n
		}
	}
	n := len(s.outcomes)
	if n == 0 {
		t.Fatal("no seed was run")
	}
	t.Logf("%d seeds from %d on, %d with a violation; %.0f virtual seconds in %.0f real ones on %d processors: %.0f times real time (%.0f in processor time)",
		n, from, s.broken, all.Virtual.Seconds(), real.Seconds(), workers, all.Virtual.Seconds()/real.Seconds(), all.Virtual.Seconds()/(all.Ran+all.Checked).Seconds())
	t.Logf("%d seeds were not judged because virtual time stood still", s.stopped)
	if s.stopped > stoppedMax(n) {
		t.Errorf("virtual time stood still in %d of %d seeds, more than %d: something waits, or spins, that did not before", s.stopped, n, stoppedMax(n))
	}
	t.Logf("%d operations, %d of them failed; %d histories not decided in time; %d ledger steps lost with sessions; %d comparisons of replicas under way",
		all.Ops, all.Errors, lateOf, all.Lost, all.Compared)
	t.Logf("%d faults, %d a seed:", faults, faults/n)
	for kind, k := range all.Faults {
		t.Logf("%8d %s", k, kind)
	}
}

// seedRand seeds what the packages draw from math/rand (election timeouts).
func seedRand(seed uint64) { rand.Seed(int64(seed)) } //nolint:staticcheck // the one way to seed what others draw
