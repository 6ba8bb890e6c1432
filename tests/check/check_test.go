package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// did adds an operation that returned before anything else began.
func did(h *History, in Input, out Output) *Operation {
	o := h.Begin(0, in)
	o.Done(out)
	return o
}

func w(v uint64) Input { return Input{Kind: Write, Key: "k", Value: v} }
func r() Input         { return Input{Kind: Read, Key: "k"} }

// TestVerdicts: each model takes what may be and finds what may not.
func TestVerdicts(t *testing.T) {
	ok := Output{OK: true}
	for name, c := range map[string]struct {
		m    Model
		good bool
		make func(h *History)
	}{
		"fresh read": {Registers(), true, func(h *History) {
			did(h, w(1), ok)
			did(h, w(2), ok)
			did(h, r(), Output{Value: 2})
		}},
		"stale read": {Registers(), false, func(h *History) {
			did(h, w(1), ok)
			did(h, w(2), ok)
			did(h, r(), Output{Value: 1})
		}},
		"stale read of another register": {Registers(), true, func(h *History) {
			did(h, w(1), ok)
			did(h, Input{Kind: Read, Key: "other"}, Output{Value: 0})
		}},
		"a write under way may be seen, or not": {Registers(), true, func(h *History) {
			o := h.Begin(1, w(1))
			did(h, r(), Output{Value: 0})
			did(h, r(), Output{Value: 1})
			o.Done(ok)
		}},
		"but not be undone": {Registers(), false, func(h *History) {
			o := h.Begin(1, w(1))
			did(h, r(), Output{Value: 1})
			did(h, r(), Output{Value: 0})
			o.Done(ok)
		}},
		"an unknown write comes late": {Registers(), true, func(h *History) {
			h.Begin(1, w(1)).Unknown()
			did(h, w(2), ok)
			did(h, r(), Output{Value: 2})
			did(h, r(), Output{Value: 1})
		}},
		"an unknown write comes once": {Registers(), false, func(h *History) {
			h.Begin(1, w(1)).Unknown()
			did(h, r(), Output{Value: 1})
			did(h, w(2), ok)
			did(h, r(), Output{Value: 1})
		}},
		"an unknown write never comes": {Registers(), true, func(h *History) {
			h.Begin(1, w(1)).Unknown()
			did(h, r(), Output{Value: 0})
		}},
		"durable writes are not lost": {Registers(), false, func(h *History) {
			var u Unsynced
			u.Add(did(h, w(1), ok))
			u.Kept()
			u.Add(did(h, w(2), ok))
			u.Lost()
			did(h, r(), Output{Value: 0})
		}},
		"volatile ones may be, and what was read of them is void": {Registers(), true, func(h *History) {
			var u Unsynced
			u.Add(did(h, w(1), ok))
			u.Kept()
			u.Add(did(h, w(2), ok))
			u.Add(did(h, r(), Output{Value: 2}))
			u.Lost()
			did(h, r(), Output{Value: 1})
		}},
		"appends": {Appends(), true, func(h *History) {
			did(h, Input{Kind: Append, Value: 1}, ok)
			did(h, Input{Kind: Append, Value: 2}, ok)
			did(h, Input{Kind: ReadAll}, Output{Text: "1 2 "})
		}},
		"a lost append": {Appends(), false, func(h *History) {
			did(h, Input{Kind: Append, Value: 1}, ok)
			did(h, Input{Kind: Append, Value: 2}, ok)
			did(h, Input{Kind: ReadAll}, Output{Text: "2 "})
		}},
		"an append done twice": {Appends(), false, func(h *History) {
			h.Begin(0, Input{Kind: Append, Value: 1}).Unknown()
			did(h, Input{Kind: ReadAll}, Output{Text: "1 1 "})
		}},
		"two exclusive creates": {Existence(), false, func(h *History) {
			did(h, Input{Kind: Create}, ok)
			did(h, Input{Kind: Create}, ok)
		}},
		"one of two": {Existence(), true, func(h *History) {
			did(h, Input{Kind: Create}, ok)
			did(h, Input{Kind: Create}, Output{})
			did(h, Input{Kind: Remove}, ok)
			did(h, Input{Kind: Stat}, Output{})
		}},
		"a name that came back": {Existence(), false, func(h *History) {
			did(h, Input{Kind: Create}, ok)
			did(h, Input{Kind: Remove}, ok)
			did(h, Input{Kind: Stat}, ok)
		}},
		"renames": {Names(), true, func(h *History) {
			did(h, Input{Kind: Symlink, To: "b", Value: 7}, ok)
			did(h, Input{Kind: Symlink, To: "a", Value: 8}, ok)
			did(h, Input{Kind: Rename, Text: "b", To: "a"}, ok)
			did(h, Input{Kind: Rename, Text: "b", To: "c"}, Output{})
			did(h, Input{Kind: Readlink, To: "a"}, Output{Value: 7})
			did(h, Input{Kind: Unlink, To: "a"}, ok)
			did(h, Input{Kind: Readlink, To: "a"}, Output{})
		}},
		"a rename with both names": {Names(), false, func(h *History) {
			did(h, Input{Kind: Symlink, To: "b", Value: 7}, ok)
			did(h, Input{Kind: Rename, Text: "b", To: "a"}, ok)
			did(h, Input{Kind: Readlink, To: "b"}, Output{Value: 7})
		}},
		"a rename of what never was": {Names(), false, func(h *History) {
			did(h, Input{Kind: Rename, Text: "b", To: "a"}, ok)
		}},
		"a rename that another mount did": {Names(), false, func(h *History) {
			did(h, Input{Kind: Symlink, To: "b", Value: 7}, ok)
			x, y := h.Begin(0, Input{Kind: Rename, Text: "b", To: "a"}), h.Begin(1, Input{Kind: Rename, Text: "b", To: "a"})
			x.Done(ok)
			y.Done(ok)
			did(h, Input{Kind: Readlink, To: "a"}, Output{Value: 7})
		}},
		"entries": {Entries(), true, func(h *History) {
			did(h, Input{Kind: MakeFile, To: "a", Value: 7}, Output{})
			did(h, Input{Kind: MakeDir, To: "b", Value: 8 | DirBit}, Output{})
			did(h, Input{Kind: Move, Text: "a", To: "b"}, Output{Text: "EISDIR"})
			did(h, Input{Kind: Move, Text: "b", To: "a"}, Output{Text: "ENOTDIR"})
			did(h, Input{Kind: MoveNew, Text: "b", To: "a"}, Output{Text: "EEXIST"})
			did(h, Input{Kind: Exchange, Text: "b", To: "a"}, Output{})
			did(h, Input{Kind: RemoveFile, To: "a"}, Output{Text: "EISDIR"})
			did(h, Input{Kind: RemoveDir, To: "b"}, Output{Text: "ENOTDIR"})
			did(h, Input{Kind: RemoveDir, To: "a"}, Output{})
			did(h, Input{Kind: Exchange, Text: "b", To: "a"}, Output{Text: "ENOENT"})
			did(h, Input{Kind: Look, To: "a"}, Output{Text: "ENOENT"})
			did(h, Input{Kind: Move, Text: "b", To: "a"}, Output{})
			did(h, Input{Kind: Look, To: "a"}, Output{Value: 7})
		}},
		"another entry": {Entries(), false, func(h *History) {
			did(h, Input{Kind: MakeFile, To: "a", Value: 7}, Output{})
			did(h, Input{Kind: Look, To: "a"}, Output{Value: 8})
		}},
		"EEXIST for a name that is gone": {Entries(), false, func(h *History) {
			did(h, Input{Kind: MakeFile, To: "a", Value: 7}, Output{})
			x, y := h.Begin(0, Input{Kind: Move, Text: "a", To: "b"}), h.Begin(1, Input{Kind: MoveNew, Text: "a", To: "b"})
			x.Done(Output{})
			y.Done(Output{Text: "EEXIST"})
		}},
		"an unknown rename": {Names(), true, func(h *History) {
			did(h, Input{Kind: Symlink, To: "b", Value: 7}, ok)
			h.Begin(0, Input{Kind: Rename, Text: "b", To: "a"}).Unknown()
			did(h, Input{Kind: Readlink, To: "b"}, Output{Value: 7})
			did(h, Input{Kind: Readlink, To: "a"}, Output{Value: 7})
		}},
		"counting": {Counters(), true, func(h *History) {
			did(h, Input{Kind: Increment}, Output{Value: 0})
			h.Begin(0, Input{Kind: Increment}).Unknown()
			did(h, Input{Kind: Increment}, Output{Value: 2})
		}},
		"two in the critical section": {Counters(), false, func(h *History) {
			a, b := h.Begin(0, Input{Kind: Increment}), h.Begin(1, Input{Kind: Increment})
			a.Done(Output{Value: 0})
			b.Done(Output{Value: 0})
		}},
	} {
		h := &History{}
		c.make(h)
		got := h.Check(c.m, time.Minute)
		if (got.Violation == "") != c.good || got.Undecided || got.Operations == 0 {
			t.Errorf("%s: good is %v, want %v (%d operations looked at)\n%s", name, got.Violation == "", c.good, got.Operations, got.Violation)
		}
	}
}

