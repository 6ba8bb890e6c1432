package sim

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// outcome is what one seed came to.
type outcome struct {
	Seed     uint64
	Virtual  time.Duration // of the run
	Ran      time.Duration // processor time of the run
	Checked  time.Duration // processor time of the check of its history
	Ops      int
	Errors   int
	Faults   map[string]int
	Compared int
	Lost     uint64   // ledger steps lost with sessions
	Late     []string `json:",omitempty"` // objects whose history was not decided in time
	Failed   []string `json:",omitempty"`
	Trace    []string `json:",omitempty"`

	trace []string
}

// judged tells whether its run came to an end that says something of dfs.
func (o *outcome) judged() bool {
	return len(o.Failed) != 1 || !strings.Contains(o.Failed[0], clockStands)
}

// again is the command that runs it again.
func (o *outcome) again() string {
	return fmt.Sprintf("DFS_SIM_SEED=%d DFS_SIM_REPEAT=20 go test -count=1 -run TestSimulation -v ./tests/sim", o.Seed)
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// How a seed that does not end is told from a machine that is busy: it takes hungCPU of processor time (a run takes about one second),
// or all but none in hungAfter of real time.
const (
	hungCPU   = 60 * time.Second
	hungAfter = 90 * time.Second
	hungIdle  = 100 * time.Millisecond
)

// watchdog ends the process when the clock of a seed stands still.
func watchdog(seed uint64, done <-chan struct{}) {
	began := cpu()
	for last := began; ; {
		select {
		case <-done:
			return
		case <-time.After(hungAfter):
		}
		now := cpu()
		if now-began > hungCPU || now-last < hungIdle {
			buf := make([]byte, 8<<20)
			fmt.Fprintf(os.Stderr, "seed %d hangs: "+clockStands+"\n%s\n", seed, buf[:runtime.Stack(buf, true)])
			os.Exit(3)
		}
		last = now
	}
}

// clockStands is what is said of such a seed.
const clockStands = "somebody waits for a mutex in virtual time, or never rests"

// runSeed runs a seed and checks its history.
func runSeed(t *testing.T, seed uint64) (out outcome) {
	done := make(chan struct{})
	defer close(done)
	go watchdog(seed, done)
	t.Run(fmt.Sprint(seed), func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		seedRand(seed)
		var w *world
		begin := cpu()
		synctest.Test(t, func(t *testing.T) {
			w = newWorld(t, seed)
			w.run()
		})
		out = outcome{Seed: seed, Virtual: w.lasted, Ran: cpu() - begin, Ops: len(w.history), Errors: w.errors, Faults: w.faults, Compared: w.compared,
			Failed: w.failed, trace: w.trace}
		for _, l := range w.ledgers {
			out.Lost += l.lost
		}
		begin = cpu()
		wrong, late := checkHistory(w.settled(), 10*time.Second)
		out.Checked, out.Late = cpu()-begin, late
		for name, list := range wrong {
			out.Failed = append(out.Failed, fmt.Sprintf("%s: this history cannot be:\n%s", name, describe(list)))
		}
		w.keep(out.Failed)
	})
	return out
}
