package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	stderrors "errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/blockstore/device"
	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/wal"
)

var errOdd = stderrors.New("test: an odd failure")

// TestFramesThatMakeNoSense: frames whose checksums fit and whose bodies cannot be.
func TestFramesThatMakeNoSense(t *testing.T) {
	le := binary.LittleEndian
	frame := encoded(t, &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte("a"), Addr: []byte("a:1")},
		Entries: []*raft.Log{{Index: 1, Term: 1, Data: []byte("one")}, {Index: 2, Term: 1, Data: bytes.Repeat([]byte("x"), appendInlineMax+1)}}})
	body := frame[appendHead : appendHead+int(le.Uint32(frame[8:]))]
	if _, behind, _, err := decodeAppend(bytes.Clone(body)); err != nil || len(behind) != 1 {
		t.Fatal(behind, err)
	}
	first := requestFixed + int(le.Uint16(body[36:])) + int(le.Uint16(body[38:])) + int(le.Uint16(body[40:]))
	second := first + entryFixed + int(le.Uint32(body[first+8:]))
	for what, change := range map[string]func(b []byte) []byte{
		"nothing":                          func([]byte) []byte { return nil },
		"a head cut off":                   func(b []byte) []byte { return b[:requestFixed-1] },
		"a name longer than the frame":     func(b []byte) []byte { le.PutUint16(b[36:], 60000); return b },
		"more entries than there may be":   func(b []byte) []byte { le.PutUint16(b[42:], 60000); return b },
		"more entries than have room":      func(b []byte) []byte { le.PutUint16(b[42:], 16); return b },
		"an entry more than there are":     func(b []byte) []byte { le.PutUint16(b[42:], 3); return b },
		"an entry longer than the frame":   func(b []byte) []byte { le.PutUint32(b[first+8:], 1<<30); return b },
		"an entry of nothing":              func(b []byte) []byte { le.PutUint32(b[second+8:], 0); return b[:second+entryFixed] },
		"an entry that no log holds":       func(b []byte) []byte { le.PutUint32(b[second+8:], 1); return b[:second+entryFixed+1] },
		"data behind an entry that has it": func(b []byte) []byte { le.PutUint32(b[first+12:], 5); return b },
		"data behind of too many bytes":    func(b []byte) []byte { le.PutUint32(b[second+12:], entryBytesMax+1); return b },
		"bytes too many":                   func(b []byte) []byte { return append(b, 0) },
	} {
		if _, _, _, err := decodeAppend(change(bytes.Clone(body))); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	answer := func(b []byte) []byte {
		f := make([]byte, appendHead, appendHead+len(b))
		le.PutUint32(f, appendMagic)
		f[4], f[5] = appendVersion, appendAnswer
		le.PutUint32(f[8:], uint32(len(b)))
		le.PutUint32(f[12:], crc.Checksum(b))
		le.PutUint32(f[16:], crc.Checksum(f[:16]))
		return append(f, b...)
	}
	flags, long := make([]byte, answerFixed), make([]byte, answerFixed)
	le.PutUint16(flags[20:], 1<<15)
	le.PutUint16(long[22:], 9)
	for what, b := range map[string][]byte{"an answer cut off": make([]byte, answerFixed-1), "unknown flags": flags, "a name longer than the answer": long} {
		if _, err := readAppended(bytes.NewReader(answer(b)), new(raft.AppendEntriesResponse)); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := readAppended(bytes.NewReader(answer(make([]byte, answerFixed))), new(raft.AppendEntriesResponse)); err != nil {
		t.Errorf("a good answer: %v", err)
	}
}

// oddDevice fails every read once it is told to, or calls a block damaged whatever is done about it.
type oddDevice struct {
	blockstore.Device
	odd, damaged atomic.Bool
}

func (d *oddDevice) fails() error {
	if d.odd.Load() {
		return errOdd
	}
	return nil
}

func (d *oddDevice) bad(a wal.Addr) []blockstore.BadBlock {
	if d.damaged.Load() {
		return []blockstore.BadBlock{{Addr: a}}
	}
	return nil
}

func (d *oddDevice) Read(s wal.Span, dst, present []byte) ([]blockstore.BadBlock, error) {
	if err := d.fails(); err != nil {
		return nil, err
	}
	bad, err := d.Device.Read(s, dst, present)
	return append(bad, d.bad(wal.Addr{VDisk: s.VDisk, Block: s.Block})...), err
}

func (d *oddDevice) Presence(s wal.Span, present []byte) error {
	return stderrors.Join(d.fails(), d.Device.Presence(s, present))
}

func (d *oddDevice) SkipAbsent(vdisk, block uint64) (uint64, error) {
	n, err := d.Device.SkipAbsent(vdisk, block)
	return n, stderrors.Join(d.fails(), err)
}

func (d *oddDevice) Chunks(after *blockstore.ChunkID, n int) ([]blockstore.ChunkInfo, error) {
	list, err := d.Device.Chunks(after, n)
	return list, stderrors.Join(d.fails(), err)
}

func (d *oddDevice) ReadChunk(id blockstore.ChunkID) (blockstore.ChunkData, []blockstore.BadBlock, error) {
	c, bad, err := d.Device.ReadChunk(id)
	return c, append(bad, d.bad(wal.Addr{VDisk: id.VDisk})...), stderrors.Join(d.fails(), err)
}

func (d *oddDevice) ScrubNext(after *blockstore.ChunkID, n int) ([]blockstore.BadBlock, *blockstore.ChunkID, error) {
	bad, next, err := d.Device.ScrubNext(after, n)
	return bad, next, stderrors.Join(d.fails(), err)
}

func (d *oddDevice) Repair(b blockstore.BadBlock, data []byte, present bool) (bool, error) {
	if d.damaged.Load() {
		return true, nil
	}
	return d.Device.Repair(b, data, present)
}

func (d *oddDevice) Usage() (blockstore.DeviceUsage, error) {
	u, err := d.Device.Usage()
	return u, stderrors.Join(d.fails(), err)
}

// TestDeviceThatCannotBeRead: what the device says of a failed read goes to who asked, and no content does; what stays damaged
// after its repair is not served.
func TestDeviceThatCannotBeRead(t *testing.T) { synctest.Test(t, testDeviceThatCannotBeRead) }

func testDeviceThatCannotBeRead(t *testing.T) {
	odd := map[string]*oddDevice{}
	c := newCluster(t, "a", "b", "c")
	c.wrap = func(id string, d blockstore.Device) blockstore.Device {
		odd[id] = &oddDevice{Device: d}
		return odd[id]
	}
	c.startAll()
	w := c.writer('x')
	w.write(1, 0, 4, 'a', 4)
	c.caughtUp(w.last)
	n, ctx := c.follower(), c.ctx(time.Minute)
	span := wal.Span{VDisk: 1, Block: 0, Count: 1}
	calls := map[string]func() error{
		"a read":         func() error { return third(n.ReadLocal(ctx, []wal.Span{span}, 0)) },
		"presence":       func() error { return third(n.PresenceLocal(ctx, span, 0)) },
		"skipping":       func() error { return third(n.SkipAbsentLocal(ctx, 1, 0, 0)) },
		"a list":         func() error { return third(n.ServeChunks(ctx, nil, 10)) },
		"a chunk":        func() error { return third(n.ServeChunk(ctx, blockstore.ChunkID{VDisk: 1}, 0)) },
		"a block":        func() error { return second(n.ServeBlock(ctx, wal.Addr{VDisk: 1}, 0)) },
		"how full it is": func() error { return second(n.ServeUsage(ctx)) },
		"a scrub":        func() error { return second(n.Scrub(ctx, nil)) },
	}
	odd[n.id].odd.Store(true)
	for what, call := range calls {
		if err := call(); !stderrors.Is(err, errOdd) {
			t.Errorf("%s from a device that cannot be read: %v", what, err)
		}
	}
	odd[n.id].odd.Store(false)
	odd[n.id].damaged.Store(true)
	checkRefusals(t, []refusal{{"a read of what stays damaged", calls["a read"](), errors.KindCorrupt, "stays damaged"}, {"a chunk of it", calls["a chunk"](), errors.KindCorrupt, "copy it from another"},
		{"a block of it", calls["a block"](), errors.KindCorrupt, "too"}})
	odd[n.id].damaged.Store(false)
	for what, call := range calls {
		if err := call(); err != nil {
			t.Errorf("%s, all being well again: %v", what, err)
		}
	}
}

// TestBeforeRaftRuns: a node that waits for its first members, or is closed, answers so.
func TestBeforeRaftRuns(t *testing.T) { synctest.Test(t, testBeforeRaftRuns) }

func testBeforeRaftRuns(t *testing.T) {
	c := newCluster(t, "a", "b")
	n := c.start("a") // b never comes
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 2 {
		checkRefusals(t, []refusal{
			{"a proposal", second(n.Propose(ctx, blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: 1})), errors.KindUnavailable, ""},
			{"a checkpoint", n.Checkpoint(ctx), errors.KindUnavailable, ""},
			{"adding", n.AddNonvoter(ctx, "c", "c:1"), errors.KindUnavailable, ""},
			{"promoting", n.Promote(ctx, "c"), errors.KindUnavailable, ""},
			{"removing", n.Remove(ctx, "c"), errors.KindUnavailable, ""},
			{"handing over", n.TransferLeadership(ctx, "c"), errors.KindUnavailable, ""},
			{"a proof", n.ProveLeadership(ctx), errors.KindUnavailable, ""},
			{"a read", third(n.ReadLocal(ctx, []wal.Span{{Count: 1}}, 0)), errors.KindNotReached, ""},
			{"skipping", third(n.SkipAbsentLocal(ctx, 1, 0, 0)), errors.KindNotReached, ""},
			{"a list", third(n.ServeChunks(ctx, nil, 1)), errors.KindNotReached, ""},
			{"a chunk", third(n.ServeChunk(ctx, blockstore.ChunkID{}, 0)), errors.KindNotReached, ""},
			{"a block", second(n.ServeBlock(ctx, wal.Addr{}, 0)), errors.KindNotReached, ""},
			{"an index", second(n.ServeApplied(ctx)), errors.KindNotReached, ""},
		})
		c.stop("a")
	}
}

