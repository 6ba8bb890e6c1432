package crash

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// workload does operations one after the other on a mount, and keeps a log of them.
type workload struct {
	dir string // below a mount
	m   *model // as of all operations done

	log     []op // those that change something; the last may be under way
	done    int  // of log
	durable int  // so many of log were told to be durable
	by      op   // what told it
	failure error
	killed  atomic.Bool
}

// run goes on until an operation fails.
func (w *workload) run(r *rand.Rand, syncEvery int) {
	for !w.killed.Load() {
		o := w.m.generate(r, syncEvery)
		if o.kind == "sync" {
			if w.failure = harness.SyncPath(filepath.Join(w.dir, o.a)); w.failure != nil {
				return
			}
			w.promised(o, w.m.at(o.a).touched)
			continue
		}
		w.log = append(w.log, o)
		if w.failure = o.do(w.dir); w.failure != nil {
			w.failure = fmt.Errorf("%v: %w", o, w.failure)
			return
		}
		w.done++
		w.m.apply(o, w.done)
		if o.sync {
			w.promised(o, w.done)
		}
	}
}

// promised notes that the first n operations are durable, because o returned.
func (w *workload) promised(o op, n int) {
	if n > w.durable {
		w.durable, w.by = n, o
	}
}

// do makes the operation's system call.
func (o op) do(root string) error {
	a, b := filepath.Join(root, o.a), filepath.Join(root, o.b)
	switch o.kind {
	case "create":
		f, err := os.OpenFile(a, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fs.FileMode(o.mode))
		return closing(f, err)
	case "mkdir":
		return os.Mkdir(a, fs.FileMode(o.mode))
	case "symlink":
		return os.Symlink(o.b, a)
	case "write", "append":
		return o.write(a)
	case "truncate":
		return os.Truncate(a, o.size)
	case "punch":
		f, err := os.OpenFile(a, os.O_WRONLY, 0)
		if err == nil {
			err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.off, o.size)
		}
		return closing(f, err)
	case "chmod":
		return os.Chmod(a, fs.FileMode(o.mode))
	case "rename":
		return syscall.Rename(a, b) // os.Rename refuses a directory as target
	case "unlink":
		return syscall.Unlink(a)
	case "rmdir":
		return syscall.Rmdir(a)
	case "link":
		return os.Link(a, b)
	}
	return fmt.Errorf("no such operation: %v", o)
}

func (o op) write(path string) error {
	flags := os.O_WRONLY
	if o.sync {
		flags |= os.O_SYNC
	}
	if o.kind == "append" {
		flags |= os.O_APPEND
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	if o.kind == "append" {
		_, err = f.Write(o.bytes())
	} else {
		_, err = f.WriteAt(o.bytes(), o.off)
	}
	return closing(f, err)
}

// closing closes f, if there is one, and returns the first error.
func closing(f *os.File, err error) error {
	if f != nil {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	return err
}

// readState is model.state of a real directory.
func readState(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if rel == "." {
			rel = ""
		}
		all[rel], err = describePath(path)
		return err
	})
	if err != nil {
		t.Fatalf("reading %s after the restart: %v", root, err)
	}
	return all
}

func describePath(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		return describe("dir", st.Mode&0o7777, int(st.Nlink), 0, ""), nil
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		return describe("symlink", 0, int(st.Nlink), st.Size, target), err
	case syscall.S_IFREG:
		sum, err := harness.HashFile(path)
		return describe("file", st.Mode&0o7777, int(st.Nlink), st.Size, sum), err
	}
	return fmt.Sprintf("of type %o", st.Mode), nil
}

