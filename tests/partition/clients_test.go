package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/check"
	"dfs/tests/harness"
)

// run is what the clients of one round share.
type run struct {
	w       *world
	dir     string // below every mount
	history *check.History
	stop    atomic.Bool
	done    atomic.Int64 // operations
	ended   sync.WaitGroup

	answered time.Duration

	mu   sync.Mutex
	said []string // what is wrong whatever the order
}

// behaviour is one kind of client.
type behaviour interface {
	// open opens what the client works on.
	open(dir string) (*os.File, error)
	// step does one operation. Any error ends the use of the file.
	step(c *client) error
	// look reads what there is at the end.
	look(c *client) error
}

// client does one operation after the other through one mount.
type client struct {
	*run
	id       int
	what     behaviour
	mount    *harness.Mount
	r        *rand.Rand
	file     *os.File // nil: it must be opened (again)
	unsynced check.Unsynced
}

// clients makes the round's directory and starts one client of each kind on each mount.
func (w *world) clients(seed uint64) *run {
	w.t.Helper()
	s := &run{w: w, dir: fmt.Sprintf("round-%d", w.rounds), history: &check.History{}}
	m := w.mounts[0]
	must(w.t, os.Mkdir(m.Path(s.dir), 0o755))
	for _, name := range []string{"names", "existence"} {
		must(w.t, os.Mkdir(m.Path(s.dir, name), 0o755))
	}
	for name, size := range map[string]int64{"registers": registers * blockSize, "appends": 0, "counter": 8} {
		must(w.t, os.WriteFile(m.Path(s.dir, name), make([]byte, size), 0o644))
	}
	m.Sync()
	for i, m := range w.mounts {
		for k, what := range []behaviour{registersClient{}, appendsClient{}, existenceClient{}, namesClient{}, counterClient{byFcntl: seed%2 == 0}} {
			id := i*10 + k
			c := &client{run: s, id: id, what: what, mount: m, r: rand.New(rand.NewPCG(seed, uint64(id)+100))}
			s.ended.Go(c.work)
		}
	}
	return s
}

