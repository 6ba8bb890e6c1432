package raftstore

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/blockstore"
	"dfs/blockstore/device"
	"dfs/internal/errors"
	"dfs/internal/mux"
	"dfs/internal/simdisk"
	"dfs/wal"
	"dfs/wal/seglog"
)

// memNet is a network in memory, whose links can be cut.
type memNet struct {
	mu    sync.Mutex
	at    map[string]*memListener
	cut   map[string]bool // nodes (addresses) that reach nobody
	slow  map[string]int  // bytes a second that a connection brings to a node at most
	conns map[*memConn]struct{}
}

func newMemNet() *memNet {
	return &memNet{at: map[string]*memListener{}, cut: map[string]bool{}, slow: map[string]int{}, conns: map[*memConn]struct{}{}}
}

type memListener struct {
	net  *memNet
	addr string
	in   chan net.Conn
	done chan struct{}
	once sync.Once
}

type memConn struct {
	net.Conn
	net  *memNet
	a, b string
}

type memAddr string

func (memAddr) Network() string  { return "mem" }
func (a memAddr) String() string { return string(a) }

func (c *memConn) RemoteAddr() net.Addr { return memAddr(c.b) }

func (c *memConn) Close() error {
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// Write takes its time if the other side's network is slow.
func (c *memConn) Write(b []byte) (int, error) {
	c.net.mu.Lock()
	rate := c.net.slow[c.b]
	c.net.mu.Unlock()
	if rate > 0 {
		time.Sleep(time.Duration(len(b)) * time.Second / time.Duration(rate))
	}
	return c.Conn.Write(b)
}

func (m *memNet) slowDown(addr string, rate int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slow[addr] = rate
}

func (m *memNet) listen(addr string) net.Listener {
	l := &memListener{net: m, addr: addr, in: make(chan net.Conn), done: make(chan struct{})}
	m.mu.Lock()
	m.at[addr] = l
	m.mu.Unlock()
	return l
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		if l.net.at[l.addr] == l {
			delete(l.net.at, l.addr)
		}
		l.net.mu.Unlock()
	})
	return nil
}
func (l *memListener) Addr() net.Addr { return memAddr(l.addr) }

func (m *memNet) dialer(from string) mux.Dialer {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		m.mu.Lock()
		l := m.at[addr]
		if l == nil || m.cut[from] || m.cut[addr] {
			m.mu.Unlock()
			return nil, fmt.Errorf("mem: %s cannot reach %s", from, addr)
		}
		x, y := net.Pipe()
		near, far := &memConn{x, m, from, addr}, &memConn{y, m, addr, from}
		m.conns[near], m.conns[far] = struct{}{}, struct{}{}
		m.mu.Unlock()
		select {
		case l.in <- far:
			return near, nil
		case <-l.done:
		case <-ctx.Done():
		}
		near.Close()
		far.Close()
		return nil, fmt.Errorf("mem: %s refused", addr)
	}
}

// isolate cuts a node off, or joins it again.
func (m *memNet) isolate(addr string, cut bool) {
	m.mu.Lock()
	m.cut[addr] = cut
	var doomed []*memConn
	for c := range m.conns {
		if cut && (c.a == addr || c.b == addr) {
			doomed = append(doomed, c)
		}
	}
	m.mu.Unlock()
	for _, c := range doomed {
		c.Close()
	}
}

// cluster is some nodes in one process.
type cluster struct {
	t     testing.TB
	net   *memNet
	dir   string
	kind  LogKind
	limit Limits
	boot  map[blockstore.NodeID]string
	wrap  func(id string, d blockstore.Device) blockstore.Device
	disks map[string]*simdisk.Disk // in place of the host's, where there is one
	mute  atomic.Bool              // no node is given anything that it fetches

	mu    sync.Mutex
	nodes map[string]*testNode // by address
	calls map[string]int       // of the fetcher, by method
}

type testNode struct {
	*Node
	id    string
	dev   blockstore.Device
	mux   *mux.Mux
	fatal chan error
}

func addrOf(id string) string { return id + ":1" }

