package thin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/posixclient"
	"dfs/tests/harness"
)

// user is a thin client: the library, or a mount through the file service.
type user interface {
	open(name string, flags int) (file, error)
	mkdir(name string) error
	rename(from, to string) error
	remove(name string) error
}

type file interface {
	io.WriteCloser
	io.WriterAt
}

type library struct{ c *posixclient.Client }

func (l library) open(name string, flags int) (file, error) { return l.c.Open("/"+name, flags, 0o644) }
func (l library) mkdir(name string) error                   { return l.c.Mkdir("/"+name, 0o755) }
func (l library) rename(from, to string) error {
	return l.c.Rename2("/"+from, "/"+to, posixclient.RenameNoReplace)
}
func (l library) remove(name string) error { return l.c.Remove("/" + name) }

type mount struct{ dir string }

func (m mount) open(name string, flags int) (file, error) {
	return os.OpenFile(m.dir+"/"+name, flags, 0o644)
}
func (m mount) mkdir(name string) error      { return os.Mkdir(m.dir+"/"+name, 0o755) }
func (m mount) rename(from, to string) error { return os.Rename(m.dir+"/"+from, m.dir+"/"+to) }
func (m mount) remove(name string) error     { return os.Remove(m.dir + "/" + name) }

// start makes a cluster whose nodes believe what a client claims.
func start(t *testing.T) *harness.Cluster {
	t.Helper()
	return harness.Start(t, harness.Options{Args: []string{"--allow-ids", "all"}})
}

// dial connects the library, to the nodes in their order.
func dial(t *testing.T, addresses string) library {
	t.Helper()
	addrs, err := posixclient.ParseAddrs(addresses)
	if err != nil {
		t.Fatal(err)
	}
	c, err := posixclient.Dial(context.Background(), addrs, posixclient.Options{Wait: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return library{c}
}

// worker does what would come out otherwise if it were done twice, and fails at the first error.
type worker struct {
	name string
	u    user
	done int // rounds
	err  error
}

// round appends a line, makes a file that must not be there, moves it to where none is, makes and removes a directory.
func (w *worker) round(log file) error {
	id := fmt.Sprintf("%s-%05d", w.name, w.done)
	if _, err := log.Write([]byte(id + "\n")); err != nil {
		return err
	}
	f, err := w.u.open("new/"+id, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(id))
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := w.u.rename("new/"+id, "old/"+id); err != nil {
		return err
	}
	if err := w.u.mkdir("dir-" + w.name); err != nil {
		return err
	}
	return w.u.remove("dir-" + w.name)
}

func (w *worker) run(stop <-chan struct{}) {
	log, err := w.u.open("log", os.O_WRONLY|os.O_APPEND)
	if err != nil {
		w.err = err
		return
	}
	for w.err == nil {
		select {
		case <-stop:
			w.err = log.Close()
			return
		default:
		}
		if w.err = w.round(log); w.err == nil {
			w.done++
		}
	}
}

// underFaults runs workers of both kinds while fault is done to one node after the other, those that serve them first.
func underFaults(t *testing.T, faults int, fault func(n *harness.Node)) {
	c := start(t)
	setup := dial(t, c.Addresses())
	for _, dir := range []string{"new", "old"} {
		must(t, setup.mkdir(dir))
	}
	f, err := setup.open("log", os.O_CREATE|os.O_WRONLY)
	must(t, err)
	must(t, f.Close())
	m := c.Mount("-o", "via")
	var workers []*worker
	for i := range 2 {
		workers = append(workers, &worker{name: fmt.Sprintf("library%d", i), u: dial(t, c.Addresses())},
			&worker{name: fmt.Sprintf("mount%d", i), u: mount{m.Dir}})
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.run(stop) })
	}
	for i := range faults {
		time.Sleep(700 * time.Millisecond) // of work
		fault(c.Nodes[i%len(c.Nodes)])
		c.WaitReady()
	}
	time.Sleep(700 * time.Millisecond)
	close(stop)
	wg.Wait()
	check(t, c, workers)
}

