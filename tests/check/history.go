package check

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what an operation does.
type Kind int

// The kinds. What Key, To, Value and Text of Input and Output mean for each stands behind it.
const (
	Write     Kind = iota // Key: register; Value: what is written
	Read                  // Key: register; Output.Value: what was read, 0 if it was never written
	Append                // Key: file; Value: what is appended
	ReadAll               // Key: file; Output.Text: all values, each followed by a space
	Create                // Key: name; exclusive; Output.OK: false if it existed
	Stat                  // Key: name; Output.OK: whether it exists
	Remove                // Key: name; Output.OK: false if it did not exist
	Symlink               // Key: directory; To: name; Value: its target; Output.OK: false if the name existed
	Rename                // Key: directory; Text: old name; To: new name; Output.OK: false if the old one did not exist
	Unlink                // Key: directory; To: name; Output.OK: false if it did not exist
	Readlink              // Key: directory; To: name; Output.Value: its target, 0 if it does not exist
	Increment             // Key: counter; Output.Value: what was read under the lock before one was added

	// Of entries (see Entries). Key: directory; To: name; Text: old name; Value: number of what is made.
	MakeFile
	MakeDir
	RemoveFile
	RemoveDir
	Move
	MoveNew  // RENAME_NOREPLACE
	Exchange // RENAME_EXCHANGE
	Look
)

var kindNames = []string{"write", "read", "append", "read all", "create", "stat", "remove", "symlink", "rename", "unlink", "readlink", "increment",
	"make file", "make dir", "remove file", "remove dir", "move", "move new", "exchange", "look"}

func (k Kind) String() string { return kindNames[k] }

// Input is what an operation was asked.
type Input struct {
	Kind    Kind
	Key     string // operations of different keys have nothing to do with one another
	To      string
	Text    string
	Value   uint64
	unknown bool // set when the history is checked, so that models see it
}

// Output is what an operation answered.
type Output struct {
	OK    bool
	Value uint64
	Text  string
}

// History collects the operations of clients that run at the same time. Its clock counts calls and returns, so it
// serves in virtual time as well.
type History struct {
	mu    sync.Mutex
	clock int64
	ops   []*Operation
}

// Operation is one operation of a history.
type Operation struct {
	Client int
	Input  Input
	Output Output

	history      *History
	call, answer int64 // 0: none
	void         bool
	when         time.Time
	took         time.Duration
}

// Begin notes that a client is about to do something.
func (h *History) Begin(client int, in Input) *Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	o := &Operation{Client: client, Input: in, history: h, call: h.clock, when: time.Now()}
	h.ops = append(h.ops, o)
	return o
}

// Done notes the answer.
func (o *Operation) Done(out Output) {
	o.history.mu.Lock()
	defer o.history.mu.Unlock()
	o.history.clock++
	o.answer, o.Output, o.took = o.history.clock, out, time.Since(o.when)
}

// Unknown notes that the operation may have been done, may be done later or never. So does not calling Done.
func (o *Operation) Unknown() {
	o.history.mu.Lock()
	defer o.history.mu.Unlock()
	o.answer = 0
}

// Void takes an operation that has no effect and no answer to be judged out of the history.
func (o *Operation) Void() {
	o.history.mu.Lock()
	defer o.history.mu.Unlock()
	o.void = true
}

func (o *Operation) readOnly() bool {
	switch o.Input.Kind {
	case Read, ReadAll, Stat, Readlink, Look:
		return true
	}
	return false
}

// Unsynced holds the operations that one client did through one mount since it was last told that all is durable.
// It is not safe for several goroutines.
type Unsynced struct{ ops []*Operation }

// Add adds an operation that returned.
func (u *Unsynced) Add(o *Operation) { u.ops = append(u.ops, o) }

// Kept notes a successful fsync.
func (u *Unsynced) Kept() { u.ops = nil }

// Lost notes that an error was told, or that the mount died.
func (u *Unsynced) Lost() {
	for _, o := range u.ops {
		if o.readOnly() {
			o.Void()
		} else {
			o.Unknown()
		}
	}
	u.ops = nil
}

// Result is what a check found.
type Result struct {
	Operations int    // looked at
	Unknown    int    // of them without a known outcome
	Undecided  bool   // the search took too long
	Violation  string // "" if none; else the history that no order explains, one line an operation
}

