package coherence

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fsxSizeMax is how large the file of the fsx check gets.
const fsxSizeMax = 64 << 10

// fsxRuns are random operations on files, each file through two mounts in turn, against a model in memory: the mount changes at
// each operation of a first run, seldom in a second.
type fsxRuns struct{ changing, staying int }

// asked returns the runs of the short form, of the long one, or of as many operations as DFS_FSX_OPS says.
func (f fsxRuns) asked() fsxRuns {
	var all int
	if _, err := fmt.Sscan(os.Getenv("DFS_FSX_OPS"), &all); err == nil {
		return fsxRuns{all / 20, all - all/20}
	}
	return fsxRuns{rounds(f.changing, 50_000), rounds(f.staying, 950_000)}
}

// limit is how long they may take.
func (f fsxRuns) limit() time.Duration {
	return 3*time.Minute + time.Duration(f.changing+f.staying)*20*time.Millisecond
}

// test does the runs, each on two mounts that it draws.
func (f fsxRuns) test(t *testing.T, dirs []string) {
	r := rand.New(rand.NewSource(drawnSeed(t)))
	for _, run := range []struct{ ops, stay int }{{f.changing, 1}, {f.staying, 60}} {
		x := &fsx{t: t, r: r, stay: run.stay, name: fmt.Sprintf("fsx%d", run.stay)}
		for _, m := range r.Perm(len(dirs))[:2] {
			x.places = append(x.places, &fsxPlace{mount: m, path: filepath.Join(dirs[m], x.name)})
		}
		for _, p := range x.places {
			must(t, p.open())
		}
		began := time.Now()
		for i := 0; i < run.ops && !t.Failed(); i++ {
			x.step(i)
		}
		t.Logf("%d operations, %.0f/s, a change between mounts %d and %d every %d", run.ops, float64(run.ops)/time.Since(began).Seconds(),
			x.places[0].mount, x.places[1].mount, run.stay)
		for m, dir := range dirs {
			x.compare(m, filepath.Join(dir, x.name))
		}
		for _, p := range x.places {
			must(t, p.close())
		}
	}
}

// fsxPlace is the file as one mount has it open.
type fsxPlace struct {
	mount      int
	path       string
	fd, append int
	mapping    []byte
}

func (p *fsxPlace) open() (err error) {
	if p.fd, err = unix.Open(p.path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o666); err != nil {
		return err
	}
	if p.append, err = unix.Open(p.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	p.mapping, err = unix.Mmap(p.fd, 0, fsxSizeMax, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return err
}

func (p *fsxPlace) close() error {
	if err := unix.Munmap(p.mapping); err != nil {
		return err
	}
	if err := unix.Close(p.append); err != nil {
		return err
	}
	return unix.Close(p.fd)
}

type fsx struct {
	t      *testing.T
	r      *rand.Rand
	name   string
	places []*fsxPlace
	model  []byte
	stay   int
	log    []string
}

// fsxOp is an operation on n bytes at off; what it writes is data.
type fsxOp struct {
	name string
	do   func(x *fsx, p *fsxPlace, off int, data []byte) error
}

var fsxOps = []fsxOp{
	{"write", fsxWrite}, {"write", fsxWrite}, {"write", fsxWrite},
	{"append", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		data = data[:min(len(data), fsxSizeMax-len(x.model))]
		x.put(len(x.model), data)
		return wrote(unix.Pwrite(p.append, data, int64(off)))(len(data))
	}},
	{"truncate", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		x.resize(off)
		return unix.Ftruncate(p.fd, int64(off))
	}},
	{"punch", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		clear(x.within(off, len(data)))
		return unix.Fallocate(p.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(len(data)))
	}},
	{"allocate", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		x.resize(max(len(x.model), off+len(data)))
		return unix.Fallocate(p.fd, 0, int64(off), int64(len(data)))
	}},
	{"zero range", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		x.put(off, make([]byte, len(data)))
		return unix.Fallocate(p.fd, unix.FALLOC_FL_ZERO_RANGE, int64(off), int64(len(data)))
	}},
	{"copy", fsxCopy},
	{"reopen", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		if err := p.close(); err != nil {
			return err
		}
		return p.open()
	}},
	{"mapped write", func(x *fsx, p *fsxPlace, off int, data []byte) error {
		old := x.within(off, len(data))
		if len(old) == 0 {
			return nil
		}
		p.know()
		copy(p.mapping[off:], data[:len(old)])
		copy(old, data)
		if x.r.Intn(2) == 0 {
			return unix.Msync(p.mapping, unix.MS_SYNC)
		}
		return nil
	}},
	{"mapped read", fsxMappedRead}, {"mapped read", fsxMappedRead},
	{"read", fsxRead}, {"read", fsxRead}, {"read", fsxRead},
}

