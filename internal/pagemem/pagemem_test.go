package pagemem

import "testing"

// TestAligned: memory of either kind begins on a page boundary, is as long as asked for and zero, and ends where it ends.
func TestAligned(t *testing.T) {
	for _, n := range []int{1, 100, Page, 5*Page + 7, HugePage, HugePage + Page} {
		mapped, err := Map(n)
		if err != nil {
			t.Fatal(err)
		}
		for what, p := range map[string][]byte{"made": Make(n), "mapped": mapped} {
			if len(p) != n || cap(p) != n {
				t.Errorf("%s: %d bytes, room for %d, want %d", what, len(p), cap(p), n)
			}
			if !Aligned(p) {
				t.Errorf("%s: %d bytes at %p", what, n, p)
			}
			if n > 1 && Aligned(p[1:]) {
				t.Errorf("%s: a byte behind a boundary is said to be one", what)
			}
			for i, b := range p {
				if b != 0 {
					t.Fatalf("%s: byte %d is %d", what, i, b)
				}
			}
			p[0], p[n-1] = 1, 1
		}
		Unmap(mapped)
	}
	Unmap(nil)
	if _, err := Map(0); err == nil {
		t.Error("no bytes were mapped")
	}
}
