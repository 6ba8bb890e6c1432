package cluster

import (
	"sync"

	"google.golang.org/grpc/mem"
)

// frames is the memory of gRPC's frames and messages. gRPC's own clears it before each use, which takes a twentieth of the processor time of a long
// write; here who asks for it fills it: nothing of dfs sends or reads more than it was given.
type frames struct{ classes []frameClass }

// frameClass holds buffers of one size, in bytes.
type frameClass struct {
	size int
	free *sync.Pool
}

var _ mem.BufferPool = (*frames)(nil)

// newFrames has the sizes of gRPC's own; 16 KiB is that of a frame.
func newFrames() *frames {
	f := &frames{}
	for _, size := range []int{256, 4 << 10, 16 << 10, 32 << 10, 1 << 20} {
		f.classes = append(f.classes, frameClass{size, &sync.Pool{New: func() any { b := make([]byte, size); return &b }}})
	}
	return f
}

// Get implements mem.BufferPool: length bytes with any content.
func (f *frames) Get(length int) *[]byte {
	for _, c := range f.classes {
		if length <= c.size {
			b := c.free.Get().(*[]byte)
			*b = (*b)[:length]
			return b
		}
	}
	b := make([]byte, length)
	return &b
}

// Put implements mem.BufferPool. What is larger than the largest size is left to the garbage collector.
func (f *frames) Put(b *[]byte) {
	for _, c := range f.classes {
		if cap(*b) == c.size {
			c.free.Put(b)
			return
		}
	}
}
