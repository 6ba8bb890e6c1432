package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// The model of a file system. An object is a register (a place in a file), the tokens appended to a file, or the names of two
// directories. What a file server did is seen by all at once (R1), but lives only as long as it does until it is durable: by an
// fsync, or because another file server looked at it. A loss (a crash, a session that ended) keeps a prefix of that (R3).
//
// An operation that failed without saying what it did may have happened or not, before it returned. One that was under way
// when its process was killed may happen until the session is fenced.

type kind int

const (
	opRead kind = iota
	opWrite
	opAppend
	opCreate // exclusive
	opUnlink
	opRename
	opLookup
	opSync // everything that the owner did to the object is durable
	opLose // the owner's session is over
)

// op is one operation of a history.
type op struct {
	kind  kind
	owner int    // the session (mount and life) that did it
	obj   string // what it was done to; "" with opSync and opLose: everything
	val   uint64 // written, appended, read, the inode number made or found; 0: none
	slot  int    // of names: which
	to    int    // of a rename: where to
	text  string // of an append object: what was read
	found bool   // of names: it was there (not with a create: it was not)
	sure  bool   // the outcome is known

	call, ret time.Duration
}

func (o op) String() string {
	what := [...]string{"read", "write", "append", "create", "unlink", "rename", "lookup", "sync", "lose"}[o.kind]
	s := fmt.Sprintf("%9.4f-%9.4f s%d %s %s", o.call.Seconds(), o.ret.Seconds(), o.owner, what, o.obj)
	switch o.kind {
	case opRead, opWrite, opAppend:
		s += fmt.Sprintf(" %d", o.val)
		if o.text != "" {
			s += fmt.Sprintf(" %x", o.text)
		}
	case opRename:
		s += fmt.Sprintf(" %d>%d found=%v", o.slot, o.to, o.found)
	case opCreate, opUnlink, opLookup:
		s += fmt.Sprintf(" %d ino=%d found=%v", o.slot, o.val, o.found)
	}
	if !o.sure {
		s += " ?"
	}
	return s
}

const namesMax = 6

// slotDir is the directory of a name.
func slotDir(slot int) int { return slot / 3 }

// content is an object's content: comparable.
type content struct {
	val   uint64           // a register
	text  string           // tokens appended
	names [namesMax]uint64 // inode numbers; unknownIno: made by an operation of unknown outcome
}

const unknownIno = 1 << 63

// pending is a change that is not known to be durable.
type pending struct {
	owner int
	op    op
}

// state of an object.
type state struct {
	base content
	pend []pending
}

func (s state) equal(t state) bool {
	return s.base == t.base && slices.EqualFunc(s.pend, t.pend, func(a, b pending) bool {
		return a.owner == b.owner && a.op.call == b.op.call && a.op.val == b.op.val && a.op.kind == b.op.kind
	})
}

// change applies a change to c.
func (c *content) change(o op) {
	switch o.kind {
	case opWrite:
		c.val = o.val
	case opAppend:
		c.text += token(o.val)
	case opCreate:
		c.names[o.slot] = o.val
		if o.val == 0 {
			c.names[o.slot] = unknownIno
		}
	case opUnlink:
		c.names[o.slot] = 0
	case opRename:
		if o.slot != o.to {
			c.names[o.to], c.names[o.slot] = c.names[o.slot], 0
		}
	}
}

func token(v uint64) string { return fmt.Sprintf("%08x", v) }

func (s state) now() content {
	c := s.base
	for _, p := range s.pend {
		c.change(p.op)
	}
	return c
}

// touches tells whether two changes of names meet in a directory; of other objects they always do.
func touches(a, b op) bool {
	dirs := func(o op) []int {
		switch o.kind {
		case opRename:
			if o.sure && !o.found {
				return []int{slotDir(o.slot)} // without a source the target is not looked at
			}
			return []int{slotDir(o.slot), slotDir(o.to)}
		case opCreate, opUnlink, opLookup:
			return []int{slotDir(o.slot)}
		}
		return []int{0, 1}
	}
	for _, d := range dirs(a) {
		if slices.Contains(dirs(b), d) {
			return true
		}
	}
	return false
}

// seen makes durable what others did and o looks at, and with it what they did before.
func (s state) seen(o op) state {
	upto := map[int]int{} // by owner: how many of its pending changes
	count := map[int]int{}
	for _, p := range s.pend {
		count[p.owner]++
		if p.owner != o.owner && touches(p.op, o) {
			upto[p.owner] = count[p.owner]
		}
	}
	return s.fold(upto)
}

// fold makes the first changes of some owners durable.
func (s state) fold(upto map[int]int) state {
	if len(upto) == 0 {
		return s
	}
	out := state{base: s.base}
	count := map[int]int{}
	for _, p := range s.pend {
		if count[p.owner]++; count[p.owner] <= upto[p.owner] {
			out.base.change(p.op)
		} else {
			out.pend = append(out.pend, p)
		}
	}
	return out
}

