package fuse

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"

	"dfs/fs"
)

// kernels are offers of some Linux versions.
var kernels = []struct {
	version string
	offer   offer
	worse   []string // what a mount is told, each in a word
	thin    []string // and a thin client's
}{
	{"6.18", offer{45, baseFlags | gofuse.CAP_HAS_EXPIRE_ONLY | gofuse.CAP_DIRECT_IO_ALLOW_MMAP}, nil, nil},
	{"6.1.110", offer{38, baseFlags | gofuse.CAP_HAS_EXPIRE_ONLY}, []string{"page cache"}, []string{"MAP_SHARED"}},
	{"6.1", offer{37, baseFlags}, []string{"expire names", "page cache"}, []string{"MAP_SHARED"}},
	{"5.15", offer{34, baseFlags}, []string{"O_TMPFILE", "expire names", "page cache"}, []string{"O_TMPFILE", "MAP_SHARED"}},
	{"5.4", offer{31, baseFlags &^ (gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_SETXATTR_EXT)},
		[]string{"older than Linux 5.13", "O_TMPFILE", "expire names", "page cache"}, []string{"older than Linux 5.13", "O_TMPFILE", "MAP_SHARED"}},
}

// TestWorse: what a kernel does not offer is told in one line of the log, and done without.
func TestWorse(t *testing.T) {
	for _, k := range kernels {
		for uncached, want := range map[bool][]string{false: k.worse, true: k.thin} {
			list := k.offer.worse(uncached)
			if len(list) != len(want) {
				t.Errorf("Linux %s, thin %v: %q, want %q", k.version, uncached, list, want)
				continue
			}
			for i, w := range want {
				if !strings.Contains(list[i], w) {
					t.Errorf("Linux %s, thin %v: %q, want %q", k.version, uncached, list[i], w)
				}
			}
			var out bytes.Buffer
			c := newConn(&fakeFS{}, nil, Options{Uncached: uncached, Logger: slog.New(slog.NewTextHandler(&out, nil))})
			c.adapt(k.offer)
			if lines := strings.Count(out.String(), "level=WARN"); lines != min(1, len(want)) {
				t.Errorf("Linux %s, thin %v: %d warnings\n%s", k.version, uncached, lines, &out)
			}
			if c.names.uncached == k.offer.expires() || c.MapsDirect() != k.offer.mapsDirect() {
				t.Errorf("Linux %s: names uncached %v, direct maps %v", k.version, c.names.uncached, c.MapsDirect())
			}
		}
	}
}

// TestOfferOf: a kernel without the upper half of the flags did not send one; what stands there is of an earlier request.
func TestOfferOf(t *testing.T) {
	in := gofuse.InitIn{Minor: 34, Flags: gofuse.CAP_MAX_PAGES, Flags2: ^uint32(0)}
	if o := offerOf(&in, 0); o != (offer{34, gofuse.CAP_MAX_PAGES}) {
		t.Errorf("%+v", o)
	}
	in.Flags |= gofuse.CAP_INIT_EXT
	if o := offerOf(&in, 0); !o.expires() || !o.mapsDirect() {
		t.Errorf("%+v", o)
	}
	if o := offerOf(&in, gofuse.CAP_HAS_EXPIRE_ONLY); o.expires() || !o.mapsDirect() {
		t.Errorf("%+v", o)
	}
}

// countingFS counts lookups.
type countingFS struct {
	*fakeFS
	lookups atomic.Int64
}

func (f *countingFS) Lookup(ctx context.Context, c *fs.Caller, dir fs.Ino, name string) (fs.Entry, error) {
	f.lookups.Add(1)
	return f.fakeFS.Lookup(ctx, c, dir, name)
}

// TestNamesUncached: where the kernel cannot expire names it holds none without asking, so that none need be expired.
func TestNamesUncached(t *testing.T) {
	for _, without := range []uint64{0, gofuse.CAP_HAS_EXPIRE_ONLY} {
		f := &countingFS{fakeFS: &fakeFS{perName: true}}
		m := mountFakeWith(t, f, Options{without: without})
		path := filepath.Join(m.Dir(), "5")
		before := f.lookups.Load()
		for range 3 {
			lstat(t, path)
		}
		want := int64(1)
		if without != 0 {
			want = 3
		}
		if n := f.lookups.Load() - before; n != want {
			t.Errorf("without %#x: %d lookups of a name, want %d", without, n, want)
		}
		if names := m.conn.names.take(uint64(fs.RootIno)).names; (len(names) == 0) != (without != 0) {
			t.Errorf("without %#x: names to expire: %q", without, names)
		}
		f.revoke(func() { m.conn.DropNames(fs.RootIno) })
		if st := lstat(t, path); without != 0 && st.Ino != 1000+f.version {
			t.Errorf("inode %d after the change to %d", st.Ino, 1000+f.version)
		}
	}
}
