package seglog

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dfs/internal/errors"
)

// filled makes a log of several segments and returns its directory.
func filledDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l := mustOpen(t, dir, still())
	for i := uint64(1); i <= 30; i++ {
		appendN(t, l, i, i, 1, 10_000)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func filesOf(t *testing.T, dir, prefix string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	return files
}

// refused opens the log, which must say that it is damaged and name what.
func refused(t *testing.T, dir, what string) {
	t.Helper()
	l, err := Open(dir, still())
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, errors.KindCorrupt) || !strings.Contains(err.Error(), what) {
		t.Fatalf("the log opened, or not with an error that names %s: %v", what, err)
	}
}

// TestNewestSegmentMissing: nothing but the note tells that the newest segment was there.
func TestNewestSegmentMissing(t *testing.T) {
	for _, all := range []bool{false, true} {
		dir := filledDir(t)
		segs := filesOf(t, dir, segPrefix)
		gone := segs[len(segs)-1:]
		if all {
			gone = segs
		}
		for _, f := range gone {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, dir, filepath.Base(segs[len(segs)-1]))
	}
}

// TestNewestNoteMissing: without the note nothing is known of what came behind the segments that are left.
func TestNewestNoteMissing(t *testing.T) {
	dir := filledDir(t)
	notes, segs := filesOf(t, dir, newestPrefix), filesOf(t, dir, segPrefix)
	if len(notes) != 1 || strings.TrimPrefix(filepath.Base(notes[0]), newestPrefix) != strings.TrimPrefix(filepath.Base(segs[len(segs)-1]), segPrefix) {
		t.Fatalf("notes %v beside segments %v", notes, segs)
	}
	if err := os.Remove(notes[0]); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, newestPrefix)
}

// TestLogWithoutNote: a log from before there were notes, whose headers say so, opens and gets one.
func TestLogWithoutNote(t *testing.T) {
	d := newFakeDisk(1)
	l, err := build("fake", crashOptions(d, 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]Entry{{Index: 1, Data: []byte("one")}}); err != nil {
		t.Fatal(err)
	}
	h, name := l.active().header, l.active().name
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	h.noted = false
	chain := h.encode(d.names[name].seen[:headerBytes])
	g, ok := parseGroup(d.names[name].seen[Block:], h.salt, Block, h.segBytes)
	if !ok {
		t.Fatal("no group where one was written")
	}
	g.chain = chain
	g.seal(d.names[name].seen[Block:], h.salt)
	if err := d.Remove(newestName(h.seq)); err != nil {
		t.Fatal(err)
	}
	if l, err = build("fake", crashOptions(d, 1)); err != nil {
		t.Fatal(err)
	}
	bounds(t, l, 1, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if d.names[newestName(h.seq)] == nil {
		t.Fatal("the log got no note")
	}
	if err := d.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := build("fake", crashOptions(d, 1)); !errors.Is(err, errors.KindCorrupt) {
		t.Fatalf("the newest segment is gone: %v", err)
	}
}