// warm waits until the clients have done something.
func (s *run) warm() {
	s.w.t.Helper()
	begun := time.Now()
	s.w.within(s, "the beginning of a round", begun, func() {
		for s.done.Load() < mountCount*50 && !s.stop.Load() {
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// end ends the clients.
func (s *run) end(healed time.Time) {
	s.w.t.Helper()
	s.stop.Store(true)
	s.w.within(s, "the clients' last operation", time.Now(), s.ended.Wait)
	if took := time.Since(healed); took > 2*healWait && onTime() {
		s.w.t.Errorf("the clients ended %v after healing", took)
	}
}

func (s *run) wrong(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, fmt.Sprintf(format, args...))
}

func (s *run) bad() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said
}

// work goes on until the round ends; it ends with an fsync and a look.
func (c *client) work() {
	for !c.stop.Load() {
		if !c.opened() {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		next := c.what.step
		if c.r.IntN(6) == 0 {
			next = (*client).sync
		}
		err := next(c)
		c.done.Add(1)
		if err != nil {
			c.fail()
			continue
		}
		time.Sleep(time.Duration(c.r.IntN(20)) * time.Millisecond)
	}
	for tries := 0; ; tries++ {
		var err error
		if !c.opened() {
			err = errors.New("its file cannot be opened")
		} else if err = c.sync(); err == nil {
			err = c.what.look(c)
		}
		if err == nil {
			_ = c.file.Close()
			return
		}
		if tries == 5 {
			c.wrong("client %d can do nothing after the faults: %v", c.id, err)
			return
		}
		c.fail()
		time.Sleep(50 * time.Millisecond)
	}
}

// opened opens the file if it is not open.
func (c *client) opened() bool {
	if c.file == nil {
		c.file, _ = c.what.open(c.mount.Path(c.dir))
	}
	return c.file != nil
}

// sync makes durable what was done, as the mount says.
func (c *client) sync() error {
	if err := c.file.Sync(); err != nil {
		return err
	}
	c.unsynced.Kept()
	return nil
}

// fail notes that anything since the last fsync may be lost.
func (c *client) fail() {
	c.unsynced.Lost()
	if c.file != nil {
		_ = c.file.Close()
		c.file = nil
	}
}

func (c *client) fd() int { return int(c.file.Fd()) }

// do does an operation: f returns its answer. Errors that are answers are turned into one by f.
func (c *client) do(in check.Input, f func() (check.Output, error)) error {
	o := c.history.Begin(c.id, in)
	out, err := f()
	if err != nil {
		o.Unknown() // of a read that is as good as nothing
		return err
	}
	o.Done(out)
	c.unsynced.Add(o)
	return nil
}

// value is one that nobody wrote before.
func (c *client) value() uint64 { return c.w.values.Add(1) }

// registersClient writes and reads blocks of one file.
type registersClient struct{}

const (
	registers = 4
	blockSize = 4096
)

func (registersClient) open(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "registers"), os.O_RDWR, 0)
}

func (registersClient) step(c *client) error {
	k := c.r.Int64N(registers)
	if c.r.IntN(2) == 0 {
		return readRegister(c, k)
	}
	v := c.value()
	return c.do(check.Input{Kind: check.Write, Key: fmt.Sprintf("block %d", k), Value: v}, func() (check.Output, error) {
		_, err := c.file.WriteAt(filled(v), k*blockSize)
		return check.Output{OK: true}, err
	})
}

func (registersClient) look(c *client) error {
	for k := range int64(registers) {
		if err := readRegister(c, k); err != nil {
			return err
		}
	}
	return nil
}

func readRegister(c *client, k int64) error {
	return c.do(check.Input{Kind: check.Read, Key: fmt.Sprintf("block %d", k)}, func() (check.Output, error) {
		b := make([]byte, blockSize)
		if _, err := c.file.ReadAt(b, k*blockSize); err != nil {
			return check.Output{}, err
		}
		v := binary.LittleEndian.Uint64(b)
		if string(b) != string(filled(v)) {
			c.wrong("a block is torn: it begins with %d, but does not go on with it", v)
		}
		return check.Output{Value: v}, nil
	})
}

func filled(v uint64) []byte {
	b := make([]byte, 0, blockSize)
	for len(b) < blockSize {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// appendsClient appends to a file and reads it whole.
type appendsClient struct{}

func (appendsClient) open(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "appends"), os.O_RDWR|os.O_APPEND, 0)
}

func (a appendsClient) step(c *client) error {
	if c.r.IntN(2) == 0 {
		return a.look(c)
	}
	v := c.value()
	return c.do(check.Input{Kind: check.Append, Value: v}, func() (check.Output, error) {
		_, err := c.file.Write(fmt.Appendf(nil, "%d ", v))
		return check.Output{OK: true}, err
	})
}

func (appendsClient) look(c *client) error {
	return c.do(check.Input{Kind: check.ReadAll}, func() (check.Output, error) {
		b := make([]byte, 1<<20)
		n, err := c.file.ReadAt(b, 0)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return check.Output{Text: string(b[:n])}, err
	})
}

// existenceClient creates files exclusively and removes them.
type existenceClient struct{}

func (existenceClient) open(dir string) (*os.File, error) {
	return os.Open(filepath.Join(dir, "existence"))
}

var fewNames = []string{"x", "y", "z"}

func (existenceClient) step(c *client) error {
	name := fewNames[c.r.IntN(len(fewNames))]
	switch c.r.IntN(3) {
	case 0:
		return c.do(check.Input{Kind: check.Create, Key: name}, func() (check.Output, error) {
			fd, err := retried(func() (int, error) {
				return unix.Openat(c.fd(), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			})
			if err == nil {
				_ = unix.Close(fd)
			}
			return answered(err, unix.EEXIST)
		})
	case 1:
		return c.do(check.Input{Kind: check.Remove, Key: name}, func() (check.Output, error) {
			return answered(unix.Unlinkat(c.fd(), name, 0), unix.ENOENT)
		})
	}
	return statName(c, name)
}

func (existenceClient) look(c *client) error {
	for _, name := range fewNames {
		if err := statName(c, name); err != nil {
			return err
		}
	}
	return nil
}

func statName(c *client, name string) error {
	return c.do(check.Input{Kind: check.Stat, Key: name}, func() (check.Output, error) {
		var st unix.Stat_t
		return answered(unix.Fstatat(c.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW), unix.ENOENT)
	})
}

// retried calls f again while a signal of the Go runtime interrupts it.
func retried(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// answered makes an answer of an error: no is one that says no.
func answered(err, no error) (check.Output, error) {
	if errors.Is(err, no) {
		return check.Output{}, nil
	}
	return check.Output{OK: err == nil}, err
}

// namesClient makes, renames, removes and reads symbolic links, which are made with their content in one operation.
type namesClient struct{}

func (namesClient) open(dir string) (*os.File, error) {
	return os.Open(filepath.Join(dir, "names"))
}

func (namesClient) step(c *client) error {
	i := c.r.IntN(len(fewNames))
	name, other := fewNames[i], fewNames[(i+1+c.r.IntN(len(fewNames)-1))%len(fewNames)]
	switch c.r.IntN(5) {
	case 0, 1:
		v := c.value()
		return c.do(check.Input{Kind: check.Symlink, To: name, Value: v}, func() (check.Output, error) {
			return answered(unix.Symlinkat(fmt.Sprint(v), c.fd(), name), unix.EEXIST)
		})
	case 2:
		return c.do(check.Input{Kind: check.Rename, Text: name, To: other}, func() (check.Output, error) {
			return answered(unix.Renameat(c.fd(), name, c.fd(), other), unix.ENOENT)
		})
	case 3:
		return c.do(check.Input{Kind: check.Unlink, To: name}, func() (check.Output, error) {
			return answered(unix.Unlinkat(c.fd(), name, 0), unix.ENOENT)
		})
	}
	return readName(c, name)
}

func (namesClient) look(c *client) error {
	for _, name := range fewNames {
		if err := readName(c, name); err != nil {
			return err
		}
	}
	return nil
}

func readName(c *client, name string) error {
	return c.do(check.Input{Kind: check.Readlink, To: name}, func() (check.Output, error) {
		b := make([]byte, 64)
		n, err := unix.Readlinkat(c.fd(), name, b)
		if errors.Is(err, unix.ENOENT) {
			return check.Output{}, nil
		}
		if err != nil {
			return check.Output{}, err
		}
		var v uint64
		if _, err := fmt.Sscan(string(b[:n]), &v); err != nil {
			c.wrong("the target of a symbolic link is %q", b[:n])
		}
		return check.Output{Value: v}, nil
	})
}

// counterClient adds one to a number in a file under a lock of that file. Whoever loses the lock with the lease must get
// an error from the same descriptor, so no number is given twice.
type counterClient struct{ byFcntl bool }

func (counterClient) open(dir string) (*os.File, error) {
	return os.OpenFile(filepath.Join(dir, "counter"), os.O_RDWR, 0)
}

func (k counterClient) lock(c *client, lock bool) error {
	_, err := retried(func() (int, error) {
		how, kind := unix.LOCK_EX, int16(unix.F_WRLCK)
		if !lock {
			how, kind = unix.LOCK_UN, unix.F_UNLCK
		}
		if k.byFcntl {
			return 0, unix.FcntlFlock(c.file.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: kind, Len: 8})
		}
		return 0, unix.Flock(c.fd(), how)
	})
	return err
}

func (k counterClient) step(c *client) error {
	if err := k.lock(c, true); err != nil {
		return err
	}
	o := c.history.Begin(c.id, check.Input{Kind: check.Increment})
	b := make([]byte, 8)
	if _, err := c.file.ReadAt(b, 0); err != nil {
		o.Void()
		return err
	}
	n := binary.LittleEndian.Uint64(b)
	time.Sleep(time.Duration(c.r.IntN(3)) * time.Millisecond)
	if _, err := c.file.WriteAt(binary.LittleEndian.AppendUint64(nil, n+1), 0); err != nil {
		o.Unknown()
		return err
	}
	o.Done(check.Output{Value: n})
	c.unsynced.Add(o)
	if c.r.IntN(2) == 0 {
		if err := c.sync(); err != nil {
			return err
		}
	}
	return k.lock(c, false)
}

func (counterClient) look(*client) error { return nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
