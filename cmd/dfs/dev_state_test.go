package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"dfs/internal/errors"
	"dfs/internal/golden"
)

// TestGoldenDevState: dev.json is written as it always was, and read.
func TestGoldenDevState(t *testing.T) {
	dir := t.TempDir()
	s := &devState{Version: devStateVersion, PID: 100, MountPID: 101, Dir: "/mnt",
		Nodes: []devNode{{ID: "a", Address: "127.0.0.1:7470", PID: 102, Data: "/data/a", Log: "/data/a.log"}}}
	if err := writeDevState(dir, s); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "dev-json-v1.hex", b)
	if back, err := readDevState(dir); err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("read back: %+v %v", back, err)
	}
	for content, kind := range map[string]errors.Kind{strings.Replace(string(b), `"version": 1`, `"version": 2`, 1): errors.KindTooNew, "{": errors.KindCorrupt} {
		if err := os.WriteFile(devStatePath(dir), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readDevState(dir); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want kind %d", content, err, kind)
		}
	}
}
