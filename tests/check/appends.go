package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// placed is an operation on an appended file with its place in the only order that can be.
type placed struct {
	op    porcupine.Operation
	place int
}

// never is the place of an append that no read shows: behind everything.
const never = 1 << 60

// judgeAppends does for appends what the search does for the other models, at once: values are unlike one another and each read shows all of
// the file, so there is one order at most, that of the longest text. An append stands where the text has it, a read behind the last that it
// shows. What is left to check is that no operation stands before one that had returned when it was called. It returns what is wrong, "" if nothing is.
func judgeAppends(ops []porcupine.Operation) string {
	var longest string
	for _, o := range ops {
		if text := o.Output.(Output).Text; o.Input.(Input).Kind == ReadAll && len(text) > len(longest) {
			longest = text
		}
	}
	at := map[string]int{}
	for i, value := range strings.Fields(longest) {
		if _, twice := at[value]; twice {
			return "it holds " + value + " twice"
		}
		at[value] = i
	}
	var all []placed
	for _, o := range ops {
		in, out := o.Input.(Input), o.Output.(Output)
		if in.Kind == ReadAll {
			if out.Text != "" && !strings.HasSuffix(out.Text, " ") {
				return fmt.Sprintf("a read shows a part of an append: %q", out.Text)
			}
			if !strings.HasPrefix(longest, out.Text) {
				return fmt.Sprintf("a read shows %q, another %q", out.Text, longest)
			}
			all = append(all, placed{o, 2*len(strings.Fields(out.Text)) - 1})
			continue
		}
		value := fmt.Sprint(in.Value)
		i, shown := at[value]
		delete(at, value)
		switch {
		case shown:
			all = append(all, placed{o, 2 * i})
		case !in.unknown:
			all = append(all, placed{o, never})
		}
	}
	for value := range at {
		return "it holds " + value + ", which nobody appended"
	}
	return crossing(all)
}

// crossing finds an operation that stands behind another in the order though it had returned when that was called.
func crossing(all []placed) string {
	slices.SortFunc(all, func(a, b placed) int { return cmp.Compare(a.op.Call, b.op.Call) })
	ended := slices.Clone(all)
	slices.SortFunc(ended, func(a, b placed) int { return cmp.Compare(a.op.Return, b.op.Return) })
	var furthest *placed // of those that had ended
	n := 0
	for i, later := range all {
		for ; n < len(ended) && ended[n].op.Return < later.op.Call; n++ {
			if furthest == nil || ended[n].place > furthest.place {
				furthest = &ended[n]
			}
		}
		if furthest != nil && furthest.place > all[i].place {
			return fmt.Sprintf("%s had returned when %s was called, and stands behind it", line(furthest.op), line(later.op))
		}
	}
	return ""
}

// line is an operation in words.
func line(o porcupine.Operation) string {
	in, out := o.Input.(Input), o.Output.(Output)
	if in.Kind == Append {
		return fmt.Sprintf("client %d's append of %d (%d…%d)", o.ClientId, in.Value, o.Call, o.Return)
	}
	return fmt.Sprintf("client %d's read of %q (%d…%d)", o.ClientId, out.Text, o.Call, o.Return)
}
