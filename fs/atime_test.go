package fs

import (
	"syscall"
	"testing"
	"time"
)

// TestAccessTime: a read moves the access time once after a change, as with relatime, and never where NoAtime or O_NOATIME says so.
func TestAccessTime(t *testing.T) {
	for _, tt := range []struct {
		what  string
		o     Options
		flags uint32
		moves bool
	}{
		{"as with relatime", Options{}, syscall.O_RDONLY, true},
		{"noatime", Options{NoAtime: true}, syscall.O_RDONLY, false},
		{"opened so", Options{}, syscall.O_RDONLY | syscall.O_NOATIME, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := newWorld(t, 1<<20)
			now := time.Unix(1_700_000_000, 0)
			tt.o.Now = func() time.Time { return now }
			m := w.mount(tt.o)
			ino, h := m.create(RootIno, "f")
			m.write(h, "x", 0)
			before := m.lookup(RootIno, "f").Attr.Atime
			now = now.Add(time.Hour)
			h, _ = m.open(ino, tt.flags)
			var first time.Time
			for i := range 2 {
				m.read(h, 1, 0)
				got := m.lookup(RootIno, "f").Attr.Atime
				if i == 0 {
					first = got
				}
				if got.Equal(before) == tt.moves || !got.Equal(first) {
					t.Errorf("read %d: access time %v, before %v", i, got, before)
				}
				now = now.Add(time.Hour)
			}
		})
	}
}