func fastLimits() Limits {
	return Limits{HeartbeatTimeout: 150 * time.Millisecond, CommitTimeout: 30 * time.Millisecond, RPCTimeout: 2 * time.Second,
		ReadWait: 500 * time.Millisecond, ScrubPause: -1, HoldMax: 5 * time.Second}
}

func newCluster(t testing.TB, ids ...string) *cluster {
	c := &cluster{t: t, net: newMemNet(), dir: t.TempDir(), kind: LogSeg, limit: fastLimits(),
		boot: map[blockstore.NodeID]string{}, nodes: map[string]*testNode{}, calls: map[string]int{}}
	for _, id := range ids {
		c.boot[blockstore.NodeID(id)] = addrOf(id)
	}
	t.Cleanup(c.closeAll)
	return c
}

// inVirtualTime runs a part of a test beside others, by a clock of its own that stands still while anything runs: how busy
// the machine is makes no difference.
func inVirtualTime(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, f)
	})
}

func (c *cluster) logger() *slog.Logger {
	w := io.Discard
	level := slog.LevelInfo
	if os.Getenv("RAFTSTORE_LOG") != "" {
		w, level = os.Stderr, slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With("test", c.t.Name())
}

func (c *cluster) closeAll() {
	c.mu.Lock()
	var all []*testNode
	for _, n := range c.nodes {
		all = append(all, n)
	}
	c.mu.Unlock()
	for _, n := range all {
		c.stop(n.id)
	}
}

func (c *cluster) dirOf(id string) string { return filepath.Join(c.dir, id) }

func (c *cluster) open(id string, change func(o *Options)) (*testNode, error) {
	dir := c.dirOf(id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log := c.logger()
	inc, err := Incarnation(dir, blockstore.NodeID(id))
	if err != nil {
		return nil, err
	}
	var dev blockstore.Device
	do := device.Options{NodeID: id, ClusterID: inc, Create: true, Logger: log, NoDirect: true}
	seg := seglog.Options{SegmentBytes: 1 << 20}
	disk := c.disks[id]
	if disk != nil {
		do.Volume = simdisk.Volume{Disk: disk}
		seg = seglog.Options{SegmentBytes: 128 << 10, SpareAfter: 16 << 10, FS: simdisk.Log{Disk: disk}}
	}
	dev, err = device.Open(filepath.Join(dir, "blocks"), do)
	if err != nil {
		return nil, err
	}
	if c.wrap != nil {
		dev = c.wrap(id, dev)
	}
	m := mux.New(c.net.listen(addrOf(id)), log)
	tn := &testNode{id: id, dev: dev, mux: m, fatal: make(chan error, 4)}
	o := Options{ID: blockstore.NodeID(id), Dir: dir, Advertise: addrOf(id), Mux: m, Dial: c.net.dialer(addrOf(id)), Device: dev,
		LogKind: c.kind, Peers: &memFetcher{c, addrOf(id)}, Logger: log, Fatal: func(err error) { tn.fatal <- err },
		Bootstrap: c.boot, Limits: c.limit, Seg: seg}
	if disk != nil {
		o.Power = disk
	}
	if change != nil {
		change(&o)
	}
	tn.Node, err = Open(o)
	if err != nil {
		m.Close()
		dev.Close()
		return nil, err
	}
	return tn, nil
}

// start runs a node; its directory is kept from one run to the next.
func (c *cluster) start(id string) *testNode {
	c.t.Helper()
	return c.startWith(id, nil)
}

func (c *cluster) startWith(id string, change func(o *Options)) *testNode {
	c.t.Helper()
	tn, err := c.open(id, change)
	if err != nil {
		c.t.Fatalf("open %s: %v", id, err)
	}
	go tn.mux.Serve()
	c.mu.Lock()
	c.nodes[addrOf(id)] = tn
	c.mu.Unlock()
	if err := tn.Start(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	return tn
}

func (c *cluster) startAll() {
	for id := range c.boot {
		c.start(string(id))
	}
}

// stop ends a node, as a kill would for its disk: nothing is checkpointed.
func (c *cluster) stop(id string) {
	c.mu.Lock()
	n := c.nodes[addrOf(id)]
	delete(c.nodes, addrOf(id))
	c.mu.Unlock()
	if n == nil {
		return
	}
	n.Close()
	n.mux.Close()
	n.dev.Close()
}

func (c *cluster) node(id string) *testNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[addrOf(id)]
}

func (c *cluster) running() []*testNode {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*testNode
	for _, n := range c.nodes {
		out = append(out, n)
	}
	return out
}

// eventually waits until f holds.
func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			for _, n := range c.running() {
				c.t.Logf("%s: %+v", n.id, n.Status())
			}
			c.t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader waits for the leader among the running nodes that are not cut off. One that was cut off until now may not have heard of its
// successor yet: the later term counts.
func (c *cluster) leader() *testNode {
	c.t.Helper()
	var found *testNode
	c.eventually("a leader", func() bool {
		for _, n := range c.running() {
			c.net.mu.Lock()
			cut := c.net.cut[addrOf(n.id)]
			c.net.mu.Unlock()
			if l := n.Leadership(); !cut && l.Self && (found == nil || l.Term > found.Leadership().Term) {
				found = n
			}
		}
		return found != nil
	})
	return found
}

func (c *cluster) follower() *testNode {
	l := c.leader()
	for _, n := range c.running() {
		if n != l {
			return n
		}
	}
	c.t.Fatal("no follower")
	return nil
}

// caughtUp waits until every running node has applied index.
func (c *cluster) caughtUp(index uint64) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("all at %d", index), func() bool {
		for _, n := range c.running() {
			if n.Applied() < index || !n.applier.progress.settled() {
				return false
			}
		}
		return true
	})
}