// TestFilesInTheWay puts what cannot be in a node's data directory, and has it opened: as a node, and as what is left of a cluster.
func TestFilesInTheWay(t *testing.T) {
	c := newCluster(t, "a", "b")
	c.limit.TrailingBytes = 1
	c.startAll()
	w := c.writer('x')
	for i := range uint64(5) {
		w.write(1, i, 1, 'a', 1)
	}
	must(t, c.leader().Checkpoint(c.ctx(10*time.Second)))
	w.write(1, 9, 1, 'a', 1)
	c.caughtUp(w.last)
	id := c.leader().id
	c.stop("a")
	c.stop("b")
	dir := c.dirOf(id)
	kept := filepath.Join(c.dir, "kept")
	blocks, aside := filepath.Join(dir, "blocks"), filepath.Join(c.dir, "blocks") // stays as it is
	must(t, os.Rename(blocks, aside))
	must(t, os.CopyFS(kept, os.DirFS(dir)))
	must(t, os.Rename(aside, blocks))
	restore := func() {
		must(t, os.Rename(blocks, aside))
		must(t, os.RemoveAll(dir))
		must(t, os.CopyFS(dir, os.DirFS(kept)))
		must(t, os.Rename(aside, blocks))
	}
	mark, err := encodeCopyMark(&copyMark{Copying: true})
	must(t, err)
	put := func(name, text string) func() error {
		return func() error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600) }
	}
	mkdir := func(name string) func() error {
		return func() error {
			_ = os.Remove(filepath.Join(dir, name))
			return os.MkdirAll(filepath.Join(dir, name, "x"), 0o700)
		}
	}
	snapshots := filepath.Join("raft", "snapshots")
	for _, tc := range []struct {
		what         string
		do           func() error
		node, remain errors.Kind // what the opening as either says
	}{
		{"the note of a copy is garbage", put(copyMarkFile, "x"), errors.KindCorrupt, errors.KindCorrupt},
		{"the note of a copy is of a newer version", put(copyMarkFile, string(bytes.Replace(mark, []byte(`"version": 2`), []byte(`"version": 9`), 1))), errors.KindTooNew, errors.KindTooNew},
		{"the note of a copy is a directory", mkdir(copyMarkFile), errors.KindIO, errors.KindIO},
		{"a copy is under way", put(copyMarkFile, string(mark)), anyKind, errors.KindCorrupt},
		{"the lock is a directory", mkdir("node.lock"), errors.KindIO, errors.KindIO},
		{"the identity is gone", func() error { return os.Remove(filepath.Join(dir, identityFile)) }, anyKind, errors.KindNotExist},
		{"the identity is garbage", put(identityFile, "x"), errors.KindCorrupt, errors.KindCorrupt},
		{"the identity is a directory", mkdir(identityFile), errors.KindIO, errors.KindIO},
		{"the term is gone", func() error { return os.Remove(filepath.Join(dir, "raft", stableFile)) }, errors.KindCorrupt, errors.KindCorrupt},
		{"the term is a directory", mkdir(filepath.Join("raft", stableFile)), errors.KindCorrupt, errors.KindCorrupt},
		{"the manifests are gone, and the log begins behind them", func() error { return os.RemoveAll(filepath.Join(dir, snapshots)) }, errors.KindCorrupt, errors.KindCorrupt},
		{"the manifests are a file", func() error { _ = os.RemoveAll(filepath.Join(dir, snapshots)); return put(snapshots, "x")() }, errors.KindIO, errors.KindIO},
		{"the log is a file", func() error {
			_ = os.RemoveAll(filepath.Join(dir, "raft", "log"))
			return put(filepath.Join("raft", "log"), "x")()
		}, errors.KindCorrupt, errors.KindCorrupt},
	} {
		restore()
		inc, err := Incarnation(dir, blockstore.NodeID(id))
		must(t, err)
		must(t, tc.do())
		if err := openAndStart(c, id); kindOf(err) != tc.node && tc.node != anyKind {
			t.Errorf("%s: the node starts with %v, want %v", tc.what, err, tc.node)
		}
		restore()
		dev, err := device.Open(filepath.Join(dir, "blocks"), device.Options{NodeID: id, ClusterID: inc, Logger: slog.New(slog.DiscardHandler), NoDirect: true})
		must(t, err)
		must(t, tc.do())
		s, err := OpenSurvivor(dir, dev, slog.New(slog.DiscardHandler))
		if err == nil {
			s.Close()
		}
		if kindOf(err) != tc.remain {
			t.Errorf("%s: what is left opens with %v, want %v", tc.what, err, tc.remain)
		}
		must(t, dev.Close())
	}
}

