package conformance

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// fileSizeMax is the size of the largest file, in bytes.
const fileSizeMax = 1 << 60

// TestSparse uses files of up to the greatest size: whatever is done to one costs what its data costs, not what its size is.
func TestSparse(t *testing.T) {
	m := harness.Start(t, harness.Options{}).Mount()
	name := m.Path("sparse")
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	step := func(what string, want error, f func() error) {
		t.Helper()
		start := time.Now()
		if err := f(); err != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("%s took %v", what, d)
		}
	}
	put := func(off int64) func() error {
		return func() error { _, err := unix.Pwrite(fd, []byte("data"), off); return err }
	}
	seek := func(what string, off int64, whence int, want int64) {
		t.Helper()
		step(what, nil, func() error {
			got, err := unix.Seek(fd, off, whence)
			if err == nil && got != want {
				t.Errorf("%s from %d: %d, want %d", what, off, got, want)
			}
			return err
		})
	}
	const far, mid = fileSizeMax - 4096, 1 << 45
	step("last bytes", nil, put(fileSizeMax-4))
	step("middle", nil, put(mid))
	step("too far", unix.EFBIG, put(fileSizeMax))
	step("too far to grow", unix.EFBIG, func() error { return unix.Ftruncate(fd, fileSizeMax+1) })
	step("too far to allocate", unix.EFBIG, func() error { return unix.Fallocate(fd, 0, fileSizeMax, 4096) })
	step("fsync", nil, func() error { return unix.Fsync(fd) })
	for _, state := range []string{"cached", "mounted again"} {
		seek(state+": data", 0, unix.SEEK_DATA, mid)
		seek(state+": hole", mid, unix.SEEK_HOLE, mid+4096)
		seek(state+": data behind it", mid+4096, unix.SEEK_DATA, far)
		seek(state+": hole at the end", far, unix.SEEK_HOLE, fileSizeMax)
		var b [8]byte
		if n, err := unix.Pread(fd, b[:], mid-2); err != nil || string(b[:n]) != "\x00\x00data\x00\x00" {
			t.Errorf("%s: read %q, %v", state, b[:n], err)
		}
		if state == "cached" {
			unix.Close(fd)
			m.Unmount()
			m.Start()
			if fd, err = unix.Open(name, unix.O_RDWR, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != fileSizeMax || st.Blocks > 64 {
		t.Errorf("size %d, %d sectors, %v", st.Size, st.Blocks, err)
	}
	step("more than there is", unix.ENOSPC, func() error { return unix.Fallocate(fd, 0, 0, 1<<50) })
	step("zeros, more than there is", unix.ENOSPC, func() error { return unix.Fallocate(fd, 0x10, 0, 1<<50) })
	step("punch all but the end", nil, func() error { return unix.Fallocate(fd, 3, 0, fileSizeMax-8192) })
	seek("what is left", 0, unix.SEEK_DATA, far)
	step("truncate to a quarter", nil, func() error { return unix.Ftruncate(fd, fileSizeMax/4) })
	step("no data", unix.ENXIO, func() error { _, err := unix.Seek(fd, 0, unix.SEEK_DATA); return err })
	step("data again", nil, put(mid))
	step("truncate to nothing", nil, func() error { return unix.Ftruncate(fd, 0) })
	used := func() uint64 {
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil {
			t.Error(err)
		}
		return st.Blocks - st.Bfree
	}
	m.Sync()
	before := used()
	step("allocate 512 MiB", nil, func() error { return unix.Fallocate(fd, 0, 0, 512<<20) })
	step("fsync", nil, func() error { return unix.Fsync(fd) })
	if after := used(); after != before+512<<20/4096 {
		t.Errorf("statfs tells of %d blocks in use, %d before 512 MiB were allocated", after, before)
	}
	step("and unlink", nil, func() error { return unix.Unlink(name) })
	m.Sync()
}
