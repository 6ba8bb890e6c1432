package sim

import (
	"strings"
	"testing"
)

// TestFailuresNamed: the end of a run names each seed that failed, in a line, and how to run it again.
func TestFailuresNamed(t *testing.T) {
	const again = "\n  again: DFS_SIM_SEED=7 DFS_SIM_REPEAT=20 go test -count=1 -run TestSimulation -v ./tests/sim"
	stopped := outcome{Seed: 5, Failed: []string{"the process ended: hangs: " + clockStands}}
	wrong := outcome{Seed: 7, Failed: []string{"/a: this history cannot be:\nwrite 1\nread 2", "a replica is not whole"}}
	for _, c := range []struct {
		name     string
		outcomes []outcome
		want     string
	}{
		{"none", []outcome{{Seed: 6}, stopped}, ""},
		{"one", []outcome{{Seed: 6}, stopped, wrong}, "failed seeds: 1\nseed 7: /a: this history cannot be:" + again},
		{"it was said to stop, and is wrong", []outcome{{Seed: 7, Failed: append([]string{"why"}, stopped.Failed...)}}, "failed seeds: 1\nseed 7: why" + again},
		{"a line without an end", []outcome{{Seed: 7, Failed: []string{strings.Repeat("x", 5000)}}}, "failed seeds: 1\nseed 7: " + strings.Repeat("x", 300) + again},
		{"many", make([]outcome, failuresMost+3), ""},
	} {
		if c.name == "many" {
			for i := range c.outcomes {
				c.outcomes[i] = wrong
			}
			c.want = "failed seeds: 13\n" + strings.Repeat("seed 7: /a: this history cannot be:"+again+"\n", failuresMost) + "and 3 more"
		}
		s := totals{outcomes: c.outcomes}
		if got := s.failures(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestRenameToItself changes nothing: what its mount did before in another directory may be lost, although somebody changes the name behind it.
func TestRenameToItself(t *testing.T) {
	s := []state{{base: content{names: [namesMax]uint64{5: 50}}}}
	for _, o := range []op{
		{kind: opCreate, owner: 1, slot: 1, val: 10, sure: true},
		{kind: opRename, owner: 1, slot: 5, to: 5, found: true, sure: true},
		{kind: opUnlink, owner: 2, slot: 5, found: true, sure: true},
		{kind: opLose, owner: 1},
		{kind: opLookup, owner: 2, slot: 1, sure: true},
	} {
		var next []state
		for _, have := range s {
			next = append(next, step(have, o)...)
		}
		if s = next; len(s) == 0 {
			t.Fatal("cannot be:", o)
		}
	}
}
