// Command testreport reads the output of `go test -json` on standard input and
// shows what a person wants of it: every package's closing line as go test wrote it, the whole
// output of every test that failed, the tests that were skipped, and near its end again each failed test with its last lines. Its exit code
// is 1 if a test failed, or if one was skipped whose reason does not say "long run": what should run must run.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	// ImportPath is set instead of Package on the output of a build that failed.
	ImportPath string
}

// report collects events. Output is kept for each test until its outcome is known.
type report struct {
	out     io.Writer
	output  map[[2]string][]string
	failed  []string        // each test that failed, or a package in which none did, with its last lines
	broken  map[string]bool // packages with a test that failed
	skipped []string        // "package test: reason" of those that should have run
	closing []string        // the packages' own closing lines
}

func main() {
	r := newReport(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			_, _ = fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.take(e)
	}
	os.Exit(r.end(lines.Err()))
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: map[[2]string][]string{}, broken: map[string]bool{}}
}

func (r *report) take(e event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		_, _ = fmt.Fprint(r.out, e.Output)
	case "output":
		if e.Test == "" && closes(e.Output) {
			r.closing = append(r.closing, e.Output)
			_, _ = fmt.Fprint(r.out, e.Output)
			return
		}
		r.output[key] = append(r.output[key], e.Output)
	case "pass":
		delete(r.output, key)
	case "skip":
		if text := strings.Join(r.output[key], ""); e.Test != "" && !strings.Contains(text, "long run") {
			r.skipped = append(r.skipped, e.Package+" "+e.Test+":\n"+text)
		}
		delete(r.output, key)
	case "fail":
		if end := lastLines(r.output[key]); end != "" || e.Test == "" && !r.broken[e.Package] {
			r.failed = append(r.failed, strings.TrimSpace(e.Package+" "+e.Test)+"\n"+end)
		}
		r.broken[e.Package] = true
		_, _ = fmt.Fprintf(r.out, "---- %s %s failed:\n%s", e.Package, e.Test, strings.Join(r.output[key], ""))
		delete(r.output, key)
	}
}

// Of a failed test so many lines are shown again, each no longer than so many bytes.
const (
	linesShown = 8
	lineLength = 300
)

// lastLines is the end of what a test said itself; "": it said nothing, as one whose subtest failed.
func lastLines(output []string) string {
	var said []string
	for line := range strings.Lines(strings.Join(output, "")) {
		text := strings.TrimSpace(line)
		if text == "" || text == "FAIL" || strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") || strings.HasPrefix(text, "exit status ") {
			continue
		}
		said = append(said, fmt.Sprintf("    %.*s\n", lineLength, strings.TrimRight(line, "\n")))
	}
	return strings.Join(said[max(0, len(said)-linesShown):], "")
}

// closes reports whether a package's output line is its closing one.
func closes(line string) bool {
	for _, start := range []string{"ok  \t", "FAIL\t", "?   \t"} {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	return false
}

// end shows the summary, go test's own lines last, and returns the exit code.
func (r *report) end(err error) int {
	code := 0
	if err != nil {
		_, _ = fmt.Fprintln(r.out, "reading go test's output:", err)
		code = 1
	}
	for _, s := range r.skipped {
		_, _ = fmt.Fprintf(r.out, "---- skipped, but should have run: %s", s)
		code = 1
	}
	if len(r.broken) > 0 {
		code = 1
		_, _ = fmt.Fprintln(r.out, "---- failed, with the last lines of each")
	}
	for _, f := range r.failed {
		_, _ = fmt.Fprint(r.out, f)
	}
	slices.Sort(r.closing)
	_, _ = fmt.Fprintln(r.out, "---- all packages")
	for _, line := range r.closing {
		_, _ = fmt.Fprint(r.out, line)
	}
	return code
}
