package seglog

import (
	"testing"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

func crcOf(b []byte) uint32 { return crc.Checksum(b) }

// fuzzSeed is a segment with a few groups.
func fuzzSeed(t testing.TB) []byte {
	d := newFakeDisk(3)
	l, err := build("fake", crashOptions(d, 3))
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i < 12; i += 2 {
		if err := l.Append([]Entry{{Index: i, Data: crashPayload(i, 1)[:20]}, {Index: i + 1}}); err != nil {
			t.Fatal(err)
		}
	}
	name := l.active().name
	l.Close()
	return d.names[name].seen
}

// FuzzSegment opens a log whose only segment is a good one with bytes changed. With fix set the
// checksums of header and group heads are made to fit, so that the checks behind them are reached.
func FuzzSegment(f *testing.F) {
	good := fuzzSeed(f)
	f.Add(uint32(0), []byte("xx"), false)
	f.Add(uint32(Block+40), []byte{0xff, 0xff, 0xff, 0xff}, true)
	f.Add(uint32(Block+48), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, true)
	f.Add(uint32(2*Block), []byte{0}, false)
	f.Add(uint32(Block+64), []byte{9, 0, 0, 0}, true)
	f.Add(uint32(40), []byte{0, 7}, true)
	f.Fuzz(func(t *testing.T, off uint32, b []byte, fix bool) {
		seg := append([]byte(nil), good...)
		copy(seg[int(off)%len(seg):], b)
		if fix {
			le.PutUint32(seg[headerBytes-4:], crcOf(seg[:headerBytes-4]))
			for at := Block; at < len(seg); at += Block {
				n := min(int(le.Uint32(seg[at+40:])), (len(seg)-at-groupHeadBytes)/tableEntry)
				le.PutUint32(seg[at+4:], crcOf(seg[at+8:at+groupHeadBytes+n*tableEntry]))
			}
		}
		d := newFakeDisk(1)
		n := &fakeInode{seen: seg, kept: append([]byte(nil), seg...), dirty: map[int]bool{}}
		d.names[segName(le.Uint64(seg[16:]))] = n
		d.durable[segName(le.Uint64(seg[16:]))] = n
		l, err := build("fake", crashOptions(d, 9))
		if err != nil {
			switch errors.KindOf(err) {
			case errors.KindCorrupt, errors.KindForeign, errors.KindTooNew:
			default:
				t.Fatalf("error of kind %d: %v", errors.KindOf(err), err)
			}
			if d.opened != 0 {
				t.Fatalf("%d files left open", d.opened)
			}
			return
		}
		for i := l.First(); i != 0 && i <= l.Last(); i++ {
			if _, err := l.Get(i); err != nil {
				t.Fatalf("Get(%d) of %d..%d: %v", i, l.First(), l.Last(), err)
			}
		}
		if next := l.Last() + 1; next != 0 {
			if err := l.Append([]Entry{{Index: next, Data: []byte("more")}}); err != nil {
				t.Fatal(err)
			}
		}
		l.Close()
	})
}