// explain finds how many of the logged operations the directory holds: the greatest prefix, no shorter than what was
// durable, that gives just its state. Of a long write a first part may be there.
// base is the model before the first operation.
func (w *workload) explain(t *testing.T, base *model) (*model, int) {
	t.Helper()
	got := readState(t, w.dir)
	m := base.clone()
	var found *model
	length, nearest, nearestAt := -1, []string(nil), 0
	for k := 0; ; k++ {
		diff := differences(m.state(), got, 1000)
		if len(diff) == 0 {
			found, length = m.clone(), k
		} else if nearest == nil || len(diff) <= len(nearest) {
			nearest, nearestAt = diff, k
		}
		if k == len(w.log) {
			break
		}
		if o := w.log[k]; (o.kind == "write" || o.kind == "append") && len(diff) > 0 {
			if part := m.partly(t, o, w.dir, k+1); part != nil && len(differences(part.state(), got, 1)) == 0 {
				found, length = part, k
				if !o.long() { // the kernel splits a write where it cannot take the next page of the caller's memory
					t.Logf("operation %d of %d is there in part, though it is short: %v", k+1, len(w.log), o)
				}
			}
		}
		m.apply(w.log[k], k+1)
	}
	if found == nil {
		t.Errorf("no prefix of the %d operations gives what is there (%d were done, %d durable); nearest is the one of %d, with differences:", len(w.log), w.done, w.durable, nearestAt)
		for _, line := range nearest[:min(len(nearest), 12)] {
			t.Log(line)
		}
		w.showContent(t, base, nearestAt)
		for i := max(0, nearestAt-4); i < min(nearestAt+4, len(w.log)); i++ {
			t.Logf("operation %d: %v", i+1, w.log[i])
		}
		t.FailNow()
	}
	if length < w.durable {
		again := readState(t, w.dir)
		t.Fatalf("only %d of %d operations are there, but %d were told to be durable by %v: that is %v; the first lost one is %v; a second look finds %d differences to the first: %v",
			length, w.done, w.durable, w.by, w.log[w.durable-1], w.log[length], len(differences(got, again, 1000)), differences(got, again, 5))
	}
	return found, length
}

// showContent tells where the files' content differs from that after the first n operations, and who wrote there.
func (w *workload) showContent(t *testing.T, base *model, n int) {
	t.Helper()
	m := base.clone()
	for k, o := range w.log[:n] {
		m.apply(o, k+1)
	}
	files, _, _ := m.paths()
	for _, p := range files {
		got, err := os.ReadFile(filepath.Join(w.dir, p))
		want := m.at(p).data
		if err != nil || bytes.Equal(got, want) {
			continue
		}
		for at := 0; at < max(len(got), len(want)); at += 4096 {
			g, e := got[min(at, len(got)):min(at+4096, len(got))], want[min(at, len(want)):min(at+4096, len(want))]
			if !bytes.Equal(g, e) {
				first := 0
				for first < min(len(g), len(e)) && g[first] == e[first] {
					first++
				}
				t.Logf("%s: block at %d differs from byte %d on; all zeros: found %t, want %t", p, at, first, len(bytes.Trim(g, "\x00")) == 0, len(bytes.Trim(e, "\x00")) == 0)
			}
		}
		for k, o := range w.log {
			if o.a == p || o.b == p {
				t.Logf("operation %d: %v", k+1, o)
			}
		}
	}
}

// partly is m with that part of a long write which the real file holds; nil if it does not look so.
func (m *model) partly(t *testing.T, o op, root string, nth int) *model {
	t.Helper()
	n := m.at(o.a)
	got, err := os.ReadFile(filepath.Join(root, o.a))
	if n == nil || err != nil {
		return nil
	}
	off := o.off
	if o.kind == "append" {
		off = int64(len(n.data))
	}
	data := o.bytes()
	size := 0
	if int64(len(got)) > off {
		for size < len(data) && off+int64(size) < int64(len(got)) && got[off+int64(size)] == data[size] {
			size++
		}
	}
	c := m.clone()
	part := c.at(o.a)
	if size == 0 || size == len(data) { // none, or all
		return nil
	}
	if !o.long() && (off+int64(size))%4096 != 0 {
		return nil
	}
	part.put(off, data[:size])
	if !bytes.Equal(part.data, got) {
		return nil
	}
	part.touched = nth
	return c
}
