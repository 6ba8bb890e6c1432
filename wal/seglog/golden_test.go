package seglog

import (
	"testing"

	"dfs/internal/golden"
)

// TestGoldenSegment pins the segment's format: header, group, table, padding.
func TestGoldenSegment(t *testing.T) {
	d := newFakeDisk(3)
	o := crashOptions(d, 3)
	o.Salt = func() uint64 { return 0x1122334455667788 }
	l, err := build("fake", o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]Entry{{Index: 7, Data: []byte("first entry")}, {Index: 8, Data: []byte("second")}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Append([]Entry{{Index: 9, Data: []byte("another group")}}); err != nil {
		t.Fatal(err)
	}
	name := l.active().name
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "segment-v1.hex", d.names[name].seen)
}
