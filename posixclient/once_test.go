package posixclient

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	dfsfs "dfs/fs"
	"dfs/fs/filerpc"
)

// changes are calls that change something and would come out otherwise if they were done twice; each leaves the tree in another state.
var changes = []struct {
	name string
	do   func(c *Client, f *File) error
}{
	{"mkdir", func(c *Client, _ *File) error { return c.Mkdir("/d", 0o755) }},
	{"create", func(c *Client, _ *File) error {
		f, err := c.Open("/new", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = f.Write([]byte("made"))
		}
		if err == nil {
			err = f.Close()
		}
		return err
	}},
	{"append", func(_ *Client, f *File) error { _, err := f.Write([]byte("line\n")); return err }},
	{"long append", func(_ *Client, f *File) error {
		_, err := f.Write([]byte(strings.Repeat("x", 700<<10)))
		return err
	}},
	{"link", func(c *Client, _ *File) error { return c.Link("/new", "/second") }},
	{"rename", func(c *Client, _ *File) error { return c.Rename("/new", "/third") }},
	{"exchange", func(c *Client, _ *File) error { return c.Rename2("/third", "/d", RenameExchange) }},
	{"symlink", func(c *Client, _ *File) error { return c.Symlink("there", "/link") }},
	{"unlink", func(c *Client, _ *File) error { return c.Unlink("/second") }},
	{"rmdir", func(c *Client, _ *File) error { return c.Rmdir("/third") }},
	{"mknod", func(c *Client, _ *File) error { return c.Mknod("/fifo", syscall.S_IFIFO|0o600, 0) }},
	{"chmod", func(c *Client, _ *File) error { return c.Chmod("/log", 0o640) }},
	{"fallocate", func(_ *Client, f *File) error { return f.Allocate(0, 1<<20, 4096) }},
	{"truncate", func(_ *Client, f *File) error { return f.Truncate(2 << 20) }},
	{"tmpfile", func(c *Client, _ *File) error {
		f, err := c.Open("/", os.O_RDWR|oTmpfile|syscall.O_DIRECTORY, 0o600)
		if err == nil {
			_, err = f.Write([]byte("unnamed"))
		}
		if err == nil {
			err = f.Link("/named")
		}
		return err
	}},
}

// tree is what the file system holds, told by another client.
func tree(t *testing.T, c *Client) string {
	t.Helper()
	list, err := c.ReadDir("/")
	must(t, err)
	var out []string
	for _, e := range list {
		info, err := e.Info()
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		out = append(out, fmt.Sprintf("%s %o %d %d", e.Name(), st.Mode, st.Nlink, st.Size*int64(st.Mode&syscall.S_IFREG>>15)))
	}
	return strings.Join(out, "\n")
}