// Check looks for an order that explains the operations of the kinds of a model.
func (h *History) Check(m Model, limit time.Duration) Result {
	var r Result
	keys := map[string][]porcupine.Operation{}
	h.mu.Lock()
	for _, o := range h.ops {
		if o.void || !slices.Contains(m.kinds, o.Input.Kind) || (o.answer == 0 && o.readOnly()) {
			continue
		}
		r.Operations++
		p := porcupine.Operation{ClientId: o.Client, Input: o.Input, Output: o.Output, Call: o.call, Return: o.answer}
		if o.answer == 0 {
			r.Unknown++
			in := o.Input
			in.unknown = true
			p.Input, p.Return = in, h.clock+int64(r.Unknown)
		}
		keys[o.Input.Key] = append(keys[o.Input.Key], p)
	}
	h.mu.Unlock()
	deadline := time.Now().Add(limit)
	for key, ops := range keys {
		if m.judge != nil {
			if wrong := m.judge(ops); wrong != "" {
				r.Violation = fmt.Sprintf("%s: %s; the operations:\n%s", m.Name, wrong, h.describe(m, key, settle(ops)))
				return r
			}
			continue
		}
		ops = settle(ops)
		switch porcupine.CheckOperationsTimeout(m.model(), ops, max(time.Until(deadline), time.Millisecond)) {
		case porcupine.Unknown:
			r.Undecided = true
		case porcupine.Illegal:
			r.Violation = fmt.Sprintf("%s of %s: no order of these operations explains their answers:\n%s", m.Name, key, h.describe(m, key, ops))
			return r
		}
	}
	return r
}

// settle says more about writes and appends of unknown outcome, whose values are like no other's: one that no read shows may as well
// never have been done, and one that a read shows was done before that read returned. Without it a search with many of them does not end.
func settle(ops []porcupine.Operation) []porcupine.Operation {
	shown := map[uint64]int64{} // value -> when the first read that shows it returned
	note := func(v uint64, at int64) {
		if first, known := shown[v]; !known || at < first {
			shown[v] = at
		}
	}
	for _, o := range ops {
		switch out := o.Output.(Output); o.Input.(Input).Kind {
		case Read:
			note(out.Value, o.Return)
		case ReadAll:
			for field := range strings.FieldsSeq(out.Text) {
				var v uint64
				if _, err := fmt.Sscan(field, &v); err == nil {
					note(v, o.Return)
				}
			}
		}
	}
	var settled []porcupine.Operation
	for _, o := range ops {
		if in := o.Input.(Input); in.unknown && (in.Kind == Write || in.Kind == Append) {
			at, known := shown[in.Value]
			if !known {
				continue
			}
			o.Return = max(o.Call, at)
		}
		settled = append(settled, o)
	}
	return settled
}

// describe lists the shortest beginning of the operations, by their return, that no order explains, and how they were called.
func (h *History) describe(m Model, key string, ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	begin := func(n int) []porcupine.Operation { // the first n, and those that had not returned by then, as of unknown outcome
		some := slices.Clone(ops[:n])
		for _, o := range ops[n:] {
			in := o.Input.(Input)
			if o.Call < ops[n-1].Return && !slices.Contains([]Kind{Read, ReadAll, Stat, Readlink, Look}, in.Kind) {
				in.unknown = true
				o.Input = in
				some = append(some, o)
			}
		}
		return some
	}
	n := 1 + sort.Search(len(ops)-1, func(i int) bool {
		return porcupine.CheckOperationsTimeout(m.model(), begin(i+1), 2*time.Second) == porcupine.Illegal
	})
	short, after := begin(n), slices.Clone(ops[n:min(len(ops), n+12)])
	slices.SortFunc(short, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	if skip := len(short) - 60; skip > 0 {
		fmt.Fprintf(&b, "(%d earlier ones)\n", skip)
		short = short[skip:]
	}
	for i, o := range append(short, after...) {
		if i == len(short) {
			b.WriteString("and then:\n")
		}
		in, out := o.Input.(Input), o.Output.(Output)
		fmt.Fprintf(&b, "%6d…%-6d client %d: %v %s %s", o.Call, o.Return, o.ClientId, in.Kind, in.Text, in.To)
		if in.Value != 0 {
			fmt.Fprintf(&b, " %d", in.Value)
		}
		if in.unknown {
			fmt.Fprintf(&b, " = unknown\n")
		} else {
			fmt.Fprintf(&b, " = %v %d %s%s\n", out.OK, out.Value, out.Text, h.timed(o.Call))
		}
	}
	return b.String()
}

// timed tells when the operation that was called at a tick was, for a look into the logs.
func (h *History) timed(call int64) string {
	for _, o := range h.ops {
		if o.call == call {
			return fmt.Sprintf(" (%s, took %v)", o.when.UTC().Format("15:04:05.000"), o.took.Round(time.Microsecond))
		}
	}
	return ""
}

// Slowest is the longest time that an operation of known outcome took.
func (h *History) Slowest() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	var most time.Duration
	for _, o := range h.ops {
		most = max(most, o.took)
	}
	return most
}
