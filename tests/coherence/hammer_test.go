package coherence

import (
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testHammer changes things through A while tasks look at them through B all the time, so that replies are on their way
// to B's kernel whenever A's change takes B's locks away; then B must see the change at once.
func testHammer(t *testing.T, dirs []string) {
	a, b := dirs[0], dirs[1]
	must(t, os.WriteFile(filepath.Join(a, "f"), []byte("0"), 0o666))
	must(t, os.WriteFile(filepath.Join(a, "n0"), nil, 0o666))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for i := range 4 {
		wg.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				switch (i + j) % 4 {
				case 0:
					_ = statText(filepath.Join(b, "f"))
				case 1:
					_, _ = os.ReadFile(filepath.Join(b, "f"))
				case 2:
					_ = statText(filepath.Join(b, fmt.Sprintf("n%d", j%2)))
				case 3:
					if j%16 == 3 {
						_, _ = os.ReadDir(b)
					}
				}
			}
		})
	}
	began := time.Now()
	limit := 6 * time.Second
	if soak() > 0 {
		limit = soak() / 2
	}
	n := 0
	for ; time.Since(began) < limit && !t.Failed(); n++ {
		text := fmt.Sprint(n)
		path := filepath.Join(a, "f")
		switch n % 4 {
		case 0:
			must(t, withFile(path, unix.O_WRONLY|unix.O_TRUNC, func(fd int) error { return pwrite(fd, text, 0) }))
		case 1:
			must(t, os.WriteFile(path+".new", []byte(text), 0o666))
			must(t, os.Rename(path+".new", path))
		case 2:
			must(t, os.Remove(path))
			must(t, os.WriteFile(path, []byte(text), 0o666))
		case 3:
			// Within the quiet time of a directory that was shared a moment ago no name is cached: let it pass now and then.
			if n%32 == 31 {
				time.Sleep(2100 * time.Millisecond)
			}
			must(t, withFile(path, unix.O_WRONLY, func(fd int) error {
				if err := unix.Ftruncate(fd, 0); err != nil {
					return err
				}
				return pwrite(fd, text, 0)
			}))
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(b, "f"), &st))
		if st.Size != int64(len(text)) {
			t.Errorf("round %d: the size is %d, want %d", n, st.Size, len(text))
		}
		if data, err := os.ReadFile(filepath.Join(b, "f")); err != nil || string(data) != text {
			t.Errorf("round %d: read %q, %v", n, data, err)
		}
		from, to := fmt.Sprintf("n%d", n%2), fmt.Sprintf("n%d", 1-n%2)
		must(t, os.Rename(filepath.Join(a, from), filepath.Join(a, to)))
		if _, err := os.Lstat(filepath.Join(b, from)); !os.IsNotExist(err) {
			t.Errorf("round %d: %s, renamed, is still there: %v", n, from, err)
		}
		if _, err := os.Lstat(filepath.Join(b, to)); err != nil {
			t.Errorf("round %d: %s, just made by a rename: %v", n, to, err)
		}
		must(t, os.Chmod(filepath.Join(a, to), 0o600+os.FileMode(n%64)))
		if st, err := os.Lstat(filepath.Join(b, to)); err != nil || st.Mode().Perm() != 0o600+os.FileMode(n%64) {
			t.Errorf("round %d: the mode is %v, %v, want %o", n, st.Mode(), err, 0o600+n%64)
		}
	}
	t.Logf("%d rounds while others look: %.0f/s", n, float64(n)/time.Since(began).Seconds())
}

// crossedPages is the size of the file of testCrossed.
const crossedPages = 16

// testCrossed has tasks on three mounts read, write, map, sync and reopen one file at the same time, two on each mount: the revokes meet
// requests in every state. Each task owns one 8-byte word of each page, in which it only ever sees what it wrote last.
func testCrossed(t *testing.T, dirs []string) {
	must(t, os.WriteFile(filepath.Join(dirs[0], "f"), make([]byte, crossedPages*4096), 0o666))
	limit := 5 * time.Second
	if soak() > 0 {
		limit = soak() / 2
	}
	var wg sync.WaitGroup
	var ops, slowest atomic.Int64
	for i := range 6 {
		wg.Go(func() {
			c := &crosser{path: filepath.Join(dirs[i%3], "f"), task: i, r: rand.New(rand.NewSource(int64(i)))}
			err := c.open()
			defer c.close()
			for began := time.Now(); err == nil && time.Since(began) < limit; ops.Add(1) {
				step := time.Now()
				err = c.step()
				took := int64(time.Since(step))
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
			}
			if err != nil {
				t.Errorf("task %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	t.Logf("six tasks on three mounts and one file: %.0f operations/s, the slowest took %v", float64(ops.Load())/limit.Seconds(),
		time.Duration(slowest.Load()).Round(time.Millisecond))
}

// crosser is a task of testCrossed.
type crosser struct {
	path string
	task int
	r    *rand.Rand
	f    *os.File
	m    []byte
	n    uint64
	mine [crossedPages]uint64
}

func (c *crosser) open() (err error) {
	if c.f, err = os.OpenFile(c.path, os.O_RDWR, 0); err == nil {
		c.m, err = unix.Mmap(int(c.f.Fd()), 0, crossedPages*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	return err
}

func (c *crosser) close() {
	_ = unix.Munmap(c.m)
	_ = c.f.Close()
}

func (c *crosser) step() (err error) {
	c.n++
	page := c.r.Intn(crossedPages)
	off := page*4096 + c.task*8
	var buf [8]byte
	switch c.r.Intn(6) {
	case 0, 1:
		binary.LittleEndian.PutUint64(buf[:], c.n)
		_, err = c.f.WriteAt(buf[:], int64(off))
		c.mine[page] = c.n
	case 2:
		_, err = c.f.ReadAt(buf[:], int64(off))
		if got := binary.LittleEndian.Uint64(buf[:]); err == nil && got != c.mine[page] {
			return fmt.Errorf("reads %d in page %d where it wrote %d", got, page, c.mine[page])
		}
	case 3:
		if got := binary.LittleEndian.Uint64(c.m[off:]); got != c.mine[page] {
			return fmt.Errorf("sees %d in its mapping of page %d where it wrote %d", got, page, c.mine[page])
		}
	case 4:
		binary.LittleEndian.PutUint64(c.m[off:], c.n)
		c.mine[page] = c.n
	case 5:
		switch k := c.r.Intn(40); {
		case k < 10:
			err = c.f.Sync()
		case k < 39:
			_, err = c.f.Stat()
		default: // what is opened while the file is shared is direct
			c.close()
			err = c.open()
		}
	}
	return err
}