// TestDoneOnce: each call meets a node that dies: before it does it, in the midst of it, and when it has done it and not answered.
func TestDoneOnce(t *testing.T) {
	want := ""
	for _, when := range []string{"never", "before", "during", "after"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t, 1, filerpc.Options{})
			watch := w.client()
			for range len(changes) + 1 {
				w.add(filerpc.Options{})
			}
			c := w.clientOf(Options{})
			c.conn.Leave() // the first node is the watcher's
			f := open(t, c, "/log", os.O_RDWR|os.O_CREATE|os.O_APPEND)
			for _, call := range changes {
				used, _ := w.inUse(c)
				die := func() { used.kill(); used.fence() }
				switch when {
				case "before":
					used.hook.before = die
				case "during":
					used.hook.during = die
				case "after":
					used.hook.after = func() { go used.kill(); time.Sleep(20 * time.Millisecond) }
				}
				if err := call.do(c, f); err != nil {
					t.Fatalf("%s: %v", call.name, err)
				}
			}
			got := tree(t, watch)
			if when == "never" {
				want = got
			} else if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// stopped makes the node in use stop at a point of the next request, until wake is called, which waits until the request has ended there.
func stopped(at *func(), end *func()) (reached chan struct{}, wake func()) {
	reached = make(chan struct{})
	goOn, ended := make(chan struct{}), make(chan struct{})
	*at = func() { *at = nil; close(reached); <-goOn }
	*end = func() { *end = nil; close(ended) }
	return reached, func() { close(goOn); <-ended }
}

// TestStoppedNodeDoesNothingLate: a node that is stopped in the midst of a request, given up for dead and wakes up under a new session
// finds that the request is another node's matter by now.
func TestStoppedNodeDoesNothingLate(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	c := w.client()
	log, plain := open(t, c, "/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND), open(t, c, "/plain", os.O_RDWR|os.O_CREATE)
	for name, call := range map[string]func() error{
		"append": func() error { _, err := log.Write([]byte("line\n")); return err },
		"write":  func() error { _, err := plain.WriteAt([]byte("old"), 0); return err },
	} {
		used, others := w.inUse(c)
		reached, wake := stopped(&used.hook.during, &used.hook.after)
		done := make(chan error, 1)
		go func() { done <- call() }()
		<-reached
		c.conn.Leave()
		used.fence()
		must(t, <-done)
		if now, _ := w.inUse(c); now != others[0] {
			t.Fatal("the client did not go on elsewhere")
		}
		if name == "write" {
			second := w.clientOf(Options{})
			f := open(t, second, "/plain", os.O_RDWR)
			if _, err := f.WriteAt([]byte("new"), 0); err != nil {
				t.Fatal(err)
			}
		}
		w.session(used) // its process opens a new session
		wake()
	}
	if got := content(t, c, "/log"); got != "line\n" {
		t.Errorf("the log holds %q", got)
	}
	if got := content(t, c, "/plain"); got != "new" {
		t.Errorf("an old write landed late: %q", got)
	}
}

// TestSlowNodeIsWaitedFor: a node that lives and is slow, and that the client has left: what it does still is done, and is not done again.
func TestSlowNodeIsWaitedFor(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	c := w.client()
	log := open(t, c, "/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND)
	used, others := w.inUse(c)
	reached, wake := stopped(&used.hook.during, &used.hook.after)
	done := make(chan error, 1)
	go func() { _, err := log.Write([]byte("line\n")); done <- err }()
	<-reached
	c.conn.Leave()
	select {
	case err := <-done:
		t.Fatalf("the next node did not wait for the first: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	wake()
	must(t, <-done)
	if now, _ := w.inUse(c); now != others[0] {
		t.Error("the client is still at the slow node")
	}
	if got := content(t, c, "/log"); got != "line\n" {
		t.Errorf("the log holds %q", got)
	}
}

// TestLateRequestIsVoid: a request that was held up before a node saw it, and was answered by another node with an error, is not
// done when the first node sees it at last.
func TestLateRequestIsVoid(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	c, other := w.client(), w.client()
	must(t, c.Mkdir("/first", 0o755)) // the session is open
	used, _ := w.inUse(c)
	reached, wake := stopped(&used.hook.before, &used.hook.after)
	done := make(chan error, 1)
	go func() { done <- c.Mkdir("/d", 0o755) }()
	<-reached
	other.conn.Leave()
	must(t, other.Mkdir("/d", 0o755))
	c.conn.Leave()
	want(t, "mkdir of what another made meanwhile", <-done, syscall.EEXIST)
	must(t, other.Rmdir("/d"))
	wake()
	if _, err := other.Stat("/d"); err == nil {
		t.Error("the directory is there again: a request was done after it had failed")
	}
}

// TestForgottenSessionIsTold: where the nodes do not know the client's session any more, what became of a call is told as unknown.
func TestForgottenSessionIsTold(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	c := w.client()
	must(t, c.Mkdir("/first", 0o755))
	used, others := w.inUse(c)
	used.hook.after = func() {
		must(t, others[0].files.CloseSession(t.Context(), filerpc.Who(c.conn.ID()), dfsfs.Ino(c.conn.Session())))
		go used.kill()
		time.Sleep(50 * time.Millisecond)
	}
	err := c.Mkdir("/d", 0o755)
	want(t, "mkdir", err, syscall.EIO)
	if err == nil || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("%v", err)
	}
	must(t, c.Mkdir("/e", 0o755))
	list, err := c.ReadDir("/")
	must(t, err)
	if got := names(list); !slices.Equal(got, []string{"d", "e", "first"}) {
		t.Errorf("%v", got)
	}
}