// TestManyUnknown: the search ends although much is unknown.
func TestManyUnknown(t *testing.T) {
	h, text := &History{}, ""
	for v := range uint64(200) {
		o := h.Begin(int(v%4), Input{Kind: Append, Value: v + 1})
		if v%3 > 0 {
			o.Done(Output{OK: true})
		}
		if v%6 > 0 { // of those without an answer every other one was done
			text += fmt.Sprint(v+1, " ")
		}
		did(h, Input{Kind: ReadAll}, Output{Text: text})
	}
	got := h.Check(Appends(), 10*time.Second)
	if got.Violation != "" || got.Undecided || got.Unknown != 67 {
		t.Errorf("%+v", got)
	}
	did(h, Input{Kind: ReadAll}, Output{Text: "1 " + text})
	if got := h.Check(Appends(), 10*time.Second); got.Violation == "" {
		t.Errorf("a history that begins differently at its end: %+v", got)
	}
}

// TestAppendsAsSearched: what is judged without a search agrees with the search, on short histories, right and wrong ones.
func TestAppendsAsSearched(t *testing.T) {
	searched := Appends()
	searched.judge = nil
	good, bad := 0, 0
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 1))
		h, file := &History{}, ""
		type open struct {
			o   *Operation
			out Output
		}
		var under []open
		for v := range uint64(12) {
			if r.IntN(2) == 0 {
				o := h.Begin(int(v), Input{Kind: Append, Value: v + 1})
				if r.IntN(6) > 0 {
					file += fmt.Sprint(v+1, " ")
				}
				under = append(under, open{o, Output{OK: true}})
			} else {
				text := file
				if fields := strings.Fields(file); r.IntN(12) == 0 && len(fields) > 0 { // stale, or short
					text = strings.Join(fields[:r.IntN(len(fields))], " ") + " "
				}
				under = append(under, open{h.Begin(int(v), Input{Kind: ReadAll}), Output{Text: strings.TrimPrefix(text, " ")}})
			}
			for len(under) > 0 && r.IntN(3) > 0 {
				i := r.IntN(len(under))
				if r.IntN(8) > 0 {
					under[i].o.Done(under[i].out)
				}
				under = slices.Delete(under, i, i+1)
			}
		}
		a, b := h.Check(Appends(), time.Minute), h.Check(searched, time.Minute)
		if (a.Violation == "") != (b.Violation == "") || b.Undecided {
			t.Fatalf("seed %d: judged %q, searched %q", seed, a.Violation, b.Violation)
		}
		if a.Violation == "" {
			good++
		} else {
			bad++
		}
	}
	if good < 60 || bad < 60 {
		t.Errorf("%d good and %d bad histories: nothing to tell apart", good, bad)
	}
}

// TestSet: a directory's text is the same whatever way it came about.
func TestSet(t *testing.T) {
	ways := []string{set(set(set("", "b", 2), "a", 1), "c", 3), set(set(set("", "c", 3), "b", 2), "a", 1), set(set(set(set("", "a", 9), "c", 3), "b", 2), "a", 1),
		set(set(set(set(set("", "a", 1), "d", 4), "b", 2), "c", 3), "d", 0)}
	for _, way := range ways {
		if way != "a=1;b=2;c=3;" {
			t.Errorf("%q", way)
		}
	}
	if target(ways[0], "b") != 2 || target(ways[0], "") != 0 || target(ways[0], "x") != 0 {
		t.Error("wrong targets")
	}
}
