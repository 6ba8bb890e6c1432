package check

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Model is what the operations of one key should do, one after the other.
type Model struct {
	Name  string
	kinds []Kind
	init  any
	step  func(state any, in Input, out Output) (bool, any)
	// judge, if not nil, judges the operations of one key without a search, and says what is wrong.
	judge func(ops []porcupine.Operation) string
}

// model is the model as the search wants it. An operation of unknown outcome is done where it comes in the order, whatever its
// answer; as its end is open, an order in which nobody sees it is among those that are tried.
func (m Model) model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return m.init },
		Step: func(state, in, out any) (bool, any) { return m.step(state, in.(Input), out.(Output)) },
	}
}

// All are all models.
func All() []Model {
	return []Model{Registers(), Appends(), Existence(), Names(), Counters(), Entries()}
}

// Registers are blocks that are written and read whole.
func Registers() Model {
	return Model{Name: "register", kinds: []Kind{Write, Read}, init: uint64(0), step: func(state any, in Input, out Output) (bool, any) {
		if in.Kind == Write {
			return true, in.Value
		}
		return out.Value == state.(uint64), state
	}}
}

// Appends are files that are appended to and read whole.
func Appends() Model {
	return Model{Name: "appends", kinds: []Kind{Append, ReadAll}, judge: judgeAppends, init: "", step: func(state any, in Input, out Output) (bool, any) {
		if in.Kind == Append {
			return true, state.(string) + fmt.Sprint(in.Value) + " "
		}
		return out.Text == state.(string), state
	}}
}

// Existence are names that are created exclusively, looked for and removed.
func Existence() Model {
	return Model{Name: "existence", kinds: []Kind{Create, Stat, Remove}, init: false, step: func(state any, in Input, out Output) (bool, any) {
		there := state.(bool)
		switch in.Kind {
		case Create:
			return in.unknown || out.OK == !there, true
		case Remove:
			return in.unknown || out.OK == there, false
		}
		return out.OK == there, state
	}}
}

// Names is a directory of symbolic links.
func Names() Model {
	return Model{Name: "names", kinds: []Kind{Symlink, Rename, Readlink, Unlink}, init: "", step: func(state any, in Input, out Output) (bool, any) {
		dir := state.(string)
		switch in.Kind {
		case Symlink:
			if target(dir, in.To) != 0 {
				return in.unknown || !out.OK, dir
			}
			return in.unknown || out.OK, set(dir, in.To, in.Value)
		case Rename:
			from := target(dir, in.Text)
			if from == 0 {
				return in.unknown || !out.OK, dir
			}
			return in.unknown || out.OK, set(set(dir, in.Text, 0), in.To, from)
		case Unlink:
			if target(dir, in.To) == 0 {
				return in.unknown || !out.OK, dir
			}
			return in.unknown || out.OK, set(dir, in.To, 0)
		}
		return out.Value == target(dir, in.To), dir
	}}
}

// Counters are numbers to which one is added under a lock.
func Counters() Model {
	return Model{Name: "counter", kinds: []Kind{Increment}, init: uint64(0), step: func(state any, in Input, out Output) (bool, any) {
		n := state.(uint64)
		return in.unknown || out.Value == n, n + 1
	}}
}

// A directory is written as its entries "name=target;" in order of names, so that equal ones are equal strings.

func target(dir, name string) (value uint64) {
	for entry := range strings.SplitSeq(dir, ";") {
		if own, number, _ := strings.Cut(entry, "="); own == name && name != "" {
			_, _ = fmt.Sscan(number, &value)
		}
	}
	return value
}

func set(dir, name string, value uint64) string {
	var b strings.Builder
	done := value == 0
	put := func() {
		if !done {
			fmt.Fprintf(&b, "%s=%d;", name, value)
			done = true
		}
	}
	for entry := range strings.SplitSeq(strings.TrimSuffix(dir, ";"), ";") {
		own, _, _ := strings.Cut(entry, "=")
		if own > name {
			put()
		}
		if own != name && own != "" {
			b.WriteString(entry + ";")
		}
	}
	put()
	return b.String()
}
