package device

import (
	stderrors "errors"
	"os"
	"path/filepath"
	"testing"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// TestOpenFails fails each operation of an opening in turn, with windows in use, given up and in quarantine: it says so, and the next opening finds all.
func TestOpenFails(t *testing.T) {
	sites := map[string]bool{}
	for n := 1; ; n++ {
		vol, dir := newFakeVolume(1), t.TempDir()
		d := mustOpen(t, dir, vol)
		mustApply(t, d, whole(5, 16, 4, 9), whole(6, 0, 1, 1), whole(7, 300, 1, 1))
		mustCheckpoint(t, d, "")
		mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 6, Block: 0, Count: 1}}}, whole(8, 0, 16, 3), whole(9, 300, 3, 4))
		d.Close()
		vol.reads, vol.err, vol.ops, vol.fail = true, errFault, 0, n
		d, err := Open(dir, testOptions(vol))
		if vol.site == "" {
			if err != nil {
				t.Fatal(err)
			}
			d.Close()
			break
		}
		sites[vol.site] = true
		if !stderrors.Is(err, errFault) {
			t.Errorf("with operation %d (%s) failed: %v", n, vol.site, err)
		}
		vol.fail = 0
		d = mustOpen(t, dir, vol)
		if index, _ := d.Meta(); index != 3 {
			t.Errorf("after a failure of operation %d (%s): checkpoint at %d", n, vol.site, index)
		}
		data, present := make([]byte, 4*blockSize), make([]byte, 1)
		if bad, err := d.Read(wal.Span{VDisk: 5, Block: 16, Count: 4}, data, present); err != nil || len(bad) > 0 || present[0] != 15 {
			t.Errorf("after a failure of operation %d (%s): %v %v %x", n, vol.site, bad, err, present)
		}
		d.Close()
	}
	if len(sites) == 0 {
		t.Error("an opening makes no I/O")
	}
	t.Logf("%d sites: %v", len(sites), sites)
}

// TestMapFails: a chunk map that can be read no more is an error of every call that needs it.
func TestMapFails(t *testing.T) {
	needed := 0
	for name, call := range everyCall {
		dir, vol := t.TempDir(), newFakeVolume(1)
		d := mustOpen(t, dir, vol)
		mustApply(t, d, whole(5, 16, 4, 9))
		mustCheckpoint(t, d, "")
		d.Close()
		d = mustOpen(t, dir, vol) // nothing is in memory
		if err := d.store.close(); err != nil {
			t.Fatal(err)
		}
		err := call(d)
		if name == "Apply" || name == "Presence" || name == "Read" || name == "Chunks" || name == "ResetTo" || name == "PutChunk" || name == "Checkpoint" {
			needed++
			if err == nil {
				t.Errorf("%s succeeds without a chunk map", name)
			}
		}
	}
	if needed != 7 {
		t.Errorf("%d calls", needed)
	}
}

// TestFilesOfTheHost: what stands where the device's own files should be is told, and nothing is made.
func TestFilesOfTheHost(t *testing.T) {
	mk := func(change func(dir string)) error {
		dir := t.TempDir()
		d := mustOpen(t, dir, newFakeVolume(1))
		d.Close()
		change(dir)
		d, err := Open(dir, testOptions(newFakeVolume(1)))
		if err == nil {
			d.Close()
		}
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	instead := func(name string) func(dir string) {
		return func(dir string) {
			must(os.RemoveAll(filepath.Join(dir, name)))
			must(os.Mkdir(filepath.Join(dir, name), 0o700))
		}
	}
	for what, err := range map[string]error{
		"the header is a directory": mk(instead(headerName)),
		"the map is a directory":    mk(instead(mapName)),
		"the header is gone":        mk(func(dir string) { must(os.Remove(filepath.Join(dir, headerName))) }),
		"the map is gone":           mk(func(dir string) { must(os.Remove(filepath.Join(dir, mapName))) }),
		"the map is empty":          mk(func(dir string) { must(os.WriteFile(filepath.Join(dir, mapName), nil, 0o600)) }),
		"the map is another's": mk(func(dir string) {
			other := t.TempDir()
			d := mustOpen(t, other, newFakeVolume(2))
			d.Close()
			must(os.Rename(filepath.Join(other, mapName), filepath.Join(dir, mapName)))
		}),
		"the map is cut":                   mk(func(dir string) { must(os.Truncate(filepath.Join(dir, mapName), 5000)) }),
		"a directory in the new map's way": mkNew(t, func(dir string) { must(os.MkdirAll(filepath.Join(dir, mapNewName, "x"), 0o700)) }),
		"a file in the directory's way":    second(Open(filepath.Join(someFile(t), "d"), testOptions(newFakeVolume(1)))),
	} {
		if err == nil {
			t.Errorf("%s: it opens", what)
		} else if what == "the map is another's" && !errors.Is(err, errors.KindForeign) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// mkNew makes a device where something is already.
func mkNew(t *testing.T, before func(dir string)) error {
	dir := t.TempDir()
	before(dir)
	d, err := Open(dir, testOptions(newFakeVolume(1)))
	if err == nil {
		d.Close()
	}
	return err
}

func someFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestCopyFails fails each operation of a copy that replaces, adds and removes chunks and then becomes the content, in turn.
func TestCopyFails(t *testing.T) {
	chunk := func(vdisk uint64, blocks int) blockstore.ChunkData {
		c := blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: chunkOf(vdisk, 0), LastIndex: 9}, Present: make([]byte, 2)}
		for i := range blocks {
			c.Present[0] |= 1 << i
			c.Data = append(c.Data, make([]byte, blockSize)...)
		}
		return c
	}
	for n := 1; ; n++ {
		vol, dir := newFakeVolume(1), t.TempDir()
		d := mustOpen(t, dir, vol)
		mustApply(t, d, whole(5, 0, 4, 9), whole(6, 0, 1, 1))
		mustCheckpoint(t, d, "")
		d.Close()
		d = mustOpen(t, dir, vol)
		d.store = &faultMap{d.store, vol}
		vol.reads, vol.err, vol.ops, vol.fail = true, errFault, 0, n
		var err error
		for _, c := range []blockstore.ChunkData{chunk(5, 2), chunk(7, 3), chunk(6, 0)} {
			if err == nil {
				err = d.PutChunk(c)
			}
		}
		if err == nil {
			err = d.ResetTo(9, []byte("m"))
		}
		if vol.site == "" {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !stderrors.Is(err, errFault) {
			t.Errorf("with operation %d (%s) failed: %v", n, vol.site, err)
		}
		d.Close()
		vol.fail = 0
		d = mustOpen(t, dir, vol)
		if index, _ := d.Meta(); index == 9 { // it was finished: what failed is the emptying of what it gave up
			for vdisk, want := range map[uint64]byte{5: 3, 6: 0, 7: 7} {
				present := make([]byte, 1)
				if bad, err := d.Read(wal.Span{VDisk: vdisk, Count: 4}, make([]byte, 4*blockSize), present); err != nil || len(bad) > 0 || present[0] != want {
					t.Errorf("a copy that failed at operation %d (%s) is taken for a finished one: vdisk %d: %v %v %x", n, vol.site, vdisk, bad, err, present)
				}
			}
		} else if !d.Incomplete() && index != 2 {
			t.Errorf("after operation %d (%s) of a copy failed: checkpoint at %d", n, vol.site, index)
		}
		d.Close()
	}
}
