package fs

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"dfs/internal/errors"
)

// lockedBuffer is a log that several write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) lines(with string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, with) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// TestLostByName: what a session's end has lost is logged with its path, however the file was met.
func TestLostByName(t *testing.T) {
	w := newWorld(t, 1<<20)
	log := &lockedBuffer{}
	m := w.mount(Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	e, err := m.Mkdir(ctx, root, RootIno, "dir", 0o755)
	m.must(err)
	dir := e.Attr.Ino
	_, made := m.create(dir, "made")
	_, moved := m.create(dir, "old name")
	m.must(m.Rename(ctx, root, dir, "old name", RootIno, "moved", 0))
	m.create(dir, "saved")
	m.must(m.SyncAll(ctx))
	found, _, err := m.Open(ctx, root, m.lookup(dir, "saved").Attr.Ino, syscall.O_RDWR)
	m.must(err)
	_, nameless, _, err := m.Tmpfile(ctx, root, dir, 0o600, syscall.O_RDWR)
	m.must(err)
	m.must(m.SyncAll(ctx))
	check := func(lost ...string) {
		t.Helper()
		m.clerk.End(errors.Of(errors.KindSessionEnded))
		w.attach(m)
		lines := log.lines("unsaved changes of a file are lost")
		for _, name := range lost {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, `file="`+name+"(inode ") }) {
				t.Errorf("the log does not name %s: %q", name, lines)
			}
		}
		if len(lines) != len(lost) {
			t.Errorf("%d files are told lost, want %d: %q", len(lines), len(lost), lines)
		}
		log.mu.Lock()
		log.b.Reset()
		log.mu.Unlock()
	}
	m.store.Hold(true)
	for _, h := range []Handle{made, moved, nameless} {
		m.write(h, "lost", 0)
	}
	check("/dir/made ", "/moved ", "")
	// The next session has met none of them; a descriptor that was open all the time knows its name, the directory's is met anew.
	m.store.Hold(true)
	m.write(found, "lost", 0)
	check("…/saved ")
	m.lookup(RootIno, "dir")
	m.store.Hold(true)
	want(t, "the loss", m.Flush(ctx, found, 0), syscall.EIO)
	m.write(found, "lost", 0)
	check("/dir/saved ")
}

// TestLostMany: the end of a session with more lost files than anybody reads is told in a bounded number of lines.
func TestLostMany(t *testing.T) {
	w := newWorld(t, 1<<20)
	log := &lockedBuffer{}
	m := w.mount(Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	m.store.Hold(true)
	for i := range lostLogMax + 50 {
		_, h := m.create(RootIno, fmt.Sprint("f", i))
		m.must(m.Release(ctx, h))
	}
	m.clerk.End(errors.Of(errors.KindSessionEnded))
	if n := len(log.lines("unsaved changes of a file are lost")); n != lostLogMax {
		t.Errorf("%d lines, want %d", n, lostLogMax)
	}
	if more := log.lines("more=51"); len(more) != 1 { // the root is one
		t.Errorf("the rest is not told: %q", more)
	}
}
