package raftstore

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/wal"
)

// refusal is a call and what it must answer.
type refusal struct {
	what string
	err  error
	kind errors.Kind
	text string // part of it
}

func checkRefusals(t *testing.T, list []refusal) {
	t.Helper()
	for _, r := range list {
		if !errors.Is(r.err, r.kind) || !strings.Contains(r.err.Error(), r.text) {
			t.Errorf("%s: got %v, want %v with %q", r.what, r.err, r.kind, r.text)
		}
	}
}

func second[A any](_ A, err error) error        { return err }
func third[A, B any](_ A, _ B, err error) error { return err }

// TestOptionsRefused lists the options that cannot be.
func TestOptionsRefused(t *testing.T) {
	c := newCluster(t, "a")
	with := func(change func(o *Options)) error {
		_, err := c.open("a", change)
		return err
	}
	checkRefusals(t, []refusal{
		{"an id with a slash", with(func(o *Options) { o.ID = "a/b" }), errors.KindInvalid, "node id"},
		{"no directory", with(func(o *Options) { o.Dir = "" }), errors.KindInvalid, "no data directory"},
		{"no peers", with(func(o *Options) { o.Peers = nil }), errors.KindInvalid, "Peers"},
		{"no such log", with(func(o *Options) { o.LogKind = "tape" }), errors.KindInvalid, "tape"},
		{"in flight less than an entry", with(func(o *Options) { o.Limits.InFlightBytes = 4096 }), errors.KindInvalid, "InFlightBytes"},
		{"an address without a port", with(func(o *Options) { o.Advertise = "host" }), errors.KindInvalid, "host:port"},
		{"a founder with an odd id", with(func(o *Options) { o.Bootstrap = map[blockstore.NodeID]string{"": "x:1"} }), errors.KindInvalid, "bootstrap list"},
		{"a founder with an odd address", with(func(o *Options) { o.Bootstrap = map[blockstore.NodeID]string{"a": "a:1", "b": "b"} }), errors.KindInvalid, "host:port"},
		{"a list without this node", with(func(o *Options) { o.Bootstrap = map[blockstore.NodeID]string{"b": "b:1"} }), errors.KindInvalid, "must name this node"},
		{"no list and no member", with(func(o *Options) { o.Bootstrap = nil }), errors.KindInvalid, "belongs to no cluster"},
	})
}

