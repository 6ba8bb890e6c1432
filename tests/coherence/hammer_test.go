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

// testCrossed has tasks on every mount read, write, map and sync one file at the same time, several on each mount: the revokes meet
// requests in every state. Each task owns one 8-byte word of each page, in which it only ever sees what it wrote last.
func testCrossed(t *testing.T, dirs []string) {
	const pages = 16
	must(t, os.WriteFile(filepath.Join(dirs[0], "f"), make([]byte, pages*4096), 0o666))
	limit := 6 * time.Second
	if soak() > 0 {
		limit = soak() / 2
	}
	var wg sync.WaitGroup
	var ops, slowest atomic.Int64
	for i := range 6 {
		wg.Go(func() {
			f, err := os.OpenFile(filepath.Join(dirs[i%3], "f"), os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			m, err := unix.Mmap(int(f.Fd()), 0, pages*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = unix.Munmap(m) }()
			r := rand.New(rand.NewSource(int64(i)))
			var mine [pages]uint64
			var buf [8]byte
			for began, n := time.Now(), uint64(1); time.Since(began) < limit; n++ {
				page := r.Intn(pages)
				off := page*4096 + i*8
				step := time.Now()
				var err error
				switch r.Intn(5) {
				case 0, 1:
					binary.LittleEndian.PutUint64(buf[:], n)
					_, err = f.WriteAt(buf[:], int64(off))
					mine[page] = n
				case 2:
					_, err = f.ReadAt(buf[:], int64(off))
					if got := binary.LittleEndian.Uint64(buf[:]); err == nil && got != mine[page] {
						t.Errorf("task %d reads %d where it wrote %d", i, got, mine[page])
						return
					}
				case 3:
					if got := binary.LittleEndian.Uint64(m[off:]); got != mine[page] {
						t.Errorf("task %d sees %d in its mapping where it wrote %d", i, got, mine[page])
						return
					}
				case 4:
					if r.Intn(4) == 0 {
						err = f.Sync()
					} else {
						_, err = f.Stat()
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				took := int64(time.Since(step))
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
				ops.Add(1)
			}
		})
	}
	wg.Wait()
	t.Logf("six tasks on three mounts and one file: %.0f operations/s, the slowest took %v", float64(ops.Load())/limit.Seconds(),
		time.Duration(slowest.Load()).Round(time.Millisecond))
}