// memFetcher calls the other node's Serve methods.
type memFetcher struct {
	c    *cluster
	from string
}

var (
	_ PeerFetcher    = (*memFetcher)(nil)
	_ SuspectFetcher = (*memFetcher)(nil)
)

func (f *memFetcher) to(addr, method string) (*Node, error) {
	f.c.net.mu.Lock()
	cut := f.c.net.cut[addr] || f.c.net.cut[f.from]
	f.c.net.mu.Unlock()
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.c.calls[method]++
	n := f.c.nodes[addr]
	if n == nil || cut || f.c.mute.Load() {
		return nil, errors.New(errors.KindUnavailable, "%s is not there", addr)
	}
	return n.Node, nil
}

func (f *memFetcher) FetchChunks(ctx context.Context, addr string, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, uint64, error) {
	n, err := f.to(addr, "chunks")
	if err != nil {
		return nil, 0, err
	}
	return n.ServeChunks(ctx, after, max)
}

func (f *memFetcher) FetchChunk(ctx context.Context, addr string, id blockstore.ChunkID, min uint64) (blockstore.ChunkData, uint64, error) {
	n, err := f.to(addr, "chunk")
	if err != nil {
		return blockstore.ChunkData{}, 0, err
	}
	return n.ServeChunk(ctx, id, min)
}

func (f *memFetcher) FetchBlock(ctx context.Context, addr string, a wal.Addr, min uint64) (PeerBlock, error) {
	n, err := f.to(addr, "block")
	if err != nil {
		return PeerBlock{}, err
	}
	return n.ServeBlock(ctx, a, min)
}

func (f *memFetcher) FetchSuspect(ctx context.Context, addr string, a wal.Addr, min uint64) (PeerBlock, error) {
	n, err := f.to(addr, "suspect")
	if err != nil {
		return PeerBlock{}, err
	}
	return n.ServeSuspect(ctx, a, min)
}

func (f *memFetcher) AppliedIndex(ctx context.Context, addr string) (uint64, error) {
	n, err := f.to(addr, "applied")
	if err != nil {
		return 0, err
	}
	return n.ServeApplied(ctx)
}

func (f *memFetcher) Usage(ctx context.Context, addr string) (PeerUsage, error) {
	n, err := f.to(addr, "usage")
	if err != nil {
		return PeerUsage{}, err
	}
	return n.ServeUsage(ctx)
}