func fsxWrite(x *fsx, p *fsxPlace, off int, data []byte) error {
	x.put(off, data)
	return wrote(unix.Pwrite(p.fd, data, int64(off)))(len(data))
}

// fsxCopy copies what is at off to where it does not overlap.
func fsxCopy(x *fsx, p *fsxPlace, off int, data []byte) error {
	from := x.within(off, len(data))
	to := x.r.Intn(fsxSizeMax)
	from = from[:min(len(from), fsxSizeMax-to)]
	if len(from) == 0 || to < off+len(from) && off < to+len(from) {
		return nil
	}
	from = bytes.Clone(from)
	x.put(to, from)
	p.know()
	in, out := int64(off), int64(to)
	for left := len(from); left > 0; {
		n, err := unix.CopyFileRange(p.fd, &in, p.fd, &out, left, 0)
		if err == nil && n == 0 {
			err = fmt.Errorf("%d bytes were not copied", left)
		}
		if err != nil {
			return err
		}
		left -= n
	}
	return nil
}

func fsxMappedRead(x *fsx, p *fsxPlace, off int, data []byte) error {
	want := x.within(off, len(data))
	if len(want) == 0 {
		return nil
	}
	p.know()
	return differ(off, p.mapping[off:off+len(want)], want)
}

func fsxRead(x *fsx, p *fsxPlace, off int, data []byte) error {
	n, err := unix.Pread(p.fd, data, int64(off))
	if err != nil {
		return err
	}
	return differ(off, data[:n], x.within(off, len(data)))
}

// know tells the kernel the size: it asks nobody when a mapping is used, or copied, beyond the size that it knows.
func (p *fsxPlace) know() { _ = unix.Fstat(p.fd, new(unix.Stat_t)) }

// wrote is the error of a write that returned n and err and had to write all.
func wrote(n int, err error) func(all int) error {
	return func(all int) error {
		if err == nil && n != all {
			err = fmt.Errorf("wrote %d of %d bytes", n, all)
		}
		return err
	}
}

// differ is an error where got, read at off, is not what it must be.
func differ(off int, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("got %d bytes, want %d; they differ first at %d: got % x want % x", len(got), len(want), off+at,
		got[at:min(len(got), at+8)], want[at:min(len(want), at+8)])
}

func (x *fsx) step(i int) {
	p := x.places[i/x.stay%len(x.places)]
	off := x.r.Intn(fsxSizeMax)
	data := make([]byte, min(1+x.r.Intn(9000), fsxSizeMax-off))
	for j := range data {
		data[j] = byte(i + j*7)
	}
	op := fsxOps[x.r.Intn(len(fsxOps))]
	what := fmt.Sprintf("%d through mount %d: %s at %d, %d bytes, size before %d", i, p.mount, op.name, off, len(data), len(x.model))
	if err := op.do(x, p, off, data); err != nil {
		x.t.Errorf("%s: operation %s: %v", x.name, what, err)
		for _, line := range x.log {
			x.t.Log(line)
		}
	}
	x.log = append(x.log[max(0, len(x.log)-29):], what)
}

// compare looks at the whole file, opened anew through a mount.
func (x *fsx) compare(mount int, path string) {
	got, err := os.ReadFile(path)
	if err == nil {
		err = differ(0, got, x.model)
	}
	if err != nil {
		x.t.Errorf("%s, read at the end through mount %d: %v", x.name, mount, err)
	}
}

// within is what the file holds of n bytes at off.
func (x *fsx) within(off, n int) []byte {
	return x.model[min(off, len(x.model)):min(off+n, len(x.model))]
}

func (x *fsx) put(off int, data []byte) {
	x.resize(max(len(x.model), off+len(data)))
	copy(x.model[off:], data)
}

func (x *fsx) resize(n int) {
	if n <= len(x.model) {
		x.model = x.model[:n:n]
		return
	}
	x.model = append(x.model, make([]byte, n-len(x.model))...)
}