// step returns the states after o, none if it cannot have happened.
func step(s state, o op) []state {
	switch o.kind {
	case opSync:
		return []state{s.fold(map[int]int{o.owner: len(s.pend)})}
	case opLose:
		return s.lose(o.owner)
	}
	before := s // an operation that failed may not even have looked
	s = s.seen(o)
	now := s.now()
	did := state{base: s.base, pend: append(slices.Clip(slices.Clone(s.pend)), pending{o.owner, o})}
	switch o.kind {
	case opRead:
		if o.val == now.val && o.text == now.text {
			return []state{s}
		}
		return nil
	case opLookup:
		return s.lookup(o, now)
	case opCreate, opUnlink, opRename:
		there := now.names[o.slot] != 0
		able := there != (o.kind == opCreate)
		switch {
		case o.sure && o.found != there:
			return nil
		case !able && o.sure:
			return []state{s}
		case !able:
			return []state{before}
		case o.kind == opRename && o.slot == o.to: // changes nothing, so nobody who looks there makes durable what came before
			did = s
		}
		if o.sure {
			return []state{did}
		}
	}
	if o.sure {
		return []state{did}
	}
	return []state{before, did}
}

// lookup compares what was found; the first one that finds what an operation of unknown outcome made says its number.
func (s state) lookup(o op, now content) []state {
	have := now.names[o.slot]
	switch {
	case o.found != (have != 0):
		return nil
	case !o.found || have == o.val:
		return []state{s}
	case have == unknownIno:
		return []state{s} // which one it was is not followed
	}
	return nil
}

// lose keeps a prefix of what owner did.
func (s state) lose(owner int) []state {
	var out []state
	n := 0
	for _, p := range s.pend {
		if p.owner == owner {
			n++
		}
	}
	for keep := 0; keep <= n; keep++ {
		t := state{base: s.base}
		k := 0
		for _, p := range s.pend {
			switch {
			case p.owner != owner:
				t.pend = append(t.pend, p)
			case k < keep:
				t.base.change(p.op)
				k++
			}
		}
		if !slices.ContainsFunc(out, t.equal) {
			out = append(out, t)
		}
	}
	return out
}

var model = porcupine.NondeterministicModel{
	Init:              func() []any { return []any{state{}} },
	Equal:             func(a, b any) bool { return a.(state).equal(b.(state)) },
	DescribeOperation: func(in, _ any) string { return in.(op).String() },
	Step: func(s, in, _ any) []any {
		var out []any
		for _, t := range step(s.(state), in.(op)) {
			out = append(out, t)
		}
		return out
	},
}

// checkHistory checks every object's history; it returns the objects whose history cannot be, and those that took too long.
func checkHistory(history []op, timeout time.Duration) (wrong map[string][]op, late []string) {
	objects := map[string][]op{}
	for _, o := range history {
		if o.obj != "" {
			objects[o.obj] = nil
		}
	}
	for _, o := range history {
		for name := range objects {
			if o.obj == "" || o.obj == name {
				o := o
				o.obj = name
				objects[name] = append(objects[name], o)
			}
		}
	}
	wrong = map[string][]op{}
	for name, list := range objects {
		list = slices.DeleteFunc(list, func(o op) bool {
			return !o.sure && (o.kind == opRead || o.kind == opLookup || o.kind == opSync)
		})
		ops := make([]porcupine.Operation, len(list))
		for i, o := range list {
			ops[i] = porcupine.Operation{ClientId: o.owner, Input: o, Call: int64(o.call), Return: int64(o.ret)}
		}
		switch porcupine.CheckOperationsTimeout(model.ToModel(), ops, timeout) {
		case porcupine.Illegal:
			wrong[name] = shorten(list)
		case porcupine.Unknown:
			late = append(late, name)
		}
	}
	return wrong, late
}

// shorten cuts a history that cannot be behind the first operation with which it cannot.
func shorten(list []op) []op {
	slices.SortStableFunc(list, func(a, b op) int { return int(a.ret - b.ret) })
	lo, hi := 0, len(list)
	for end := time.Now().Add(10 * time.Second); lo+1 < hi && time.Now().Before(end); {
		mid := (lo + hi) / 2
		if possible(list, list[mid].ret) {
			lo = mid
		} else {
			hi = mid
		}
	}
	if hi < len(list) {
		list = cutAt(list, list[hi].ret)
	}
	return list
}

// cutAt is the history up to a time: what returned later may have happened or not.
func cutAt(list []op, at time.Duration) []op {
	var out []op
	for _, o := range list {
		if o.ret > at {
			if o.call > at || o.kind == opRead || o.kind == opLookup || o.kind == opSync {
				continue
			}
			if o.kind != opLose {
				o.sure = false
			}
		}
		out = append(out, o)
	}
	return out
}

func possible(list []op, at time.Duration) bool {
	var ops []porcupine.Operation
	for _, o := range cutAt(list, at) {
		ops = append(ops, porcupine.Operation{ClientId: o.owner, Input: o, Call: int64(o.call), Return: int64(o.ret)})
	}
	return porcupine.CheckOperationsTimeout(model.ToModel(), ops, time.Second) != porcupine.Illegal
}

func describe(list []op) string {
	var b strings.Builder
	for _, o := range list[max(0, len(list)-40):] {
		fmt.Fprintf(&b, "    %s\n", o)
	}
	return b.String()
}
