package coherence

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/check"
	"dfs/tests/harness"
)

// TestRaces has tasks on two mounts make, move, exchange and remove the same few names of files and directories at the same time, and looks for
// an order of all they did that explains every answer, as a local file system would have given it.
func TestRaces(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	w := &world{}
	for range 2 {
		m := c.Mount()
		w.mounts, w.dirs = append(w.mounts, m), append(w.dirs, m.Dir)
	}
	w.run(t, "races", 3*time.Minute, testRaces)
	for _, m := range w.mounts {
		m.Unmount()
	}
	c.Check()
}

const (
	racers    = 2 // tasks on each mount
	raceSteps = 24
)

func testRaces(t *testing.T, dirs []string) {
	defer unix.Umask(unix.Umask(0))
	seed := int64(1)
	if s, err := strconv.ParseInt(os.Getenv("DFS_SEED"), 10, 64); err == nil {
		seed = s
	}
	limit := 6 * time.Second
	if soak() > 0 {
		limit = soak()
	}
	began, n, ops, wrong := time.Now(), 0, 0, 0
	for ; time.Since(began) < limit && wrong < 20; n++ {
		r := &race{seed: seed + int64(n), key: fmt.Sprint("r", n)}
		got := r.run(t, dirs)
		ops += got.Operations
		if got.Violation != "" {
			wrong++
			t.Errorf("seed %d: %s", r.seed, got.Violation)
		}
	}
	t.Logf("%d rounds, %d operations, %d rounds wrong", n, ops, wrong)
}

// race is one round, in a directory of its own.
type race struct {
	seed int64
	key  string
	h    check.History
	dirs []string
}

func (r *race) run(t *testing.T, dirs []string) check.Result {
	must(t, os.Mkdir(filepath.Join(dirs[0], r.key), 0o777))
	for _, d := range dirs {
		r.dirs = append(r.dirs, filepath.Join(d, r.key))
	}
	var wg sync.WaitGroup
	for i := range racers * len(dirs) {
		wg.Go(func() {
			rnd := rand.New(rand.NewSource(r.seed<<8 + int64(i)))
			for step := range raceSteps {
				r.step(rnd, i, 1+i*raceSteps+step)
			}
		})
	}
	wg.Wait()
	r.settled(t)
	return r.h.Check(check.Entries(), 20*time.Second)
}

var raceKinds = []check.Kind{check.MakeFile, check.MakeDir, check.RemoveFile, check.RemoveDir, check.Move, check.Move, check.MoveNew, check.MoveNew, check.Exchange, check.Look}

// step does one operation. What it makes is numbered by its mode, so that one stat tells it.
func (r *race) step(rnd *rand.Rand, client, number int) {
	names := [3]string{"a", "b", "c"}
	from := rnd.Intn(3)
	in := check.Input{Kind: raceKinds[rnd.Intn(len(raceKinds))], Key: r.key, To: names[(from+1+rnd.Intn(2))%3], Value: uint64(number)}
	switch in.Kind {
	case check.MakeDir:
		in.Value |= check.DirBit
	case check.Move, check.MoveNew, check.Exchange:
		in.Text = names[from]
	}
	r.do(client, in)
}

func (r *race) do(client int, in check.Input) {
	dir := r.dirs[client%len(r.dirs)]
	from, to := filepath.Join(dir, in.Text), filepath.Join(dir, in.To)
	o := r.h.Begin(client, in)
	var out check.Output
	var err error
	switch in.Kind {
	case check.MakeFile:
		err = unix.Mknod(to, unix.S_IFREG|uint32(in.Value), 0)
	case check.MakeDir:
		err = unix.Mkdir(to, uint32(in.Value))
	case check.RemoveFile:
		err = unix.Unlink(to)
	case check.RemoveDir:
		err = unix.Rmdir(to)
	case check.Move:
		err = unix.Rename(from, to)
	case check.MoveNew:
		err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	case check.Exchange:
		err = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	case check.Look:
		var st unix.Stat_t
		if err = unix.Lstat(to, &st); err == nil { // the links may be 0 where it is removed meanwhile
			if out.Value = uint64(st.Mode & 0o777); st.Mode&unix.S_IFMT == unix.S_IFDIR {
				out.Value |= check.DirBit
			}
		}
	}
	if err != nil {
		out.Text = unix.ErrnoName(err.(unix.Errno))
	}
	o.Done(out)
}

// settled looks at what is left through each mount: the same, and a directory is one in which something can be made.
func (r *race) settled(t *testing.T) {
	for i := range r.dirs {
		for _, name := range [3]string{"a", "b", "c"} {
			r.do(i, check.Input{Kind: check.Look, Key: r.key, To: name})
			path := filepath.Join(r.dirs[i], name)
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				continue
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				if st.Nlink != 1 {
					t.Errorf("seed %d: %s has %d links", r.seed, path, st.Nlink)
				}
				continue
			}
			inside := filepath.Join(path, "inside")
			if err := unix.Mknod(inside, unix.S_IFREG|0o600, 0); err != nil {
				t.Errorf("seed %d: making %s in a directory that is there: %v", r.seed, inside, err)
			} else if err := unix.Unlink(inside); err != nil {
				t.Errorf("seed %d: %v", r.seed, err)
			}
		}
	}
}
