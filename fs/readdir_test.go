package fs

import "testing"

// Two links of one file in a directory are one lock: a listing with attributes by a mount that holds nothing must let it go
// once.
func TestReadDirPlusHardLinks(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "one")
	a.must(a.Release(ctx, h))
	for _, name := range []string{"two", "three"} {
		_, err := a.Link(ctx, root, ino, RootIno, name)
		a.must(err)
	}
	d, err := b.OpenDir(ctx, root, RootIno)
	b.must(err)
	links := 0
	b.must(b.ReadDir(ctx, d, 0, true, func(e DirEntry) bool {
		if e.Ino == ino {
			links++
		}
		return true
	}))
	b.must(b.ReleaseDir(ctx, d))
	if links != 3 {
		t.Fatalf("%d links listed, want 3", links)
	}
	a.must(a.Unlink(ctx, root, RootIno, "two")) // needs the lock that b let go
}
