package partition

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// seedAndRounds are DFS_SEED and DFS_ROUNDS, or the time and a number of rounds; in a long run so many that time ends it.
func seedAndRounds(t *testing.T, rounds int) (uint64, int) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	var err error
	if s := os.Getenv("DFS_SEED"); s != "" {
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	if soak() > 0 {
		rounds = 1 << 20
	}
	if s := os.Getenv("DFS_ROUNDS"); s != "" {
		rounds, err = strconv.Atoi(s)
		must(t, err)
	}
	return seed, rounds
}

// goOn does rounds until their number or, in a long run, a part of the time is over.
func (w *world) goOn(seed uint64, rounds int, part float64, faults []fault, plan plan) {
	w.t.Helper()
	end := time.Now().Add(time.Duration(float64(soak()) * part))
	for i := range rounds {
		if soak() > 0 && time.Now().After(end) {
			return
		}
		w.round(seed+uint64(i), faults, plan)
	}
}

// durations of faults.
func durations() []time.Duration {
	if soak() > 0 {
		return []time.Duration{1 * time.Second, 1 * time.Second, 1 * time.Second, 2 * time.Second, 2 * time.Second, 3 * time.Second, 6 * time.Second, 14 * time.Second}
	}
	return []time.Duration{500 * time.Millisecond, 1 * time.Second, 2 * time.Second, 3 * time.Second}
}

// TestNemesis: cuts, kills and pauses of anybody.
func TestNemesis(t *testing.T) {
	seed, rounds := seedAndRounds(t, 7)
	w := start(t, seed, serverArgs, ownDisks)
	faults, repeat := slices.Concat(cuts(), cuts(), kills(), pauses(), disks()), 1
	if soak() > 0 {
		faults, repeat = slices.Concat(faults, kills(), losses()), 4
	}
	w.goOn(seed, rounds, 0.4, faults, plan{most: 2, repeat: repeat, durations: durations()})
	w.finish()
}

// TestPauses: mounts and leaders stand still and go on.
func TestPauses(t *testing.T) {
	seed, rounds := seedAndRounds(t, 20)
	w := start(t, seed, serverArgs, nil)
	faults, repeat := pauses(), 1
	if soak() > 0 {
		faults, repeat = slices.Concat(faults, leaderPauses()), 4
	}
	w.goOn(seed, rounds, 0.4, faults, plan{most: 2, repeat: repeat, durations: durations()})
	w.finish()
}

// TestLossyDisks: disks forget or tear at a loss of power what was not synced, and die.
func TestLossyDisks(t *testing.T) {
	seed, rounds := seedAndRounds(t, 2)
	w := start(t, seed, eagerArgs, lossyDisks)
	repeat := 1
	if soak() > 0 {
		repeat = 4
	}
	w.goOn(seed, 1, 0.2, []fault{failingDisk()}, plan{most: 1, repeat: 1, durations: durations()})
	w.goOn(seed, rounds, 0.2, lossyFaults(), plan{most: 2, repeat: repeat, durations: durations()})
	w.finish()
}
