package coherence

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testLocks takes fcntl and flock locks on several mounts.
func testLocks(t *testing.T, dirs []string) {
	path := func(i int) string { return filepath.Join(dirs[i], "locked") }
	must(t, os.WriteFile(path(0), []byte("x"), 0o666))
	a, err := os.OpenFile(path(0), os.O_RDWR, 0)
	must(t, err)
	defer a.Close()
	b, err := os.OpenFile(path(1), os.O_RDWR, 0)
	must(t, err)
	defer b.Close()
	fcntl := func(f *os.File, cmd int, typ int16, start, length int64) error {
		return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: typ, Start: start, Len: length})
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: %v, want EAGAIN", what, err)
		}
	}
	// Locks of open file descriptions: the process is the same on both mounts, which makes no difference to them.
	must(t, fcntl(a, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 100))
	refused("a byte locked through A, through B", fcntl(b, unix.F_OFD_SETLK, unix.F_WRLCK, 99, 1))
	must(t, fcntl(b, unix.F_OFD_SETLK, unix.F_WRLCK, 100, 1))
	refused("the byte B has", fcntl(a, unix.F_OFD_SETLK, unix.F_RDLCK, 100, 1))
	got := make(chan error, 1)
	go func() { got <- fcntl(b, unix.F_OFD_SETLKW, unix.F_RDLCK, 0, 10) }()
	select {
	case err := <-got:
		t.Fatalf("a lock that A holds was given to B: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	must(t, fcntl(a, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 100))
	must(t, <-got)
	must(t, fcntl(b, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 0))

	must(t, unix.Flock(int(a.Fd()), unix.LOCK_EX))
	refused("flock", unix.Flock(int(b.Fd()), unix.LOCK_SH|unix.LOCK_NB))
	go func() { got <- unix.Flock(int(b.Fd()), unix.LOCK_EX) }()
	time.Sleep(50 * time.Millisecond)
	must(t, a.Close()) // closing lets go
	must(t, <-got)

	// A counter under flock, by all mounts.
	must(t, os.WriteFile(path(0), make([]byte, 8), 0o666))
	const each = 25
	began := time.Now()
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			f, err := os.OpenFile(path(i), os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			var buf [8]byte
			for range each {
				err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
				if err == nil {
					_, err = f.ReadAt(buf[:], 0)
				}
				if err == nil {
					binary.LittleEndian.PutUint64(buf[:], binary.LittleEndian.Uint64(buf[:])+1)
					_, err = f.WriteAt(buf[:], 0)
				}
				if err == nil {
					err = unix.Flock(int(f.Fd()), unix.LOCK_UN)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	_ = b.Close()
	wg.Wait()
	data, err := os.ReadFile(path(3))
	must(t, err)
	if n := binary.LittleEndian.Uint64(data); n != uint64(each*len(dirs)) {
		t.Errorf("the counter is %d, want %d", n, each*len(dirs))
	}
	t.Logf("counter under flock on %d mounts: %.0f increments/s", len(dirs), float64(each*len(dirs))/time.Since(began).Seconds())
}

// testPingPong lets two mounts answer each other through a file: A writes a number, B reads until it
// sees it and writes it back elsewhere.
func testPingPong(t *testing.T, dirs []string) {
	name := "ball"
	must(t, os.WriteFile(filepath.Join(dirs[0], name), make([]byte, 8192), 0o666))
	a, err := os.OpenFile(filepath.Join(dirs[0], name), os.O_RDWR, 0)
	must(t, err)
	defer a.Close()
	b, err := os.OpenFile(filepath.Join(dirs[1], name), os.O_RDWR, 0)
	must(t, err)
	defer b.Close()
	n := rounds(200, 20_000)
	began := time.Now()
	var buf [8]byte
	for i := uint64(1); i <= uint64(n); i++ {
		binary.LittleEndian.PutUint64(buf[:], i)
		_, err := a.WriteAt(buf[:], 0)
		must(t, err)
		_, err = b.ReadAt(buf[:], 0)
		must(t, err)
		if got := binary.LittleEndian.Uint64(buf[:]); got != i {
			t.Fatalf("B reads %d just after A wrote %d", got, i)
		}
		_, err = b.WriteAt(buf[:], 4096)
		must(t, err)
		_, err = a.ReadAt(buf[:], 4096)
		must(t, err)
		if got := binary.LittleEndian.Uint64(buf[:]); got != i {
			t.Fatalf("A reads %d just after B wrote %d", got, i)
		}
	}
	t.Logf("ping-pong between two mounts: %.0f rounds/s", float64(n)/time.Since(began).Seconds())
}

// testHandOver measures how long a change takes to be seen elsewhere: a file written through A and read, a name
// made through A and looked up through B.
func testHandOver(t *testing.T, dirs []string) {
	var read, stat []time.Duration
	for i := range 50 {
		path := func(m int) string { return filepath.Join(dirs[m], fmt.Sprintf("f%d", i)) }
		_ = statText(path(1))
		must(t, os.WriteFile(path(0), []byte("hello"), 0o666))
		began := time.Now()
		if s := statText(path(1)); len(s) < 30 {
			t.Fatal(s)
		}
		stat = append(stat, time.Since(began))
		began = time.Now()
		data, err := os.ReadFile(path(1))
		must(t, err)
		read = append(read, time.Since(began))
		if string(data) != "hello" {
			t.Fatalf("%q", data)
		}
	}
	t.Logf("a new file is seen after %v (median), %v (worst); read after %v, %v", median(stat), stat[len(stat)-1], median(read), read[len(read)-1])
}

func median(d []time.Duration) time.Duration {
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[len(d)/2].Round(10 * time.Microsecond)
}

// testAppend appends to one file through every mount: no record is lost, torn or doubled.
func testAppend(t *testing.T, dirs []string) {
	must(t, os.WriteFile(filepath.Join(dirs[0], "log"), nil, 0o666))
	n := rounds(300, 5000)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range 2 * len(dirs) {
		wg.Go(func() {
			f, err := os.OpenFile(filepath.Join(dirs[i%len(dirs)], "log"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for j := range n {
				line := fmt.Sprintf("%d %05d %s\n", i, j, bytes.Repeat([]byte{byte('a' + i)}, 1+j*37%700))
				if _, err := f.WriteString(line); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	bad := 0
	for m := range dirs {
		data, err := os.ReadFile(filepath.Join(dirs[m], "log"))
		must(t, err)
		if d := os.Getenv("DFS_DUMP"); d != "" {
			_ = os.WriteFile(fmt.Sprintf("%s%d", d, m), data, 0o666)
		}
		next := make([]int, 2*len(dirs))
		for _, line := range bytes.SplitAfter(data, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			var i, j int
			_, _ = fmt.Sscanf(string(line), "%d %d", &i, &j)
			want := fmt.Sprintf("%d %05d %s\n", i, j, bytes.Repeat([]byte{byte('a' + i)}, 1+j*37%700))
			if string(line) != want || next[i] != j {
				t.Errorf("mount %d: a torn, lost or repeated record: %.60q (%d bytes, %d expected), expected number %d of writer %d", m, line, len(line), len(want), next[i], i)
				if bad++; bad > 5 {
					continue
				}
			}
			next[i]++
		}
		for i, got := range next {
			if got != n {
				t.Errorf("mount %d: %d records of writer %d, want %d", m, got, i, n)
			}
		}
	}
	t.Logf("appends by %d writers on %d mounts: %.0f/s", 2*len(dirs), len(dirs), float64(2*len(dirs)*n)/took.Seconds())
}

// testUnlinked removes, through A, a file that is open through B, and the other way round with rename over it.
func testUnlinked(t *testing.T, dirs []string) {
	for i := range rounds(10, 300) {
		name := fmt.Sprintf("f%d", i)
		a, b := filepath.Join(dirs[i%2], name), filepath.Join(dirs[1-i%2], name)
		data := bytes.Repeat([]byte{byte(i + 1)}, []int{100, 50_000}[i%2])
		must(t, os.WriteFile(a, data, 0o666))
		f, err := os.OpenFile(b, os.O_RDWR, 0)
		must(t, err)
		if i%3 == 0 {
			must(t, os.WriteFile(a+".new", nil, 0o666))
			must(t, os.Rename(a+".new", a))
		} else {
			must(t, os.Remove(a))
		}
		buf := make([]byte, len(data)+1)
		n, _ := f.ReadAt(buf, 0)
		if !bytes.Equal(buf[:n], data) {
			t.Fatalf("round %d: an open file without a name reads %d other bytes", i, n)
		}
		_, err = f.WriteAt([]byte("still"), 3)
		must(t, err)
		n, _ = f.ReadAt(buf[:8], 0)
		if string(buf[3:n]) != "still" {
			t.Fatalf("round %d: wrote to an open file without a name, read %q", i, buf[:n])
		}
		if st, err := f.Stat(); err != nil || st.Sys().(*syscall.Stat_t).Nlink != 0 {
			t.Fatalf("round %d: stat of an open file without a name: %+v, %v", i, st, err)
		}
		must(t, f.Close())
		if _, err := os.Stat(b); (i%3 != 0) != os.IsNotExist(err) {
			t.Fatalf("round %d: stat of %s: %v", i, b, err)
		}
	}
}

// testNames makes, renames and removes names in one directory through every mount: every name is where the
// one who made it put it, nothing is lost, nothing stalls.
func testNames(t *testing.T, dirs []string) {
	n := rounds(40, 2000)
	began := time.Now()
	var slowest sync.Map
	var wg sync.WaitGroup
	for i := range dirs {
		wg.Go(func() {
			worst := time.Duration(0)
			for j := range n {
				step := time.Now()
				path := filepath.Join(dirs[i], fmt.Sprintf("m%d-%d", i, j))
				err := os.WriteFile(path, []byte(path), 0o666)
				if err == nil && j%3 == 0 {
					err = os.Rename(path, path+"-moved")
				}
				if err == nil && j%3 == 1 {
					err = os.Remove(path)
				}
				if err == nil && j%5 == 0 {
					_, err = os.ReadDir(dirs[i])
				}
				if err == nil {
					// Contended: every mount tries to make the same name, one succeeds.
					var f *os.File
					f, err = os.OpenFile(filepath.Join(dirs[i], fmt.Sprintf("once%d", j)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
					if err == nil {
						_, err = fmt.Fprintf(f, "%d\n", i)
						_ = f.Close()
					} else if os.IsExist(err) {
						err = nil
					}
				}
				if err != nil {
					t.Errorf("mount %d, round %d: %v", i, j, err)
					return
				}
				worst = max(worst, time.Since(step))
			}
			slowest.Store(i, worst)
		})
	}
	wg.Wait()
	took := time.Since(began)
	want := map[string]bool{}
	for i := range dirs {
		for j := range n {
			switch j % 3 {
			case 0:
				want[fmt.Sprintf("m%d-%d-moved", i, j)] = true
			case 2:
				want[fmt.Sprintf("m%d-%d", i, j)] = true
			}
		}
	}
	for j := range n {
		want[fmt.Sprintf("once%d", j)] = true
	}
	for m, dir := range dirs {
		list, err := os.ReadDir(dir)
		must(t, err)
		if len(list) != len(want) {
			t.Errorf("mount %d lists %d names, want %d", m, len(list), len(want))
		}
		for _, e := range list {
			if !want[e.Name()] {
				t.Errorf("mount %d lists %s", m, e.Name())
			}
			if data, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil || len(data) == 0 {
				t.Errorf("mount %d: %s: %q, %v", m, e.Name(), data, err)
			}
		}
	}
	worst := time.Duration(0)
	slowest.Range(func(_, v any) bool { worst = max(worst, v.(time.Duration)); return true })
	t.Logf("names in one directory by %d mounts: %.0f rounds/s, the slowest took %v", len(dirs), float64(n*len(dirs))/took.Seconds(), worst.Round(time.Millisecond))
	if worst > 10*time.Second && soak() == 0 {
		t.Errorf("one round took %v", worst)
	}
}
