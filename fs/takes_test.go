package fs

import (
	"testing"

	"dfs/internal/errors"
)

// TestTakes: where the name leads to another directory than the kernel takes it for, nothing is removed or replaced.
func TestTakes(t *testing.T) {
	m := newWorld(t, 1<<20).mount(Options{})
	mkdir := func(name string) Ino {
		e, err := m.Mkdir(ctx, root, RootIno, name, 0o755)
		m.must(err)
		return e.Attr.Ino
	}
	from, to := mkdir("from"), mkdir("to")
	taking := func(ino Ino) *Caller { return &Caller{Kernel: true, Takes: ino} }
	for _, err := range []error{
		m.Rmdir(ctx, taking(from), RootIno, "to"),
		m.Rename(ctx, taking(from), RootIno, "from", RootIno, "to", 0),
		m.Rename(ctx, taking(to), RootIno, "from", RootIno, "missing", 0),
	} {
		if !errors.Is(err, errors.KindStale) {
			t.Errorf("%v, want KindStale", err)
		}
	}
	if m.lookup(RootIno, "to").Attr.Ino != to || m.lookup(RootIno, "from").Attr.Ino != from {
		t.Error("something was done")
	}
	m.must(m.Rename(ctx, taking(to), RootIno, "from", RootIno, "to", 0))
	m.must(m.Rmdir(ctx, taking(from), RootIno, "to"))
}