// TestDataDirectoryRefused damages the data directory of a node that lives, one file at a time.
func TestDataDirectoryRefused(t *testing.T) {
	c := newCluster(t, "a")
	c.start("a")
	w := c.writer('x')
	w.write(1, 0, 1, 'a', 1)
	if _, err := c.open("a", nil); !errors.Is(err, errors.KindBusy) {
		t.Errorf("a directory in use: %v", err)
	}
	c.stop("a")
	raftDir := filepath.Join(c.dirOf("a"), "raft")
	replace := func(path string, do func() error) func() {
		kept := filepath.Join(c.dir, "kept")
		must(t, os.Rename(path, kept))
		must(t, do())
		return func() { must(t, os.RemoveAll(path)); must(t, os.Rename(kept, path)) }
	}
	file := func(path, content string) func() error {
		return func() error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	identity, stable, log, snaps := filepath.Join(c.dirOf("a"), identityFile), filepath.Join(raftDir, stableFile), filepath.Join(raftDir, "log"), filepath.Join(raftDir, "snapshots")
	nothing := func() error { return nil }
	for _, tc := range []struct {
		what, path string
		do         func() error
		kind       errors.Kind
		text       string
	}{
		{"identity is garbage", identity, file(identity, "{}"), errors.KindForeign, identity},
		{"identity is a directory", identity, func() error { return os.Mkdir(identity, 0o700) }, errors.KindIO, "identity"},
		{"no term and vote", stable, nothing, errors.KindCorrupt, "how it has voted"},
		{"term and vote are garbage", stable, file(stable, "x"), errors.KindCorrupt, "how it has voted"},
		{"no log", log, nothing, errors.KindCorrupt, "what it has promised"},
		{"snapshots are a file", snaps, file(snaps, "x"), errors.KindIO, "snapshots"},
	} {
		back := replace(tc.path, tc.do)
		_, err := c.open("a", nil)
		checkRefusals(t, []refusal{{tc.what, err, tc.kind, tc.text}})
		back()
	}
	n := c.start("a") // nothing was lost by all of that
	c.eventually("the block is there", func() bool { return n.Applied() >= w.last && n.applier.progress.settled() })
	n.check(t, w.last, 1, 0, 1, 'a')
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCallsRefused: what a node that runs answers to what cannot be.
func TestCallsRefused(t *testing.T) { synctest.Test(t, testCallsRefused) }

func testCallsRefused(t *testing.T) {
	c := newCluster(t, "a")
	n := c.start("a")
	c.leader()
	w := c.writer('x')
	w.write(1, 0, 1, 'a', 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ended, end := context.WithCancel(ctx)
	end()
	proposeForAWhile := func() error {
		soon, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		defer stop()
		return second(n.Propose(soon, blockstore.Command{Kind: blockstore.CmdOpenWriter, Token: blockstore.Token{9}, Name: "n", TTLMilli: 1000}))
	}
	far := wal.Span{Block: 1<<64 - 1, Count: 2}
	_, held, err := n.HoldApply(ctx)
	must(t, err)
	checkRefusals(t, []refusal{
		{"a read beyond the end", third(n.ReadLocal(ctx, []wal.Span{far}, 0)), errors.KindInvalid, "cannot read"},
		{"a read of nothing", third(n.ReadLocal(ctx, nil, 0)), errors.KindInvalid, "1 to"},
		{"a read of too much", third(n.ReadLocal(ctx, []wal.Span{{Count: blockstore.ReadBlocksMax}, {Count: 1}}, 0)), errors.KindInvalid, "1 to"},
		{"presence beyond the end", third(n.PresenceLocal(ctx, far, 0)), errors.KindInvalid, "presence"},
		{"a read from the future", third(n.ReadLocal(ctx, []wal.Span{{Count: 1}}, 1<<40)), errors.KindNotReached, "not yet"},
		{"presence in the future", third(n.PresenceLocal(ctx, wal.Span{Count: 1}, 1<<40)), errors.KindNotReached, "not yet"},
		{"waiting for the future", n.WaitApplied(ended, 1<<40), errors.KindNotReached, "not yet"},
		{"a second hold", third(n.HoldApply(ctx)), errors.KindBusy, ""},
		{"a hold at 0", second(n.HoldAt(ctx, 0)), errors.KindInvalid, "index 0"},
		{"a proposal that is not waited for", proposeForAWhile(), errors.KindUnavailable, "unknown"},
		{"a proof that is not waited for", n.ProveLeadership(ended), errors.KindUnavailable, "in time"},
		{"a member that nobody knows", n.Promote(ctx, "z"), errors.KindNotExist, "no member z"},
		{"removing one that nobody knows", n.Remove(ctx, "z"), errors.KindNotExist, "no member z"},
		{"removing the last voter", n.Remove(ctx, "a"), errors.KindInvalid, "only voter"},
		{"leadership to nobody", n.TransferLeadership(ctx, "z"), errors.KindNotExist, "no member z"},
		{"leadership with nobody else", n.TransferLeadership(ctx, ""), errors.KindUnavailable, "not handed over"},
		{"adding at an odd address", n.AddNonvoter(ctx, "b", "b"), errors.KindInvalid, "host:port"},
		{"adding one that is not there", n.AddNonvoter(ctx, "b", "b:1"), errors.KindUnavailable, "cannot add node b"},
		{"adding a node by another's name", n.AddNonvoter(ctx, "b", "a:1"), errors.KindInvalid, "calls itself a"},
	})
	held()
	must(t, n.ProveLeadership(ctx)) // what was not waited for is done
}

// TestOtherClusterIsNotAdded: a node that lives in another cluster, and one that the list gives the wrong name.
func TestOtherClusterIsNotAdded(t *testing.T) { synctest.Test(t, testOtherClusterIsNotAdded) }

func testOtherClusterIsNotAdded(t *testing.T) {
	c := newCluster(t, "a")
	a := c.start("a")
	c.leader()
	c.boot = map[blockstore.NodeID]string{"b": addrOf("b")}
	b := c.start("b")
	c.eventually("b lives", func() bool { return b.Leadership().Self })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	checkRefusals(t, []refusal{{"a node of another cluster", a.AddNonvoter(ctx, "b", addrOf("b")), errors.KindForeign, "belongs to cluster"}})
	c.boot = map[blockstore.NodeID]string{"c": addrOf("c"), "d": addrOf("a")}
	d := c.start("c")
	select {
	case err := <-d.fatal:
		checkRefusals(t, []refusal{{"a list with a wrong name", err, errors.KindForeign, "correct the list"}})
	case <-time.After(10 * time.Second):
		t.Error("a list that calls node a by another name is taken")
	}
}

// TestCodecsRefuse: what is read back and makes no sense, though its checksum fits.
func TestCodecsRefuse(t *testing.T) {
	le := binary.LittleEndian
	good := (&manifest{Applied: 3, State: []byte("s"), Sources: []string{"a:1"}}).encode()
	with := func(change func(b []byte) []byte) error {
		b := change(append([]byte(nil), good...))
		le.PutUint32(b[8:], crc.Checksum(b[manifestHead:]))
		_, err := decodeManifest(b)
		return err
	}
	var i incarnation
	checkRefusals(t, []refusal{
		{"a manifest of too many sources", with(func(b []byte) []byte { le.PutUint32(b[manifestHead+8:], sourcesMax+1); return b }), errors.KindCorrupt, "sources"},
		{"a manifest that ends in a source", with(func(b []byte) []byte { return b[:manifestHead+14] }), errors.KindCorrupt, "too early"},
		{"a manifest that ends in its head", with(func(b []byte) []byte { return b[:manifestHead+4] }), errors.KindCorrupt, "too early"},
		{"an address without an incarnation", second((&stream{}).Dial("a:1", time.Second)), errors.KindInvalid, "incarnation"},
	})
	if i.UnmarshalText([]byte("xyz")) == nil {
		t.Error("an incarnation that is not hex is taken")
	}
	if _, err := decodeIdentity([]byte(strings.Replace(string(mustIdentity(t)), strings.Repeat("0", 32), "00", 1))); err == nil {
		t.Error("a cluster id cut short is taken")
	}
	checkRefusals(t, []refusal{{"the applier over garbage", second(newApplier(metaDevice{}, nil, nil, nil)), errors.KindOf(second(blockstore.DecodeState([]byte("x")))), "index 7"}})
}

func mustIdentity(t *testing.T) []byte {
	b, err := encodeIdentity(&identity{Node: "a", Cluster: strings.Repeat("0", 32)})
	must(t, err)
	return b
}

// metaDevice has a checkpoint whose state machine cannot be read.
type metaDevice struct{ blockstore.Device }

func (metaDevice) Meta() (uint64, []byte) { return 7, []byte("x") }
