package fs

import (
	"strings"
	"testing"
	"time"
)

// TestSetAttrOneRecord: a size and whatever is set with it are one record, so that a crash leaves both or neither.
func TestSetAttrOneRecord(t *testing.T) {
	const most = 300_000 // bytes; freed in one record
	for _, tt := range []struct {
		what       string
		from, size uint64
	}{
		{"in the inode", 10, 100}, {"out of the inode", 10, 50_000}, {"into the inode", 5000, 3}, {"grown", 5000, most},
		{"shrunk", most, 5000}, {"to nothing", most, 0}, {"the same", 5000, 5000},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := newWorld(t, 1<<20)
			w.walTarget = 1 // each operation makes a record of its own
			m := w.mount(Options{})
			ino, h := m.create(RootIno, "f")
			m.write(h, strings.Repeat("x", int(tt.from)), 0)
			m.must(m.SyncAll(ctx))
			_, before, _ := w.disk.Counts()
			mode, uid, when := uint32(0o4711), uint32(7), time.Unix(1234567890, 5)
			e, err := m.SetAttr(ctx, root, ino, h, SetAttr{Size: &tt.size, Mode: &mode, UID: &uid, Mtime: &when})
			m.must(err)
			m.must(m.SyncAll(ctx))
			if _, after, _ := w.disk.Counts(); after != before+1 {
				t.Errorf("%d records", after-before)
			}
			a := e.Attr
			if a.Size != tt.size || a.Mode&0o7777 != mode || a.UID != uid || !a.Mtime.Equal(when) {
				t.Errorf("%+v", a)
			}
			if got := m.read(h, most+1, 0); uint64(len(got)) != tt.size || strings.Trim(got[:min(tt.from, tt.size)], "x") != "" || strings.Trim(got[min(tt.from, tt.size):], "\x00") != "" {
				t.Errorf("%d bytes that are not what they should be", len(got))
			}
		})
	}
}
