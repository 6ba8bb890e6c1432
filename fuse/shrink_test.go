package fuse

import (
	"bytes"
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/fs"
)

// shrinkingFS is fakeFS with one open file, which becomes shorter while a READ of it waits.
type shrinkingFS struct {
	fakeFS
	reads   atomic.Int64
	reading chan struct{} // a READ has come
	free    chan struct{} // and may be answered
}

func (f *shrinkingFS) Open(context.Context, *fs.Caller, fs.Ino, uint32) (fs.Handle, fs.OpenInfo, error) {
	return 1, fs.OpenInfo{}, nil
}
func (f *shrinkingFS) Flush(context.Context, fs.Handle, uint64) error { return nil }
func (f *shrinkingFS) Release(context.Context, fs.Handle) error       { return nil }

func (f *shrinkingFS) Read(_ context.Context, _ fs.Handle, p []byte, off uint64) (int, error) {
	if f.reads.Add(1) == 1 {
		close(f.reading)
		<-f.free
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if off >= f.version {
		return 0, nil
	}
	return copy(p, bytes.Repeat([]byte("x"), int(f.version-off))), nil
}

// TestShrunkWhileReading: where a file became shorter, and its attributes were dropped, while a READ of it was under way, its reader is not shown the new
// content up to the old size. The kernel learns of a shorter file from an answer only if nothing was dropped since the question.
func TestShrunkWhileReading(t *testing.T) {
	for name, read := range map[string]func(fd int) (string, error){
		"read": readFirst,
		"read at random": func(fd int) (string, error) {
			if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil {
				return "", err
			}
			return readFirst(fd)
		},
	} {
		t.Run(name, func(t *testing.T) { testShrunkWhileReading(t, read) })
	}
}

func readFirst(fd int) (string, error) {
	b := make([]byte, 20)
	n, err := unix.Pread(fd, b, 0)
	return string(b[:max(n, 0)]), err
}

func testShrunkWhileReading(t *testing.T, read func(fd int) (string, error)) {
	f := &shrinkingFS{reading: make(chan struct{}), free: make(chan struct{})}
	f.version = 15000
	m := mountFakeWith(t, f, Options{})
	path := filepath.Join(m.Dir(), "7")
	lstat(t, path)
	fd, err := unix.Open(path, unix.O_RDONLY, 0) // os.Open would poll it in this very process, and wait for itself
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var got string
	done := make(chan struct{})
	go func() {
		defer close(done)
		got, err = read(fd)
	}()
	<-f.reading
	m.conn.DropAttr(1007)
	f.mu.Lock()
	f.version = 3
	f.mu.Unlock()
	close(f.free)
	<-done
	if got != "xxx" || err != nil {
		t.Errorf("%q, %v after %d READs; want what the file has", got, err, f.reads.Load())
	}
}