// check looks that each round was done once.
func check(t *testing.T, c *harness.Cluster, workers []*worker) {
	t.Helper()
	l := dial(t, c.Addresses())
	text, err := l.c.ReadFile("/log")
	must(t, err)
	times := map[string]int{}
	for line := range strings.Lines(string(text)) {
		times[strings.TrimSuffix(line, "\n")]++
	}
	rounds := 0
	for _, w := range workers {
		if w.err != nil {
			t.Errorf("%s after %d rounds: %v", w.name, w.done, w.err)
		}
		for i := range w.done {
			id := fmt.Sprintf("%s-%05d", w.name, i)
			if times[id] != 1 {
				t.Errorf("%s was appended %d times", id, times[id])
			}
			if got, err := l.c.ReadFile("/old/" + id); err != nil || string(got) != id {
				t.Errorf("/old/%s holds %q: %v", id, got, err)
			}
		}
		if w.err == nil && w.done < 5 {
			t.Errorf("%s did %d rounds only", w.name, w.done)
		}
		rounds += w.done
	}
	for id, n := range times {
		if n > 1 {
			t.Errorf("%s was appended %d times", id, n)
		}
	}
	left, err := l.c.ReadDir("/new")
	must(t, err)
	if len(left) > 0 && !t.Failed() {
		t.Errorf("%d files are left where they were made, %s one of them", len(left), left[0].Name())
	}
	t.Logf("%d rounds", rounds)
	c.Check()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestKillServingNodes: kill -9 of the node that serves, and of the next one, in the midst of appends, creates and renames.
func TestKillServingNodes(t *testing.T) {
	underFaults(t, 2, func(n *harness.Node) {
		n.Kill()
		time.Sleep(300 * time.Millisecond) // the others take over
		n.Start()
	})
}

// whole is the most that a write carries in one piece.
const whole = 1 << 20

// TestWritesOfOneRange: of writes to one range by two clients at once, one wins, whole, up to a MiB; of longer ones each MiB is one's or the other's.
func TestWritesOfOneRange(t *testing.T) {
	c := start(t)
	m := c.Mount("-o", "via")
	nodes := strings.Split(c.Addresses(), ",")
	users := []user{dial(t, nodes[0]), dial(t, nodes[1]), mount{m.Dir}, mount{c.Mount().Dir}}
	setup := dial(t, c.Addresses())
	f, err := setup.open("f", os.O_CREATE|os.O_WRONLY)
	must(t, err)
	must(t, f.Close())
	for pair := range users {
		at := 1000
		if pair >= 2 {
			at = 1 << 12 // of what goes through its page cache a kernel makes two writes where a page that it does not have is written in part
		}
		race(t, setup, users[pair], users[(pair+1)%len(users)], whole, at)
	}
	race(t, setup, users[0], users[1], 2*whole+whole/2, 1000)
}

// race has two users write size bytes of "f" at once, over and over.
func race(t *testing.T, setup library, a, b user, size, at int) {
	t.Helper()
	won := map[byte]int{}
	for round := range 12 {
		together(t, func(i int) error {
			f, err := []user{a, b}[i].open("f", os.O_WRONLY)
			if err == nil {
				_, err = f.WriteAt(bytes.Repeat([]byte{byte('a' + i)}, size), int64(at))
				err = errors.Join(err, f.Close())
			}
			return err
		})
		got, err := setup.c.ReadFile("/f")
		must(t, err)
		if len(got) < at+size {
			t.Fatalf("round %d: the file has %d bytes", round, len(got))
		}
		won[ofOne(t, got[at:at+size])[0]]++
	}
	t.Logf("%T and %T, %d bytes: the last was %v", a, b, size, won)
}

// together runs f(0) and f(1) at once.
func together(t *testing.T, f func(i int) error) {
	t.Helper()
	var errs [2]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	must(t, errors.Join(errs[:]...))
}

// ofOne looks that each MiB of data is one writer's, and returns their letters.
func ofOne(t *testing.T, data []byte) (letters []byte) {
	t.Helper()
	for piece := range slices.Chunk(data, whole) {
		if n := bytes.Count(piece, piece[:1]); n != len(piece) {
			t.Fatalf("a mixture: %d of %d bytes are %q", n, len(piece), piece[0])
		}
		letters = append(letters, piece[0])
	}
	return letters
}

// TestAppendsAreWhole: a MiB appended by the library lies in one place, whoever appends beside it.
func TestAppendsAreWhole(t *testing.T) {
	c := start(t)
	nodes := strings.Split(c.Addresses(), ",")
	users := []user{dial(t, nodes[0]), dial(t, nodes[1])}
	const rounds = 8
	together(t, func(i int) error {
		f, err := users[i].open("f", os.O_WRONLY|os.O_CREATE|os.O_APPEND)
		for n := 0; n < rounds && err == nil; n++ {
			_, err = f.Write(bytes.Repeat([]byte{byte('a' + i)}, whole))
		}
		if err == nil {
			err = f.Close()
		}
		return err
	})
	got, err := dial(t, c.Addresses()).c.ReadFile("/f")
	must(t, err)
	if letters := ofOne(t, got); len(got) != 2*rounds*whole || bytes.Count(letters, []byte("a")) != rounds {
		t.Errorf("the file has %d bytes: %s", len(got), letters)
	}
}

// TestOpenFilesOutliveTheirNode: a file that lost its name while it was open outlives the node that served its user, and so does one that never
// had one. A descriptor with a file lock fails, because the lock is lost; one that has let its lock go does not.
func TestOpenFilesOutliveTheirNode(t *testing.T) {
	c := start(t)
	m := c.Mount("-o", "via")
	f, err := os.OpenFile(m.Path("f"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("here")
	must(t, err)
	must(t, os.Remove(m.Path("f")))
	const oTmpfile = 0x400000 | syscall.O_DIRECTORY
	tmp, err := os.OpenFile(m.Dir, os.O_RDWR|oTmpfile, 0o644)
	must(t, err)
	defer tmp.Close()
	_, err = tmp.WriteString("too")
	must(t, err)
	var locked [2]*os.File
	for i := range locked {
		locked[i], err = os.Create(m.Path(fmt.Sprint("locked", i)))
		must(t, err)
		defer locked[i].Close()
		must(t, syscall.Flock(int(locked[i].Fd()), syscall.LOCK_EX))
	}
	must(t, syscall.Flock(int(locked[1].Fd()), syscall.LOCK_UN))
	c.Nodes[0].Kill()
	for _, want := range []struct {
		f    *os.File
		text string
	}{{f, "here"}, {tmp, "too"}} {
		buf := make([]byte, 10)
		if n, err := want.f.ReadAt(buf, 0); string(buf[:n]) != want.text || err != io.EOF {
			t.Errorf("%q %v, want %q", buf[:n], err, want.text)
		}
		if _, err := want.f.WriteAt([]byte("more"), 4); err != nil {
			t.Error(err)
		}
	}
	if _, err := locked[0].WriteString("x"); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write through a descriptor whose lock is lost: %v", err)
	}
	if _, err := locked[1].WriteString("x"); err != nil {
		t.Error(err)
	}
	again, err := os.OpenFile(m.Path("locked0"), os.O_WRONLY, 0)
	must(t, err)
	must(t, syscall.Flock(int(again.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	must(t, again.Close())
	c.Nodes[0].Start()
	c.WaitReady()
}

// TestStopServingNodes: the node that serves is stopped beyond its lease, and beyond the time after which its clients leave it; then it
// wakes up, with what it had half done. (The short run has posixclient's TestStoppedNodeDoesNothingLate, where a node stops at the very point.)
func TestStopServingNodes(t *testing.T) {
	if os.Getenv("DFS_SOAK_MINUTES") == "" {
		return
	}
	underFaults(t, 2, func(n *harness.Node) {
		n.Process().Signal(syscall.SIGSTOP)
		time.Sleep(25 * time.Second)
		n.Process().Signal(syscall.SIGCONT)
	})
}
