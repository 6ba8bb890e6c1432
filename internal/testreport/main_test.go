package main

import (
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
			r := &report{out: &out, output: map[[2]string][]string{}}
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
