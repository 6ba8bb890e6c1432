package cluster

import "testing"

func TestFrames(t *testing.T) {
	f := newFrames()
	for _, length := range []int{0, 1, 256, 257, 16 << 10, 1 << 20, 1<<20 + 1} {
		b := f.Get(length)
		if len(*b) != length {
			t.Fatalf("%d bytes, want %d", len(*b), length)
		}
		for i := range *b {
			(*b)[i] = 7
		}
		*b = (*b)[:length/2] // a prefix may come back
		f.Put(b)
		if again := f.Get(length); len(*again) != length {
			t.Fatalf("then %d bytes, want %d", len(*again), length)
		}
	}
	odd := make([]byte, 300)
	f.Put(&odd)
	if b := f.Get(4 << 10); len(*b) != 4<<10 {
		t.Errorf("a buffer of another size was taken: %d bytes", len(*b))
	}
}