// writer is a client session that writes blocks with increasing content, re-sending what has an unknown outcome.
type writer struct {
	c     *cluster
	ses   blockstore.Session
	epoch blockstore.Epoch
	seq   uint64
	last  uint64 // index of the newest acknowledged record
}

func (c *cluster) ctx(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	c.t.Cleanup(cancel)
	return ctx
}

// propose gets cmd done at whoever leads.
func (c *cluster) propose(cmd blockstore.Command) blockstore.Result {
	c.t.Helper()
	for range 200 {
		l := c.leader()
		res, err := l.Propose(c.ctx(5*time.Second), cmd)
		if err == nil {
			return res
		}
		if !errors.Is(err, errors.KindNotLeader) && !errors.Is(err, errors.KindUnavailable) {
			c.t.Fatalf("propose: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Fatal("no proposal went through")
	return blockstore.Result{}
}

func (c *cluster) writer(name byte) *writer {
	c.t.Helper()
	w := &writer{c: c, ses: blockstore.Session{Token: blockstore.Token{name}}, epoch: 1}
	res := c.propose(blockstore.Command{Kind: blockstore.CmdOpenWriter, Token: w.ses.Token, Name: string(name), TTLMilli: 10000})
	w.ses.Writer = res.Writer
	c.leader().View(func(s *blockstore.State, _ uint64) { w.epoch = max(s.Epoch(), 1) })
	w.must(c.propose(blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: w.epoch}))
	w.must(c.propose(blockstore.Command{Kind: blockstore.CmdAttachWriter, Writer: w.ses.Writer, Token: w.ses.Token, Epoch: w.epoch}))
	w.must(c.propose(blockstore.Command{Kind: blockstore.CmdReserve, Writer: w.ses.Writer, Token: w.ses.Token, Op: 1, Count: 100000}))
	return w
}

func (w *writer) must(res blockstore.Result) {
	w.c.t.Helper()
	if res.Err != nil {
		w.c.t.Fatal(res.Err)
	}
}

func (w *writer) command(seq uint64, rec *wal.Record) blockstore.Command {
	return blockstore.Command{Kind: blockstore.CmdWrite, Writer: w.ses.Writer, Token: w.ses.Token, Epoch: w.epoch, Seq: seq, Record: rec.AppendTo(nil)}
}

// write makes blocks of vdisk hold fill(block, tag); new tells how many were absent.
func (w *writer) write(vdisk, block, count uint64, tag byte, fresh int64) {
	w.c.t.Helper()
	w.seq++
	res := w.c.propose(w.command(w.seq, fullRecord(vdisk, block, count, tag, fresh)))
	w.must(res)
	w.last = res.Index
}

func fullRecord(vdisk, block, count uint64, tag byte, fresh int64) *wal.Record {
	rec := &wal.Record{AllocDelta: fresh}
	for i := range count {
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: vdisk, Block: block + i}, Data: fill(block+i, tag)})
	}
	return rec
}

func fill(block uint64, tag byte) []byte {
	b := make([]byte, wal.BlockSize)
	for i := range b {
		b[i] = tag ^ byte(block) ^ byte(i)
	}
	return b
}

// check reads blocks from a node and compares.
func (n *testNode) check(t testing.TB, min, vdisk, block, count uint64, tag byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	res, index, err := n.ReadLocal(ctx, []wal.Span{{VDisk: vdisk, Block: block, Count: count}}, min)
	if err != nil {
		t.Fatalf("%s: read at %d: %v", n.id, min, err)
	}
	if index < min {
		t.Fatalf("%s: read as of %d, want %d at least", n.id, index, min)
	}
	for i := range count {
		got := res[0].Data[i*wal.BlockSize : (i+1)*wal.BlockSize]
		if string(got) != string(fill(block+i, tag)) {
			t.Fatalf("%s: block %d of vdisk %d is not what was written (tag %c): %x…", n.id, block+i, vdisk, tag, got[:8])
		}
		if res[0].Present[i/8]>>(i%8)&1 == 0 {
			t.Fatalf("%s: block %d of vdisk %d is absent", n.id, block+i, vdisk)
		}
	}
}
