package fs

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"dfs/internal/errors"
	"dfs/lockserver"
)

// reads is how many questions the store got during f.
func (w *world) reads(f func()) int {
	before := w.disk.Questions()
	f()
	return w.disk.Questions() - before
}

// A file that is handed over is read in one question: its inode and the bytes, for a read alone and for one behind a look at the attributes.
func TestHandOverInOneRead(t *testing.T) {
	w := newWorld(t, 1<<20)
	w.disk.Lag()
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "ball")
	a.write(h, strings.Repeat("0", 3*blockSize), 0)
	g, _, err := b.Open(ctx, root, ino, syscall.O_RDONLY)
	b.must(err)
	b.read(g, blockSize, blockSize)
	for round := range 6 {
		text := fmt.Sprintf("%06d", round)
		a.write(h, text, blockSize)
		n := w.reads(func() {
			if round%2 == 1 {
				b.attr(ino)
			}
			if got := b.read(g, blockSize, blockSize); got[:6] != text {
				t.Fatalf("round %d: read %q", round, got[:6])
			}
		})
		if n != 1 {
			t.Errorf("round %d: %d questions to the store, want 1", round, n)
		}
	}
}

// An append after a hand-over reads the inode and the block in which the file ends in one question, and asks beside it which
// blocks are present.
func TestAppendAfterHandOver(t *testing.T) {
	w := newWorld(t, 1<<20)
	w.disk.Lag()
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "log")
	g, _, err := b.Open(ctx, root, ino, syscall.O_RDWR|syscall.O_APPEND)
	b.must(err)
	want := strings.Repeat("-", 2*blockSize)
	a.write(h, want, 0)
	for round := range 40 {
		line := fmt.Sprintf("line %d %s\n", round, strings.Repeat("x", 37*round))
		m, hh := a, h
		if round%2 == 1 {
			m, hh = b, g
		}
		n := w.reads(func() {
			_, err := m.WriteAs(ctx, hh, []byte(line), 0, false, true)
			m.must(err)
		})
		want += line
		if round > 2 && n != 2 {
			t.Errorf("round %d: %d questions to the store, want 2", round, n)
		}
	}
	if got := b.read(g, len(want)+1, 0); got != want {
		t.Errorf("%d bytes are there, want %d, or others", len(got), len(want))
	}
}

// A listing with attributes by a mount that holds nothing fetches many children at once, though a kernel takes few at a time.
func TestReadDirPlusInBatches(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	const files, atOnce = 1000, 23
	for i := range files {
		_, h := a.create(RootIno, fmt.Sprintf("file-%04d", i))
		a.must(a.Release(ctx, h))
	}
	a.must(a.SyncAll(ctx))
	seen := 0
	n := w.reads(func() {
		d, err := b.OpenDir(ctx, root, RootIno)
		b.must(err)
		cookie, end := uint64(0), false
		for !end {
			taken := 0
			b.must(b.ReadDir(ctx, d, cookie, true, func(e DirEntry) bool {
				if taken == atOnce {
					return false
				}
				if e.Name[0] == 'f' {
					seen++
					if e.Entry == nil || e.Entry.Attr.Ino != e.Ino || !e.Entry.AttrCacheable {
						t.Fatalf("%s comes with %+v", e.Name, e.Entry)
					}
				}
				cookie = e.Cookie
				taken++
				return true
			}))
			end = taken < atOnce
		}
		b.must(b.ReleaseDir(ctx, d))
	})
	if seen != files {
		t.Errorf("%d files listed, want %d", seen, files)
	}
	if most := 4*files/readDirBatch + 8; n > most {
		t.Errorf("%d questions to the store for %d files, want at most %d", n, files, most)
	}
}

// Who changed a directory when it had its lock last takes it exclusive at once, also for a look; who only looks does not, and who has
// not changed it since does not any more.
func TestIntent(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b, c := w.mount(Options{}), w.mount(Options{}), w.mount(Options{})
	make1 := func(m *mount, name string) {
		_, h := m.create(RootIno, name)
		m.must(m.Release(ctx, h))
	}
	look := func(m *mount) {
		if _, err := m.Lookup(ctx, root, RootIno, "none"); !errors.Is(err, errors.KindNotExist) {
			t.Fatal(err)
		}
	}
	make1(a, "a0")
	for i := range 5 {
		make1(b, fmt.Sprintf("b%d", i))
		before := w.locks.Revokes()
		look(a)
		make1(a, fmt.Sprintf("a%d", i+1))
		if n := w.locks.Revokes() - before; n != 1 {
			t.Errorf("a look and a change took %d revokes, want 1", n)
		}
	}
	for range 3 {
		make1(b, fmt.Sprintf("x%d", w.locks.Revokes()))
		look(c)
		if got := c.clerk.Held(lockserver.LockID(RootIno)); got != lockserver.Shared {
			t.Errorf("one who only looks holds mode %d", got)
		}
	}
	make1(b, "y")
	look(a) // exclusive, and nothing comes of it
	make1(b, "z")
	look(a)
	if got := a.clerk.Held(lockserver.LockID(RootIno)); got != lockserver.Shared {
		t.Errorf("one who looks and changed nothing the last time holds mode %d", got)
	}
}
