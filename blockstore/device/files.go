package device

import (
	stderrors "errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"dfs/internal/errors"
)

// hostFile is a file of the set with what the device remembers of it.
type hostFile struct {
	file
	name string
	// dirty: written since the last sync began. Set after the write, so that a sync that
	// began before the write's end does not take the mark away.
	dirty atomic.Bool
	size  int64 // guarded by fileSet.mu
}

func (f *hostFile) writeAt(bufs [][]byte, off int64) error {
	err := f.file.writeAt(bufs, off)
	f.dirty.Store(true)
	return err
}

func (f *hostFile) writeLong(p []byte, off int64) error {
	err := f.file.writeLong(p, off)
	f.dirty.Store(true)
	return err
}

func (f *hostFile) punch(off, n int64) error {
	err := f.file.punch(off, n)
	f.dirty.Store(true)
	return err
}

// zeroPunchMin: longer runs are zeroed by punching, shorter ones by writing zeros.
const zeroPunchMin = 64 << 10

// zero makes [off, off+n) zeros.
func (f *hostFile) zero(off, n int64) error {
	if n >= zeroPunchMin {
		return f.punch(off, n)
	}
	return f.writeAt([][]byte{make([]byte, n)}, off)
}

// pair is a data file and its checksum file.
type pair struct{ data, sum *hostFile }

// fileSet is the data and checksum files: small.0000.data, small.0000.sum, …
// A file is created when the first window in it is given out.
type fileSet struct {
	vol   volume
	mu    sync.RWMutex
	pairs [classes][]pair
}

func fileName(c class, n int, kind string) string { return fmt.Sprintf("%s.%04d.%s", c, n, kind) }

// openAll opens the files that are there.
func (s *fileSet) openAll() error {
	for c := range classes {
		for {
			p, err := s.openPair(c, len(s.pairs[c]), false)
			if stderrors.Is(err, os.ErrNotExist) {
				break
			}
			if err != nil {
				return err
			}
			s.pairs[c] = append(s.pairs[c], p)
		}
	}
	return nil
}

func (s *fileSet) openPair(c class, n int, create bool) (p pair, err error) {
	open := func(kind string) (*hostFile, error) {
		name := fileName(c, n, kind)
		f, err := s.vol.open(name, create)
		if err != nil {
			return nil, err
		}
		size, err := f.size()
		if err != nil {
			return nil, stderrors.Join(err, f.close())
		}
		return &hostFile{file: f, name: name, size: size}, nil
	}
	if p.data, err = open("data"); err != nil {
		return p, err
	}
	if p.sum, err = open("sum"); err != nil {
		err = stderrors.Join(err, p.data.close())
	}
	return p, err
}

func (s *fileSet) pair(w window) (pair, place, error) {
	at := w.place()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if at.file >= len(s.pairs[w.class()]) {
		return pair{}, at, errors.New(errors.KindCorrupt, "file %s is missing: rebuild this node from the others", fileName(w.class(), at.file, "data"))
	}
	return s.pairs[w.class()][at.file], at, nil
}

// data and sums return the file and the offset of a window in it.
func (s *fileSet) data(w window) (*hostFile, int64, error) {
	p, at, err := s.pair(w)
	return p.data, at.data, err
}

func (s *fileSet) sums(w window) (*hostFile, int64, error) {
	p, at, err := s.pair(w)
	return p.sum, at.sum, err
}

// reach makes the files large enough for w, which is to be used.
func (s *fileSet) reach(w window) error {
	c, at := w.class(), w.place()
	s.mu.Lock()
	defer s.mu.Unlock()
	for at.file >= len(s.pairs[c]) {
		p, err := s.openPair(c, len(s.pairs[c]), true)
		if err != nil {
			return err
		}
		s.pairs[c] = append(s.pairs[c], p)
	}
	p := s.pairs[c][at.file]
	end := (at.data + int64(c.blocks())*blockSize + growBytes - 1) / growBytes * growBytes
	if err := p.data.growTo(end); err != nil {
		return err
	}
	return p.sum.growTo(end / blockSize * sumSize)
}

// growTo makes f at least size bytes long. fileSet.mu is held.
func (f *hostFile) growTo(size int64) error {
	if f.size >= size {
		return nil
	}
	if err := f.grow(size); err != nil {
		return err
	}
	f.dirty.Store(true)
	f.size = size
	return nil
}

// covers tells whether w lies within the files.
func (s *fileSet) covers(w window) bool {
	p, at, err := s.pair(w)
	if err != nil {
		return false
	}
	n := int64(w.class().blocks())
	return at.data+n*blockSize <= p.data.size && at.sum+n*sumSize <= p.sum.size
}

// windows returns how many windows of class c the files have room for.
func (s *fileSet) windows(c class) uint64 {
	n := len(s.pairs[c])
	if n == 0 {
		return 0
	}
	size := int64(c.blocks()) * blockSize
	return uint64(n-1)*(fileBytesMax/uint64(size)) + uint64((s.pairs[c][n-1].data.size+size-1)/size)
}

// clearSums makes the checksums of the windows [lo, hi) of class c 0. What their data is does not matter then.
func (s *fileSet) clearSums(c class, lo, hi uint64) error {
	return s.eachRun(c, lo, hi, func(p pair, at place, n int64) error {
		return p.sum.zero(at.sum, n*int64(c.blocks())*sumSize)
	})
}

// punch gives the data of the windows [lo, hi) of class c back to the host.
func (s *fileSet) punch(c class, lo, hi uint64) error {
	return s.eachRun(c, lo, hi, func(p pair, at place, n int64) error {
		return p.data.punch(at.data, n*int64(c.blocks())*blockSize)
	})
}

// scrape empties the windows [lo, hi) of class c: checksums 0, data gone.
func (s *fileSet) scrape(c class, lo, hi uint64) error {
	if err := s.clearSums(c, lo, hi); err != nil {
		return err
	}
	return s.punch(c, lo, hi)
}

// eachRun calls f for each run of n windows of [lo, hi) in one file, with the place of the first.
func (s *fileSet) eachRun(c class, lo, hi uint64, f func(p pair, at place, n int64) error) error {
	size := int64(c.blocks()) * blockSize
	perFile := uint64(fileBytesMax / size)
	for lo < hi {
		end := min(hi, (lo/perFile+1)*perFile)
		p, at, err := s.pair(makeWindow(c, lo))
		if err != nil {
			return err
		}
		if err := f(p, at, int64(end-lo)); err != nil {
			return err
		}
		lo = end
	}
	return nil
}

// all returns every file.
func (s *fileSet) all() []*hostFile {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var fs []*hostFile
	for c := range classes {
		for _, p := range s.pairs[c] {
			fs = append(fs, p.data, p.sum)
		}
	}
	return fs
}

// sync makes every file durable.
func (s *fileSet) sync() error {
	for _, f := range s.all() {
		if f.dirty.Swap(false) {
			if err := f.file.sync(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *fileSet) close() error {
	var err error
	for _, f := range s.all() {
		err = stderrors.Join(err, f.close())
	}
	return err
}
