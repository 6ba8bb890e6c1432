package posixclient

import (
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dfs/fs/filerpc"
	"dfs/internal/wire/filepb"
)

// inUse is the node that the client is attached to, and the other ones.
func (w *world) inUse(c *Client) (used *testNode, others []*testNode) {
	w.t.Helper()
	a, err := c.conn.Live()
	if a == nil || err != nil {
		w.t.Fatal("no node in use:", err)
	}
	for _, n := range w.nodes {
		if n.addr == a.Addr {
			used = n
		} else {
			others = append(others, n)
		}
	}
	return used, others
}

func TestHandlesSurviveTheirNode(t *testing.T) {
	w := newWorld(t, 3, filerpc.Options{})
	c := w.client()
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if _, err := f.Write([]byte("before ")); err != nil {
		t.Fatal(err)
	}
	must(t, c.Mkdir("/d", 0o755))
	for _, name := range []string{"a", "b", "c", "d"} {
		must(t, c.Mkdir("/d/"+name, 0o755))
	}
	d := open(t, c, "/d", os.O_RDONLY)
	head, err := d.ReadDir(2)
	must(t, err)
	log := open(t, c, "/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	for range 2 { // two of the three die
		used, _ := w.inUse(c)
		used.kill()
		if _, err := f.Write([]byte("after ")); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 100)
	if n, err := f.ReadAt(buf, 0); string(buf[:n]) != "before after after " || err != io.EOF {
		t.Errorf("%q %v", buf[:n], err)
	}
	tail, err := d.ReadDir(-1)
	must(t, err)
	if got := append(names(head), names(tail)...); len(got) != 4 {
		t.Errorf("the listing over the nodes' deaths: %v", got)
	}
	// The append was not under way when its node died: it is simply done on the next.
	if _, err := log.Write([]byte("line\n")); err != nil {
		t.Error(err)
	}
	if got := content(t, c, "/log"); got != "line\n" {
		t.Errorf("%q", got)
	}
	must(t, f.Close())
	must(t, d.Close())
	for _, n := range w.nodes {
		n.kill()
	}
	must(t, log.Close()) // nothing to close any more
}

// TestNodeWithoutLease: a node that is cut off from the others sends its clients away, calls that wait there too.
func TestNodeWithoutLease(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{LeaseWait: 50 * time.Millisecond})
	c := w.client()
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE)
	used, others := w.inUse(c)
	stuck := make(chan struct{})
	defer close(stuck)
	used.hook.write = func() error { <-stuck; return nil }
	var gone atomic.Bool
	used.clerk.SetLease(func() time.Duration {
		if gone.Load() {
			return 0
		}
		return time.Minute
	})
	time.AfterFunc(100*time.Millisecond, func() { gone.Store(true); used.fence() })
	if _, err := f.Write([]byte("z")); err != nil {
		t.Fatal(err)
	}
	if now, _ := w.inUse(c); now != others[0] {
		t.Error("the client is still at the node without a lease")
	}
}

func TestNoNodeLeft(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	c := w.clientOf(Options{Wait: 300 * time.Millisecond})
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE)
	for _, n := range w.nodes {
		n.kill()
	}
	started := time.Now()
	_, err := f.Write([]byte("x"))
	want(t, "a write without nodes", err, syscall.EIO)
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("told after %v", d)
	}
	must(t, f.Close())
}

// TestHandleForgotten: a node that forgot a handle (its grace was over) is asked to open again, once.
func TestHandleForgotten(t *testing.T) {
	w := newWorld(t, 1, filerpc.Options{})
	c := w.client()
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE)
	a, err := c.conn.Live()
	must(t, err)
	f.open.Made(a, &filepb.OpenResponse{Number: 12345, Attr: &filepb.Attr{Ino: f.Ino()}})
	if _, err := f.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	// One that cannot be opened again is told, not tried for ever.
	must(t, c.Unlink("/f"))
	if got, err := f.ReadAt(make([]byte, 1), 0); got != 1 || err != nil {
		t.Fatal(got, err)
	}
}

// TestReattachKeepsHandles: a connection that breaks within the grace time costs no handle, not even of a file without a name.
func TestReattachKeepsHandles(t *testing.T) {
	w := newWorld(t, 1, filerpc.Options{})
	c := w.client()
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE)
	must(t, c.Unlink("/f"))
	a, err := c.conn.Live()
	must(t, err)
	before, err := f.open.On(t.Context(), a)
	must(t, err)
	_ = a.CC.Close()
	if _, err := f.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	a, err = c.conn.Live()
	must(t, err)
	if after, err := f.open.On(t.Context(), a); after.GetNumber() != before.GetNumber() || err != nil {
		t.Errorf("handle %v became %v: %v", before, after, err)
	}
}
