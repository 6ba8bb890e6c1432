package device

import (
	"fmt"
	"math/bits"

	"dfs/internal/errors"
)

// class is a size of window. Each class has files of its own.
type class uint8

const (
	small class = iota // 16 blocks: chunk 0 of every vdisk
	large              // 256 blocks: every other chunk
	classes
)

func classOf(chunk uint64) class {
	if chunk == 0 {
		return small
	}
	return large
}

func (c class) blocks() uint64 {
	if c == small {
		return smallBlocks
	}
	return largeBlocks
}

func (c class) String() string {
	if c == small {
		return "small"
	}
	return "large"
}

// window names a window: the class in bit 63, the number below it. noWindow is none.
type window uint64

const (
	noWindow     = ^window(0)
	windowMax    = 1 << 40 // windows of one class: 1 EiB of large ones
	fileBytesMax = 1 << 40 // of one data file: well below ext4's 16 TiB
	growBytes    = 1 << 30 // a data file's size is raised in steps of this
)

func makeWindow(c class, n uint64) window { return window(uint64(c)<<63 | n) }
func (w window) class() class             { return class(w >> 63) }
func (w window) number() uint64           { return uint64(w) &^ (1 << 63) }

// place is where a window lies: file number, and byte offsets in the data and the checksum file.
type place struct {
	file      int
	data, sum int64
}

func (w window) place() place {
	size := w.class().blocks() * blockSize
	perFile := uint64(fileBytesMax) / size
	n := w.number() % perFile
	return place{
		file: int(w.number() / perFile),
		data: int64(n * size),
		sum:  int64(n * w.class().blocks() * sumSize),
	}
}

// bitmap is the set of windows in use of one class, and which is the next to
// give out: always the lowest free one, so that files stay dense.
type bitmap struct {
	words []uint64
	hint  int // no word before it has a free bit
}

// take marks and returns the lowest free number.
func (b *bitmap) take() uint64 {
	for ; b.hint < len(b.words); b.hint++ {
		if w := b.words[b.hint]; w != ^uint64(0) {
			n := bits.TrailingZeros64(^w)
			b.words[b.hint] |= 1 << n
			return uint64(b.hint)*64 + uint64(n)
		}
	}
	b.words = append(b.words, 1)
	return uint64(b.hint) * 64
}

// mark takes number n; false if it is taken.
func (b *bitmap) mark(n uint64) bool {
	for uint64(len(b.words)) <= n/64 {
		b.words = append(b.words, 0)
	}
	if b.words[n/64]&(1<<(n%64)) != 0 {
		return false
	}
	b.words[n/64] |= 1 << (n % 64)
	return true
}

func (b *bitmap) has(n uint64) bool {
	return n/64 < uint64(len(b.words)) && b.words[n/64]&(1<<(n%64)) != 0
}

// release gives number n back.
func (b *bitmap) release(n uint64) {
	if !b.has(n) {
		panic(fmt.Sprintf("device: window %d given back twice", n))
	}
	b.words[n/64] &^= 1 << (n % 64)
	b.hint = min(b.hint, int(n/64))
}

// freeRuns calls f for each run [lo, hi) of free numbers below end.
func (b *bitmap) freeRuns(end uint64, f func(lo, hi uint64) error) error {
	for n := uint64(0); n < end; {
		if b.has(n) {
			if n%64 == 0 && b.words[n/64] == ^uint64(0) {
				n += 64
			} else {
				n++
			}
			continue
		}
		lo := n
		for n < end && !b.has(n) {
			if n/64 >= uint64(len(b.words)) {
				n = end
			} else if n%64 == 0 && b.words[n/64] == 0 {
				n = min(n+64, end)
			} else {
				n++
			}
		}
		if err := f(lo, n); err != nil {
			return err
		}
	}
	return nil
}

// markUsed is mark for a window read from the map.
func (d *Device) markUsed(w window, what string) error {
	if w.number() >= windowMax {
		return errors.New(errors.KindCorrupt, "device %s: the chunk map gives %s window %d, which cannot be: rebuild this node", d.dir, what, w.number())
	}
	if !d.used[w.class()].mark(w.number()) {
		return errors.New(errors.KindCorrupt, "device %s: the chunk map gives %s a window that another chunk has: rebuild this node", d.dir, what)
	}
	return nil
}
