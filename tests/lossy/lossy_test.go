package lossy

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newDisk(t *testing.T) (d *Disk, dir string) {
	t.Helper()
	dir = t.TempDir()
	d, err := New(dir, t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	return d, dir
}

// TestLoss: what was synced is there after a loss of power, what was not may be gone or torn, and sometimes is.
func TestLoss(t *testing.T) {
	d, dir := newDisk(t)
	r := rand.New(rand.NewPCG(1, 2))
	a, b := bytes.Repeat([]byte("a"), 3*blockSize), bytes.Repeat([]byte("b"), 3*blockSize)
	var gone, torn, stayed, renamed int
	for i := range 40 {
		path := filepath.Join(dir, "f")
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644)
		must(t, err)
		_, err = f.Write(a)
		must(t, err)
		must(t, f.Sync())
		s, err := os.OpenFile(path, os.O_WRONLY|syscall.O_DSYNC, 0)
		must(t, err)
		_, err = s.WriteAt(b[:blockSize], 0) // is synced
		must(t, err)
		must(t, s.Close())
		_, err = f.WriteAt(b[blockSize:], blockSize) // is not
		must(t, err)
		must(t, f.Close())
		must(t, os.Rename(path, path+"2"))
		if i%2 == 0 {
			must(t, syncDir(dir))
		}
		d.PowerOff()
		if _, err := os.ReadFile(path + "2"); !errors.Is(err, syscall.EIO) {
			t.Fatalf("reading without power: %v", err)
		}
		must(t, d.PowerOn(r))
		if _, err := os.Stat(path); err == nil {
			if i%2 == 0 {
				t.Fatal("a name that was synced is gone")
			}
			renamed++
			must(t, os.Rename(path, path+"2"))
		}
		got, err := os.ReadFile(path + "2")
		must(t, err)
		if len(got) != len(a) || !bytes.Equal(got[:blockSize], b[:blockSize]) {
			t.Fatalf("what was synced is lost: %d bytes, %q", len(got), got[:10])
		}
		switch rest := got[blockSize:]; {
		case bytes.Equal(rest, a[blockSize:]):
			gone++
		case bytes.Equal(rest, b[blockSize:]):
			stayed++
		default:
			torn++
			for at := 0; at < len(rest); at += sectorSize {
				if s := rest[at : at+sectorSize]; !bytes.Equal(s, a[:sectorSize]) && !bytes.Equal(s, b[:sectorSize]) {
					t.Fatal("a sector is torn")
				}
			}
		}
		must(t, os.Remove(path+"2"))
		must(t, syncDir(dir))
	}
	if gone == 0 || torn == 0 || renamed == 0 {
		t.Errorf("lost %d times, torn %d times, kept %d times, names undone %d times", gone, torn, stayed, renamed)
	}
}

// TestSizesAndNames: a file's end and files that were removed come back, unless that is durable.
func TestSizesAndNames(t *testing.T) {
	d, dir := newDisk(t)
	r := rand.New(rand.NewPCG(3, 4))
	content := bytes.Repeat([]byte("x"), 10000)
	for i := range 40 {
		path := filepath.Join(dir, "g")
		must(t, os.WriteFile(path, content, 0o644))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Truncate(5000))
		must(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
		if i%2 == 0 {
			must(t, f.Sync())
		}
		must(t, f.Close())
		must(t, syncDir(dir))
		must(t, os.Remove(path))
		d.PowerOff()
		must(t, d.PowerOn(r))
		got, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue
		}
		must(t, err)
		want := append(make([]byte, 4096), content[4096:5000]...)
		if i%2 == 0 && !bytes.Equal(got, want) {
			t.Fatalf("what was cut and punched came back: %d bytes", len(got))
		}
		if len(got) != 5000 && len(got) != 10000 {
			t.Fatalf("%d bytes", len(got))
		}
		must(t, os.Remove(path))
	}
}

// TestFail: a failing disk fails writes and syncs, and nothing is written.
func TestFail(t *testing.T) {
	d, dir := newDisk(t)
	path := filepath.Join(dir, "h")
	must(t, os.WriteFile(path, []byte("before"), 0o644))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	d.Fail(true)
	if _, err := f.WriteAt([]byte("after!"), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write: %v", err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync: %v", err)
	}
	if err := os.Mkdir(path+"-dir", 0o755); !errors.Is(err, syscall.EIO) {
		t.Errorf("a directory: %v", err)
	}
	d.Fail(false)
	must(t, f.Sync())
	must(t, f.Close())
	if got, err := os.ReadFile(path); err != nil || string(got) != "before" {
		t.Errorf("%q, %v", got, err)
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
