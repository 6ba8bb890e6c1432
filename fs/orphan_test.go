package fs

import (
	"bytes"
	"syscall"
	"testing"

	"dfs/internal/errors"
)

// TestOpenerDies: an unlinked file that only a server had open that died is freed by the one that unlinked it, though that one was told,
// when it got the lock which it still holds, that the file is open elsewhere.
func TestOpenerDies(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "f")
	a.write(h, string(bytes.Repeat([]byte("x"), 50_000)), 0)
	b.must(b.Unlink(ctx, root, RootIno, "f"))
	sweep := func() {
		t.Helper()
		b.must(b.Server.cur.Load().sweepOnce(ctx))
		b.must(b.SyncAll(ctx))
	}
	sweep()
	sweep()
	if got := a.read(h, 5, 1000); got != "xxxxx" {
		t.Errorf("read %q of a file that another swept", got)
	}
	sweep()
	a.must(a.SyncAll(ctx))
	_, _, used := w.disk.Counts()
	a.clerk.End(errors.Of(errors.KindSessionEnded))
	sweep()
	if _, _, now := w.disk.Counts(); now+10 > used {
		t.Errorf("%d blocks were in use while the file was open, %d after all who had it open died", used, now)
	}
	_, err := b.GetAttr(ctx, root, ino)
	want(t, "the inode", err, syscall.ESTALE)
}
