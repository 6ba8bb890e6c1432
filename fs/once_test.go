package fs

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/fs/fsck"
	"dfs/fs/layout"
	"dfs/internal/errors"
)

var somebody = [16]byte{1, 2, 3}

// TestOnceAtEachRecord: a file server fails after each number of records of a request; another does the request again. It is done once, whole.
func TestOnceAtEachRecord(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: several records
	for name, do := range map[string]func(ctx context.Context, m *mount, h Handle) error{
		"append": func(ctx context.Context, m *mount, h Handle) error {
			_, err := m.WriteAs(ctx, h, []byte(long), 0, false, true)
			return err
		},
		"write": func(ctx context.Context, m *mount, h Handle) error {
			_, err := m.WriteAs(ctx, h, []byte(long), 5, false, false)
			return err
		},
		"mkdir": func(ctx context.Context, m *mount, _ Handle) error {
			_, err := m.Mkdir(ctx, root, RootIno, "d", 0o755)
			return err
		},
	} {
		want := map[string]string{"append": "head" + long, "write": "head\x00" + long, "mkdir": "head"}[name]
		for records := 0; ; records++ {
			w := newWorld(t, 1<<20)
			a, b := w.mount(Options{}), w.mount(Options{})
			ino, h := a.create(RootIno, "f")
			a.write(h, "head", 0)
			s, g, _, err := a.OpenSession(ctx, somebody, 0)
			a.must(err)
			a.must(a.SyncAll(ctx))
			w.disk.CutAfter(records)
			r := Request{Session: s, Who: somebody, Generation: g, Slot: 3, Number: 9}
			_, err = a.Once(ctx, r, func(ctx context.Context) error { return do(ctx, a, h) })
			a.must(err)
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			all := a.SyncAll(short) == nil
			cancel()
			a.store.Fence()
			w.disk.CutAfter(-1)
			a.clerk.End(errors.Of(errors.KindSessionEnded))

			s2, g2, _, err := b.OpenSession(ctx, somebody, s)
			b.must(err)
			if s2 != s || g2 != g+1 {
				t.Fatalf("session %d of generation %d became %d of %d", s, g, s2, g2)
			}
			r.Generation = g2
			hb, _, err := b.Open(ctx, root, ino, syscall.O_RDWR)
			b.must(err)
			for range 2 { // the second time it is known in any case
				if _, err := b.Once(ctx, r, func(ctx context.Context) error { return do(ctx, b, hb) }); err != nil {
					t.Fatalf("%s after %d records: %v", name, records, err)
				}
			}
			if got := b.read(hb, 2<<20, 0); got != want {
				t.Errorf("%s after %d records: %d bytes, want %d", name, records, len(got), len(want))
			}
			b.must(b.SyncAll(ctx))
			checkDisk(t, w)
			if all {
				if records < 1 {
					t.Errorf("%s needs no record", name)
				}
				break
			}
		}
	}
}

// checkDisk runs fsck, which must find nothing.
func checkDisk(t *testing.T, w *world) {
	t.Helper()
	report, err := fsck.Check(ctx, w.disk.Checked(), fsck.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("fsck: %s of %d: %s", p.Kind, p.Ino, p.Text)
	}
}

// TestAppendThatCannotGoOn: the rest of an append, whose beginning a server wrote that failed, is told as not written where another has appended since.
func TestAppendThatCannotGoOn(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "f")
	s, g, _, err := a.OpenSession(ctx, somebody, 0)
	a.must(err)
	a.must(a.SyncAll(ctx))
	w.disk.CutAfter(2)
	long := make([]byte, 1<<20)
	r := Request{Session: s, Who: somebody, Generation: g, Number: 1}
	_, err = a.Once(ctx, r, func(ctx context.Context) error { _, err := a.WriteAs(ctx, h, long, 0, false, true); return err })
	a.must(err)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	want(t, "flushing to a disk that takes no more", a.SyncAll(short), syscall.ETIMEDOUT)
	a.store.Fence()
	w.disk.CutAfter(-1)
	a.clerk.End(errors.Of(errors.KindSessionEnded))
	hb, _, err := b.Open(ctx, root, ino, syscall.O_RDWR)
	b.must(err)
	before := b.attr(ino).Size
	if before == 0 || before >= uint64(len(long)) {
		t.Fatalf("%d bytes are there", before)
	}
	b.write(hb, "another's", before)
	if _, r.Generation, _, err = b.OpenSession(ctx, somebody, s); err != nil {
		t.Fatal(err)
	}
	_, err = b.Once(ctx, r, func(ctx context.Context) error { _, err := b.WriteAs(ctx, hb, long, 0, false, true); return err })
	want(t, "the rest of the append", err, syscall.EIO)
	if got := b.attr(ino).Size; got != before+9 {
		t.Errorf("the file has %d bytes, want %d", got, before+9)
	}
}

