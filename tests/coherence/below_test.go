package coherence

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// below is a directory of a mount with something mounted on a directory and on a file in it.
type below struct {
	t           *testing.T
	here, there string // the directory, through the mount that has it, and through another
	point, file string // what is mounted on
	deep        string // and further down
}

// mountBelow mounts a tmpfs on two directories and a file of it on a file.
func mountBelow(t *testing.T, here, there string) *below {
	t.Helper()
	w := &below{t: t, here: here, there: there, point: filepath.Join(here, "point"), file: filepath.Join(here, "file")}
	w.deep = filepath.Join(here, "above", "deep")
	must(t, os.MkdirAll(w.point, 0o777))
	must(t, os.MkdirAll(w.deep, 0o777))
	must(t, os.WriteFile(w.file, []byte("below"), 0o666))
	must(t, unix.Mount("tmpfs", w.point, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = unix.Unmount(w.point, unix.MNT_DETACH) })
	must(t, os.WriteFile(filepath.Join(w.point, "kept"), []byte("kept"), 0o666))
	must(t, unix.Mount(filepath.Join(w.point, "kept"), w.file, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(w.file, unix.MNT_DETACH) })
	must(t, unix.Mount(w.point, w.deep, "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(w.deep, unix.MNT_DETACH) })
	return w
}

// check looks that all are where they were put.
func (w *below) check(when string) {
	w.t.Helper()
	for _, path := range []string{w.file, filepath.Join(w.point, "kept"), filepath.Join(w.deep, "kept")} {
		if data, err := os.ReadFile(path); err != nil || string(data) != "kept" {
			w.t.Fatalf("%s, %s reads %q, %v: what was mounted there is gone", when, path, data, err)
		}
	}
	if !harness.Mounted(w.point) || !harness.Mounted(w.file) || !harness.Mounted(w.deep) {
		w.t.Fatalf("%s, what was mounted is gone", when)
	}
}

// change has the other mount change the directory, and what is mounted on.
func (w *below) change(n int) {
	w.t.Helper()
	for _, name := range []string{"point/f", "f"} {
		must(w.t, os.WriteFile(filepath.Join(w.there, fmt.Sprint(name, n)), nil, 0o666))
	}
	must(w.t, os.WriteFile(filepath.Join(w.there, "file"), fmt.Appendf(nil, "below %d", n), 0o666))
	must(w.t, os.Chmod(filepath.Join(w.there, "file"), 0o600|os.FileMode(n%8)))
	must(w.t, os.Chmod(filepath.Join(w.there, "point"), 0o700|os.FileMode(n%8)))
	must(w.t, os.Rename(filepath.Join(w.there, fmt.Sprint("f", n)), filepath.Join(w.there, "moved")))
}

// replace tries to rename over what is mounted on, as the other mount changes the old names: the answer is a local file system's.
func (w *below) replace(n int) {
	w.t.Helper()
	for name, want := range map[string]error{"point": syscall.EBUSY, "file": syscall.EBUSY, "above": syscall.ENOTEMPTY} {
		from := filepath.Join(w.here, "old-"+name)
		theirs := filepath.Join(w.there, "old-"+name)
		if name != "file" {
			must(w.t, os.Mkdir(theirs, 0o777))
		} else {
			must(w.t, os.WriteFile(theirs, nil, 0o666))
		}
		if err := unix.Rename(from, filepath.Join(w.here, name)); err != want {
			w.t.Errorf("round %d: a rename over %s, on which or below which something is mounted: %v, want %v", n, name, err, want)
		}
		w.check(fmt.Sprint("after a rename over ", name))
		must(w.t, os.Remove(theirs))
	}
}

// testMountBelow has something mounted on a directory and on a file inside: it stays, whatever others do around it.
func testMountBelow(t *testing.T, dirs []string) {
	must(t, os.Mkdir(filepath.Join(dirs[0], "d"), 0o777))
	w := mountBelow(t, filepath.Join(dirs[0], "d"), filepath.Join(dirs[1], "d"))
	for n := range 30 {
		w.change(n)
		must(t, os.WriteFile(filepath.Join(dirs[1], fmt.Sprint("f", n)), nil, 0o666))
		w.check(fmt.Sprint("round ", n))
	}
	for n := range 10 {
		w.replace(n)
	}
}

// TestMountBelowFaults has something mounted inside a mount that is stopped for longer than its lease, and that then finds no majority: its calls
// may fail, but what is mounted stays.
func TestMountBelowFaults(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	a := c.Mount("--lease", pausedLease.String(), "--quorum-wait", "2s")
	b := c.Mount("--lease", pausedLease.String())
	must(t, os.Mkdir(a.Path("d"), 0o777))
	w := mountBelow(t, a.Path("d"), b.Path("d"))
	a.Sync()
	w.check("at first")
	a.Process().Signal(syscall.SIGSTOP)
	t.Cleanup(func() { a.Process().Signal(syscall.SIGCONT) })
	w.change(0)
	time.Sleep(2 * pausedLease)
	w.change(1)
	a.Process().Signal(syscall.SIGCONT)
	w.check("after the session was lost")
	w.change(2)
	w.check("with a new session")
	w.replace(0)

	c.Nodes[0].Kill()
	c.Nodes[1].Kill()
	failed := map[string]bool{}
	harness.Eventually(t, time.Minute, "errors without a majority", func() bool {
		for _, path := range []string{w.point, w.file, w.deep} {
			if err := unix.Stat(path, new(unix.Stat_t)); err != nil {
				failed[path] = true
			}
		}
		return len(failed) == 3
	})
	c.Nodes[0].Start()
	c.Nodes[1].Start()
	c.WaitReady()
	harness.Eventually(t, time.Minute, "an answer with a majority", func() bool {
		return unix.Stat(w.file, new(unix.Stat_t)) == nil
	})
	w.check("without a majority, and after that")
	must(t, unix.Unmount(w.deep, 0))
	must(t, unix.Unmount(w.file, 0))
	must(t, unix.Unmount(w.point, 0))
	a.Unmount()
	b.Unmount()
	c.Check()
}
