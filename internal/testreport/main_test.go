package main

import (
	"fmt"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name   string
		events []event
		code   int
		shows  string
		hides  string
	}{
		{"passed", []event{
			{Action: "output", Package: "p", Test: "T", Output: "noise\n"}, {Action: "pass", Package: "p", Test: "T"},
			{Action: "output", Package: "p", Output: "ok  \tp\t0.1s\n"}, {Action: "pass", Package: "p"}}, 0, "ok  \tp\t0.1s", "noise"},
		{"failed", []event{
			{Action: "output", Package: "p", Test: "T", Output: "why\n"}, {Action: "fail", Package: "p", Test: "T"},
			{Action: "output", Package: "p", Output: "FAIL\tp\t0.1s\n"}, {Action: "fail", Package: "p"}}, 1, "why", "xx"},
		{"skipped for a reason", []event{
			{Action: "output", Package: "p", Test: "T", Output: "long run only\n"}, {Action: "skip", Package: "p", Test: "T"}}, 0, "", "should have run"},
		{"skipped", []event{
			{Action: "output", Package: "p", Test: "T", Output: "no /dev/fuse\n"}, {Action: "skip", Package: "p", Test: "T"}}, 1, "no /dev/fuse", "xx"},
		{"no tests", []event{{Action: "skip", Package: "p"}}, 0, "", "should have run"},
		{"does not build", []event{{Action: "build-output", ImportPath: "p", Output: "undefined: x\n"}, {Action: "fail", Package: "p"}}, 1, "undefined: x", "xx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			for _, e := range c.events {
				r.take(e)
			}
			if code := r.end(nil); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(out.String(), c.shows) || strings.Contains(out.String(), c.hides) {
				t.Errorf("output %q: want %q in it, not %q", out.String(), c.shows, c.hides)
			}
		})
	}
}

// TestFailedAtTheEnd: each failed test is named again with its last lines, just before go test's own closing lines.
func TestFailedAtTheEnd(t *testing.T) {
	fail := func(pkg, test string, output ...string) (list []event) {
		for _, line := range output {
			list = append(list, event{Action: "output", Package: pkg, Test: test, Output: line + "\n"})
		}
		return append(list, event{Action: "fail", Package: pkg, Test: test})
	}
	var long []string
	for i := range 100 {
		long = append(long, fmt.Sprint("    line ", i))
	}
	var out strings.Builder
	r := newReport(&out)
	for _, list := range [][]event{
		fail("p", "T/sub", "=== RUN   T/sub", "    p_test.go:3: why", "    --- FAIL: T/sub (0.00s)"),
		fail("p", "T", "=== RUN   T", "--- FAIL: T (0.00s)"),
		fail("p", "Long", append(long, "--- FAIL: Long (0.00s)")...),
		fail("p", "", "FAIL", "exit status 1", "FAIL\tp\t0.1s"),
		fail("q", "", "cannot start "+strings.Repeat("x", 400), "FAIL\tq\t0.1s"),
		fail("r", "", "FAIL\tr [build failed]"),
	} {
		for _, e := range list {
			r.take(e)
		}
	}
	r.end(nil)
	want := "---- failed, with the last lines of each\n" +
		"p T/sub\n        p_test.go:3: why\n" +
		"p Long\n    " + strings.Join(long[100-linesShown:], "\n    ") + "\n" +
		"q\n    cannot start " + strings.Repeat("x", lineLength-len("cannot start ")) + "\n" +
		"r\n" +
		"---- all packages\nFAIL\tp\t0.1s\nFAIL\tq\t0.1s\nFAIL\tr [build failed]\n"
	if _, got, _ := strings.Cut(out.String(), "\n---- failed, "); "---- failed, "+got != want {
		t.Errorf("the end is\n%s\nwant\n%s", got, want)
	}
}
