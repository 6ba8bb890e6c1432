package main

import (
	"os"
	"testing"
)

// TestMain lets the test binary be its own child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		exit(childMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// TestEveryLog runs the smallest measurement over each log store.
func TestEveryLog(t *testing.T) {
	for _, kind := range []string{"seglog", "boltdb", "raft-wal", "inmem"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := run(config{log: kind, dir: dir, seconds: 0.05, rounds: 1, warmMiB: 1, json: true}); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Fatalf("left behind: %v %v", left, err)
			}
		})
	}
	if err := run(config{log: "nonsense", dir: t.TempDir(), seconds: 0.05, rounds: 1}); err == nil {
		t.Fatal("an unknown log store was accepted")
	}
}
