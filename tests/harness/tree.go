package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// GoSource returns the directory of Go's own source tree and up to n of its regular files, relative to it, in the order of a walk.
func GoSource(t testing.TB, n int) (root string, files []string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	root = filepath.Join(strings.TrimSpace(string(out)), "src")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if len(files) == n {
			return filepath.SkipAll
		}
		rel, err := filepath.Rel(root, path)
		files = append(files, rel)
		return err
	})
	if err != nil || len(files) < n {
		t.Fatalf("%s: %d files found, %d wanted: %v", root, len(files), n, err)
	}
	return root, files
}

// CopyFile copies one file as programs do: it makes the directories above, creates the file, writes and closes it.
func CopyFile(src, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(struct{ io.Writer }{out}, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// SyncPath fsyncs a file or a directory.
func SyncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Hashes tells the SHA-256 of every regular file below root, by path relative to it.
func Hashes(t testing.TB, root string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err == nil {
			sums[rel], err = HashFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatalf("reading the tree at %s: %v", root, err)
	}
	return sums
}

// HashFile is the SHA-256 of a file's content, in hexadecimal.
func HashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// SameTree fails the test, naming some files, unless got is want.
func SameTree(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	bad := 0
	report := func(format string, args ...any) {
		if bad++; bad <= 10 {
			t.Errorf(format, args...)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch sum, ok := got[name]; {
		case !ok:
			report("%s: %s is missing", what, name)
		case sum != want[name]:
			report("%s: %s has other content", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			report("%s: %s should not be there", what, name)
		}
	}
	if bad > 0 {
		t.Fatalf("%s: %d of %d files are not as they should be", what, bad, len(want))
	}
}