func TestOnceRefuses(t *testing.T) {
	w := newWorld(t, 1<<20)
	m := w.mount(Options{})
	s, g, _, err := m.OpenSession(ctx, somebody, 0)
	m.must(err)
	n := 0
	try := func(r Request) error {
		_, err := m.Once(ctx, r, func(ctx context.Context) error {
			n++
			_, err := m.Mkdir(ctx, root, RootIno, fmt.Sprint(n), 0o755)
			return err
		})
		return err
	}
	good := Request{Session: s, Who: somebody, Generation: g, Slot: 1, Number: 5}
	m.must(try(good))
	m.must(try(good)) // is known
	if n != 1 {
		t.Errorf("done %d times", n)
	}
	for name, c := range map[string]struct {
		change func(r *Request)
		kind   errors.Kind
	}{
		"an older number":    {func(r *Request) { r.Number = 4 }, errors.KindUnavailable},
		"an old generation":  {func(r *Request) { r.Generation--; r.Number = 6 }, errors.KindUnavailable},
		"another client":     {func(r *Request) { r.Who = [16]byte{9}; r.Number = 6 }, errors.KindAccess},
		"no session":         {func(r *Request) { r.Session = 999999 }, errors.KindUnavailable},
		"a file":             {func(r *Request) { r.Session, _ = m.create(RootIno, "f") }, errors.KindUnavailable},
		"a slot that is not": {func(r *Request) { r.Slot = layout.ClientSlots }, errors.KindInvalid},
		"number 0":           {func(r *Request) { r.Number = 0 }, errors.KindInvalid},
	} {
		r := good
		c.change(&r)
		if err := try(r); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n != 1 {
		t.Errorf("a request that is to be refused was begun: %d", n)
	}
	// A file, another client's session and one that never was are no sessions to go on with.
	for _, old := range []Ino{m.names(RootIno)["f"], 999999, RootIno} {
		if got, _, _, err := m.OpenSession(ctx, somebody, old); err != nil || got == old {
			t.Errorf("session %d: %d %v", old, got, err)
		}
	}
	if got, _, _, err := m.OpenSession(ctx, [16]byte{7}, s); err != nil || got == s {
		t.Errorf("another client's session: %d %v", got, err)
	}
}

// TestSessionsAreReclaimed: a session is kept for a while after its server closed it, then it is freed; one that its client ended, at once.
func TestSessionsAreReclaimed(t *testing.T) {
	w := newWorld(t, 1<<20)
	now := time.Unix(1e9, 0)
	m := w.mount(Options{Now: func() time.Time { return now }})
	gone := func(ino Ino) bool { _, err := m.GetAttr(ctx, root, ino); return errors.Is(err, errors.KindStale) }
	s, _, h, err := m.OpenSession(ctx, somebody, 0)
	m.must(err)
	now = now.Add(time.Hour)
	sweep := func() { m.must(m.cur.Load().sweepOnce(ctx)) }
	sweep()
	if gone(s) {
		t.Fatal("a session that is open was freed")
	}
	_, _, h2, err := m.OpenSession(ctx, somebody, s) // the client comes again
	m.must(err)
	m.must(m.Release(ctx, h))
	m.must(m.Release(ctx, h2))
	now = now.Add(clientKeep)
	sweep()
	if gone(s) {
		t.Fatal("a session was freed before its client could come back")
	}
	now = now.Add(2 * clientTouch)
	sweep()
	if !gone(s) {
		t.Error("an old session is not freed")
	}
	s, _, h, err = m.OpenSession(ctx, somebody, s)
	m.must(err)
	want(t, "the end of another's session", m.CloseSession(ctx, [16]byte{7}, s), syscall.ESTALE)
	m.must(m.CloseSession(ctx, somebody, s))
	m.must(m.Release(ctx, h))
	if !gone(s) {
		t.Error("a session that was closed is there")
	}
	m.must(m.SyncAll(ctx))
	checkDisk(t, w)
}

// TestRetiredListsAreLeftOneRound: what a file server that failed had open without a name can be opened through another until the second look.
func TestRetiredListsAreLeftOneRound(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	ino, h := a.create(RootIno, "f")
	a.write(h, "here", 0)
	a.must(a.Unlink(ctx, root, RootIno, "f"))
	a.must(a.SyncAll(ctx))
	a.clerk.End(errors.Of(errors.KindSessionEnded))
	seen := map[blockstore.WriterID]bool{}
	b.must(b.cur.Load().sweep(ctx, seen))
	h, _, err := b.Open(ctx, root, ino, syscall.O_RDWR)
	b.must(err)
	for range 2 {
		b.must(b.cur.Load().sweep(ctx, seen))
	}
	if got := b.read(h, 10, 0); got != "here" {
		t.Errorf("%q", got)
	}
	b.must(b.Release(ctx, h))
	b.must(b.cur.Load().sweep(ctx, seen))
	if _, err := b.GetAttr(ctx, root, ino); !errors.Is(err, errors.KindStale) {
		t.Errorf("the file is not freed: %v", err)
	}
}
