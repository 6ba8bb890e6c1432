package simdisk

import (
	"maps"
	"slices"
)

// A sector is what is on the disk whole or not at all; a page is what space is counted in.
const (
	sector = 512
	page   = 4096
)

// zeroPage stands for every page that holds nothing but zeros.
var zeroPage = new([page]byte)

// file is a file's content. The power's mutex guards it. Pages may be another clone's, too: they are never changed in place.
type file struct {
	id       int
	pages    map[int64]*[page]byte
	length   int64
	versions map[int64][][sector]byte // what sectors written since the last sync held, from the synced content on
	lengths  []int64                  // likewise
}

func newFile(id int) *file {
	return &file{id: id, pages: map[int64]*[page]byte{}, versions: map[int64][][sector]byte{}}
}

func (f *file) clone() *file {
	c := &file{id: f.id, pages: maps.Clone(f.pages), length: f.length, versions: map[int64][][sector]byte{}, lengths: slices.Clone(f.lengths)}
	for s, vs := range f.versions {
		c.versions[s] = slices.Clip(vs)
	}
	return c
}

// synced notes that what is there is on the disk.
func (f *file) synced() {
	clear(f.versions)
	f.lengths = nil
}

func (f *file) resize(size int64) {
	f.length = size
	for pg := range f.pages {
		if pg*page >= size {
			delete(f.pages, pg)
		}
	}
}

func (f *file) put(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/page, off%page
		pg := new([page]byte)
		if old := f.pages[i]; old != nil && (at > 0 || len(p) < page) {
			*pg = *old
		}
		k := copy(pg[at:], p)
		if *pg == *zeroPage {
			pg = zeroPage
		}
		f.pages[i] = pg
		p, off = p[k:], off+int64(k)
	}
}

func (f *file) get(p []byte, off int64) {
	for len(p) > 0 {
		i, at := off/page, off%page
		k := min(len(p), int(page-at))
		if pg := f.pages[i]; pg != nil {
			copy(p[:k], pg[at:])
		} else {
			clear(p[:k])
		}
		p, off = p[k:], off+int64(k)
	}
}

// missing counts the pages of a range that are not there.
func (f *file) missing(off, size int64) (n int) {
	for pg := off / page; pg*page < off+size; pg++ {
		if f.pages[pg] == nil {
			n++
		}
	}
	return n
}

func (f *file) remember(off, size int64) {
	for s := off / sector; s*sector < off+size; s++ {
		var old [sector]byte
		f.get(old[:], s*sector)
		f.versions[s] = append(f.versions[s], old)
	}
}

// write writes p; durable: it is on the disk now, with all that was in its sectors and with the size.
func (f *file) write(p []byte, off int64, durable bool) {
	if !durable {
		f.remember(off, int64(len(p)))
	}
	f.put(p, off)
	if end := off + int64(len(p)); end > f.length {
		if !durable {
			f.lengths = append(f.lengths, f.length)
		}
		f.length = end
	}
	if durable {
		for s := off / sector; s*sector < off+int64(len(p)); s++ {
			delete(f.versions, s)
		}
		f.lengths = nil
	}
}

func (f *file) grow(size int64) {
	f.lengths = append(f.lengths, f.length)
	f.resize(size)
}

func (f *file) punch(off, size int64) {
	for _, pg := range slices.Sorted(maps.Keys(f.pages)) {
		lo, hi := max(off, pg*page), min(off+size, (pg+1)*page)
		if lo >= hi {
			continue
		}
		f.remember(lo, hi-lo)
		if hi-lo == page {
			delete(f.pages, pg)
			continue
		}
		f.put(make([]byte, hi-lo), lo)
	}
}

// lose makes of it what a loss leaves, drawing how many of what came since the last sync survive.
func (f *file) lose(l Loss, draw func(l Loss, n int) int) {
	burst := l
	if l == Torn {
		burst = [...]Loss{Everything, Nothing, Torn, Torn, Torn, Torn}[draw(Torn, 5)]
	}
	for _, s := range slices.Sorted(maps.Keys(f.versions)) {
		vs := f.versions[s]
		i := draw(l, len(vs)) // drawn even where the burst decides
		if burst != Torn {
			i = draw(burst, len(vs))
		}
		if i < len(vs) {
			f.put(vs[i][:], s*sector)
		}
	}
	if n := len(f.lengths); n > 0 {
		if i := draw(l, n); i < n {
			f.resize(f.lengths[i])
		}
	}
	f.synced()
}

// rot turns a bit over.
func (f *file) rot(off int64, bit int) {
	var b [1]byte
	f.get(b[:], off)
	b[0] ^= 1 << bit
	f.put(b[:], off)
}
