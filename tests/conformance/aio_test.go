package conformance

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// iocb and ioEvent are those of Linux's aio_abi.h, on a little-endian machine.
type iocb struct {
	_      uint64 // data
	_, _   uint32 // key, flags
	opcode uint16
	_      int16 // priority
	fd     uint32
	buf    uint64
	length uint64
	offset int64
	_      uint64
	_, _   uint32
}

type ioEvent struct {
	data, obj uint64
	res, res2 int64
}

// aio is a context of asynchronous I/O, with one operation at a time.
type aio struct{ ctx uintptr }

func newAIO(t *testing.T) *aio {
	a := &aio{}
	if _, _, no := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&a.ctx)), 0); no != 0 {
		t.Skipf("io_setup: %v", no)
	}
	t.Cleanup(func() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, a.ctx, 0, 0) })
	return a
}

// write writes buf, which the garbage collector must not know, and waits until that is done.
func (a *aio) write(fd int, buf []byte, off int64) (int64, error) {
	const pwrite = 1
	cb := &iocb{opcode: pwrite, fd: uint32(fd), buf: uint64(uintptr(unsafe.Pointer(&buf[0]))), length: uint64(len(buf)), offset: off}
	list := [1]*iocb{cb}
	if _, _, no := unix.Syscall(unix.SYS_IO_SUBMIT, a.ctx, 1, uintptr(unsafe.Pointer(&list))); no != 0 {
		return 0, no
	}
	var ev ioEvent
	for {
		_, _, no := unix.Syscall6(unix.SYS_IO_GETEVENTS, a.ctx, 1, 1, uintptr(unsafe.Pointer(&ev)), 0, 0)
		if no == 0 {
			break
		} else if no != unix.EINTR {
			return 0, no
		}
	}
	if ev.res < 0 {
		return 0, unix.Errno(-ev.res)
	}
	return ev.res, nil
}

// TestAsyncDirectWrites writes a file anew with asynchronous direct writes while others read it through the page cache. What is read after such
// a write was done is what it has written: the kernel drops pages before it, and none behind it.
func TestAsyncDirectWrites(t *testing.T) {
	m := harness.Start(t, harness.Options{}).Mount()
	for _, c := range []struct {
		name  string
		flags int
		later int // set by fcntl
	}{{"opened", unix.O_DIRECT, 0}, {"set", 0, unix.O_DIRECT}} {
		t.Run(c.name, func(t *testing.T) { asyncDirectWrites(t, m.Path(c.name), c.flags, c.later) })
	}
}

func asyncDirectWrites(t *testing.T, path string, flags, later int) {
	const size = 640 << 10
	open := func(flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	buf, ctx := aligned(size), newAIO(t)
	d := open(unix.O_RDWR | unix.O_CREAT | flags)
	if n, err := unix.Pwrite(d, buf, 0); n != size {
		t.Fatal(n, err)
	}
	if _, err := unix.FcntlInt(uintptr(d), unix.F_SETFL, flags|later); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop.Store(true)
	for range 2 {
		r := open(unix.O_RDONLY)
		wg.Go(func() {
			for got := make([]byte, 32<<10); !stop.Load(); {
				for off := int64(0); off < size; off += int64(len(got)) {
					_, _ = unix.Pread(r, got, off)
				}
			}
		})
	}
	r, got, rounds := open(unix.O_RDONLY), make([]byte, size), 0
	for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); rounds++ {
		want := byte(1 + rounds%250)
		for i := range buf {
			buf[i] = want
		}
		if n, err := ctx.write(d, buf, 0); n != size {
			t.Fatal(n, err)
		}
		if n, err := unix.Pread(r, got, 0); n != size {
			t.Fatal(n, err)
		}
		for i, b := range got {
			if b != want {
				t.Fatalf("round %d: byte %d is %d after a direct write of %d", rounds, i, b, want)
			}
		}
	}
	t.Log(rounds, "rounds")
}