// What an opening says: nothing; something.
const (
	opens   errors.Kind = 254
	anyKind errors.Kind = 255
)

func kindOf(err error) errors.Kind {
	if err == nil {
		return opens
	}
	return errors.KindOf(err)
}

// openAndStart returns the error that a node is opened with, or ends itself with.
func openAndStart(c *cluster, id string) error {
	n, err := c.open(id, nil)
	if err != nil {
		return err
	}
	go n.mux.Serve()
	defer func() { n.Close(); n.mux.Close(); n.dev.Close() }()
	if err := n.Start(context.Background()); err != nil {
		return err
	}
	for range 100 {
		select {
		case err := <-n.fatal:
			return err
		case <-time.After(10 * time.Millisecond):
		}
		if n.raft.Load() != nil {
			return nil
		}
	}
	return fmt.Errorf("it neither starts nor ends")
}

// TestBoltLogFails: what the other kind of log says of a file that is closed, and of entries that do not follow.
func TestBoltLogFails(t *testing.T) {
	b, err := openBoltBack(filepath.Join(t.TempDir(), "log.db"))
	must(t, err)
	entry := func(i uint64) []*raft.Log { return []*raft.Log{{Index: i, Term: 1, Data: []byte("x")}} }
	for i := uint64(1); i < 9; i++ {
		must(t, b.append(entry(i)))
	}
	checkRefusals(t, []refusal{{"a gap", b.append(entry(12)), errors.KindInvalid, "index 12 where 9 is next"}})
	must(t, b.db.Close())
	for what, err := range map[string]error{"append": b.append(entry(9)), "front": b.deleteFront(3), "back": b.deleteBack(7), "get": b.get(5, new(raft.Log)), "count": b.count()} {
		if err == nil {
			t.Errorf("%s of a closed log succeeds", what)
		}
	}
	if b.first() != 1 || b.last() != 8 {
		t.Errorf("what failed is taken for done: %d to %d", b.first(), b.last())
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "log.db"), bytes.Repeat([]byte("x"), 9000), 0o600))
	if _, err := openBoltBack(filepath.Join(dir, "log.db")); !errors.Is(err, errors.KindIO) {
		t.Errorf("garbage: %v", err)
	}
}
