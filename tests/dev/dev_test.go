package dev

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dfs/tests/harness"
)

// dfs runs the command, bounded in time, and returns what it printed.
func dfs(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, harness.Binary(t), args...).CombinedOutput()
	return string(out), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := dfs(t, args...)
	if err != nil {
		t.Fatalf("dfs %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func mounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+dir+" ")
}

// TestDevStops: a stop ends everything, also after somebody has unmounted a further mount by hand, and
// the data is there again at the next start.
func TestDevStops(t *testing.T) {
	base := t.TempDir()
	data, first, second, third := filepath.Join(base, "data"), filepath.Join(base, "first"), filepath.Join(base, "second"), filepath.Join(base, "third")
	t.Cleanup(func() {
		if out, err := dfs(t, "dev", "stop", "--data", data); err != nil {
			t.Errorf("dfs dev stop: %v\n%s", err, out)
		}
	})
	must(t, "dev", "--background", "--data", data, first)
	must(t, "dev", "mount", "--data", data, second)
	must(t, "dev", "mount", "--data", data, third)
	if err := os.WriteFile(filepath.Join(second, "file"), []byte("seen"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(third, "file")); err != nil || string(b) != "seen" {
		t.Fatalf("third mount: %q, %v", b, err)
	}
	must(t, "umount", second)
	must(t, "dev", "stop", "--data", data)
	for _, dir := range []string{first, second, third} {
		if mounted(t, dir) {
			t.Errorf("%s is still mounted after dfs dev stop", dir)
		}
	}
	must(t, "dev", "--background", "--data", data, first)
	if b, err := os.ReadFile(filepath.Join(first, "file")); err != nil || string(b) != "seen" {
		t.Fatalf("after the next start: %q, %v", b, err)
	}
}
