package lockserver

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// fakeCluster is a replicated log without replicas: one state, whose leader
// the test names. A node that is cut off still believes what it believed.
type fakeCluster struct {
	t     *testing.T
	mu    sync.Mutex
	state *blockstore.State
	index uint64
	term  uint64
	lead  *fakeNode
	nodes []*fakeNode
	hold  map[blockstore.CommandKind]chan struct{} // proposals of that kind wait until it is closed
	log   []blockstore.Command
}

type fakeNode struct {
	c       *fakeCluster
	name    blockstore.NodeID
	server  *Server
	cut     bool // reaches neither the other nodes nor its clients
	alone   bool // reaches its clients, not the other nodes
	liar    bool // ProveLeadership lies, as raft's VerifyLeader can
	self    bool
	selfIn  uint64
	watch   []chan blockstore.Leadership
	streams map[*pipe]struct{}
	changed chan struct{}
}

func newCluster(t *testing.T, nodes int, o Options) *fakeCluster {
	c := &fakeCluster{t: t, state: blockstore.NewState(), hold: map[blockstore.CommandKind]chan struct{}{}}
	for i := range nodes {
		n := &fakeNode{c: c, name: blockstore.NodeID(string(rune('a' + i))), streams: map[*pipe]struct{}{}, changed: make(chan struct{})}
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil)).With("node", n.name)
		s, err := NewServer(n, o)
		if err != nil {
			t.Fatal(err)
		}
		n.server = s
		c.nodes = append(c.nodes, n)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { s.Run(ctx); close(done) }()
		t.Cleanup(func() { cancel(); <-done })
	}
	return c
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) { w.t.Log(string(b[:len(b)-1])); return len(b), nil }

// elect makes n the leader of a new term; the one before learns of it if it can.
func (c *fakeCluster) elect(n *fakeNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term++
	c.lead = n
	for _, o := range c.nodes {
		if o == n {
			o.self, o.selfIn = true, c.term
		} else if !o.cut && !o.alone {
			o.self = false
		}
		o.tell()
	}
}

// down stops the node's reach; its streams break unless only it is alone.
func (c *fakeCluster) down(n *fakeNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n.cut = true
	for p := range n.streams {
		p.cancel()
	}
}

func (n *fakeNode) tell() {
	close(n.changed)
	n.changed = make(chan struct{})
	for _, w := range n.watch {
		select {
		case <-w:
		default:
		}
		w <- n.leadership()
	}
}

func (n *fakeNode) leadership() blockstore.Leadership {
	return blockstore.Leadership{Self: n.self, Term: n.selfIn}
}

func (n *fakeNode) Propose(ctx context.Context, cmd blockstore.Command) (blockstore.Result, error) {
	if !sleep(ctx, time.Millisecond) {
		return blockstore.Result{}, errors.Of(errors.KindUnavailable)
	}
	for {
		n.c.mu.Lock()
		if held := n.c.hold[cmd.Kind]; held != nil {
			n.c.mu.Unlock()
			select {
			case <-held:
			case <-ctx.Done():
				return blockstore.Result{}, errors.Of(errors.KindUnavailable)
			}
			n.c.mu.Lock()
		}
		switch {
		case n.c.lead == n && !n.cut && !n.alone:
			n.c.index++
			n.c.log = append(n.c.log, cmd)
			res, _ := n.c.state.Apply(n.c.index, cmd)
			n.c.mu.Unlock()
			return res, nil
		case !n.self:
			n.c.mu.Unlock()
			return blockstore.Result{}, errors.Of(errors.KindNotLeader)
		}
		changed := n.changed
		n.c.mu.Unlock()
		select { // cut off: the outcome stays open
		case <-changed:
		case <-ctx.Done():
			return blockstore.Result{}, errors.Of(errors.KindUnavailable)
		}
	}
}

func (n *fakeNode) ProposeAsync(ctx context.Context, cmd blockstore.Command, done func(blockstore.Result, error)) {
	done(n.Propose(ctx, cmd))
}

func (n *fakeNode) ProveLeadership(ctx context.Context) error {
	if !sleep(ctx, time.Millisecond) {
		return errors.Of(errors.KindUnavailable)
	}
	for {
		n.c.mu.Lock()
		ok, self, changed := n.c.lead == n && !n.cut && !n.alone || n.liar, n.self, n.changed
		n.c.mu.Unlock()
		switch {
		case ok:
			return nil
		case !self:
			return errors.Of(errors.KindNotLeader)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Of(errors.KindUnavailable)
		}
	}
}

func (n *fakeNode) Leadership() blockstore.Leadership {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.leadership()
}

func (n *fakeNode) WatchLeadership(ctx context.Context) <-chan blockstore.Leadership {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	w := make(chan blockstore.Leadership, 1)
	w <- n.leadership()
	n.watch = append(n.watch, w)
	return w
}

func (n *fakeNode) View(f func(*blockstore.State, uint64)) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	f(n.c.state, n.c.index)
}

func (n *fakeNode) WaitApplied(context.Context, uint64) error { return nil }

var _ blockstore.Proposer = (*fakeNode)(nil)

// write puts an empty record of the session into the log; it returns its index.
func (c *fakeCluster) write(ses blockstore.Session, epoch blockstore.Epoch, seq uint64) (uint64, error) {
	rec := (&wal.Record{}).AppendTo(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	res, _ := c.state.Apply(c.index, blockstore.Command{Kind: blockstore.CmdWrite, Writer: ses.Writer, Token: ses.Token, Epoch: epoch, Seq: seq, Record: rec})
	return res.Index, res.Err
}

// bump advances the log by an entry that changes nothing, and returns its index.
func (c *fakeCluster) bump() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	c.state.Apply(c.index, blockstore.Command{Kind: blockstore.CmdSetSetting, Name: blockstore.SettingFeatures})
	return c.index
}

// pipe is one stream in memory.
type pipe struct {
	ctx    context.Context
	cancel context.CancelFunc
	up     chan *ClientMsg
	down   chan *ServerMsg
	err    error // what Serve returned; read after served
	served chan struct{}
	link   *link
}

// link is one client's network.
type link struct {
	c      *fakeCluster
	mu     sync.Mutex
	only   *fakeNode // where to dial; nil: the leader
	cut    bool      // nothing goes up or down, streams stay open
	paused chan struct{}
	onUp   func(*ClientMsg) bool // false: lost
	onDown func(*ServerMsg) bool
	queue  int // messages on their way in each direction; 0: 1000
}

func (k *link) Dial(ctx context.Context) (ClientStream, error) {
	k.mu.Lock()
	n, cut := k.only, k.cut
	k.mu.Unlock()
	if n == nil {
		k.c.mu.Lock()
		n = k.c.lead
		k.c.mu.Unlock()
	}
	if cut || n == nil {
		return nil, errors.Of(errors.KindUnavailable)
	}
	queue := cmp.Or(k.queue, 1000)
	p := &pipe{up: make(chan *ClientMsg, queue), down: make(chan *ServerMsg, queue), served: make(chan struct{}), link: k}
	p.ctx, p.cancel = context.WithCancel(ctx)
	k.c.mu.Lock()
	if n.cut {
		k.c.mu.Unlock()
		return nil, errors.Of(errors.KindUnavailable)
	}
	n.streams[p] = struct{}{}
	k.c.mu.Unlock()
	go func() {
		p.err = n.server.Serve(p.ctx, serverEnd{p})
		close(p.served)
		k.c.mu.Lock()
		delete(n.streams, p)
		k.c.mu.Unlock()
	}()
	return clientEnd{p}, nil
}

type clientEnd struct{ *pipe }
type serverEnd struct{ *pipe }

func (e clientEnd) Close(error) { e.cancel() }

func (e clientEnd) Send(m *ClientMsg) error {
	e.link.mu.Lock()
	lost := e.link.cut || e.link.onUp != nil && !e.link.onUp(m)
	e.link.mu.Unlock()
	if lost {
		return nil
	}
	select {
	case e.up <- m:
		return nil
	case <-e.ctx.Done():
		return errors.Of(errors.KindUnavailable)
	}
}

func (e clientEnd) Recv() (*ServerMsg, error) {
	for {
		select {
		case m := <-e.down:
			if e.link.pass(m) {
				return m, nil
			}
			continue
		case <-e.ctx.Done():
			return nil, errors.Of(errors.KindUnavailable)
		case <-e.served:
		}
		select {
		case m := <-e.down:
			if e.link.pass(m) {
				return m, nil
			}
		default:
			e.link.mu.Lock()
			cut := e.link.cut
			e.link.mu.Unlock()
			if cut { // the end does not arrive either
				<-e.ctx.Done()
				return nil, errors.Of(errors.KindUnavailable)
			}
			return nil, e.err
		}
	}
}

// pass waits while the client is paused, and says whether m arrives.
func (k *link) pass(m *ServerMsg) bool {
	k.mu.Lock()
	paused := k.paused
	k.mu.Unlock()
	if paused != nil {
		<-paused
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.cut && (k.onDown == nil || k.onDown(m))
}

func (k *link) set(f func(k *link)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(k)
}

func (e serverEnd) Recv() (*ClientMsg, error) {
	select {
	case m := <-e.up:
		return m, nil
	case <-e.ctx.Done():
		return nil, io.EOF
	case <-e.served:
		return nil, io.EOF
	}
}

func (e serverEnd) Send(m *ServerMsg) error {
	copied := *m
	select {
	case e.down <- &copied:
		return nil
	case <-e.ctx.Done():
		return io.EOF
	}
}

// fakeHolder answers revokes with what the test says.
type fakeHolder struct {
	mu       sync.Mutex
	index    func(id LockID) uint64
	open     map[LockID]bool
	revoked  []Revoke
	block    chan struct{} // Revoke waits for it
	prepare  func(id LockID, to Mode)
	expired  int
	ended    []error
	orphans  bool
	inRevoke func(id LockID, to Mode)
}

func (h *fakeHolder) Revoke(id LockID, to Mode) (uint64, bool, error) {
	h.mu.Lock()
	h.revoked = append(h.revoked, Revoke{ID: id, To: to})
	block, open, f, in := h.block, h.open[id], h.index, h.inRevoke
	h.mu.Unlock()
	if in != nil {
		in(id, to)
	}
	if block != nil {
		<-block
	}
	if f == nil {
		return 0, open, nil
	}
	return f(id), open, nil
}

func (h *fakeHolder) PrepareRevoke(id LockID, to Mode) {
	if h.prepare != nil {
		h.prepare(id, to)
	}
}
func (h *fakeHolder) OrphansLeft() bool { return h.orphans }
func (h *fakeHolder) LeaseExpired()     { h.mu.Lock(); h.expired++; h.mu.Unlock() }
func (h *fakeHolder) SessionEnded(cause error) {
	h.mu.Lock()
	h.ended = append(h.ended, cause)
	h.mu.Unlock()
}

func (h *fakeHolder) endings() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ended)
}

func (h *fakeHolder) revokes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.revoked)
}

// client is a clerk with its holder and network.
type client struct {
	*SessionClerk
	h    *fakeHolder
	link *link
	t    *testing.T
}

// frozen clock: a client that is paused sees time go on when it wakes.
func simClock() func() time.Duration {
	start := time.Now().Add(-time.Hour)
	return func() time.Duration { return time.Since(start) }
}

func (c *fakeCluster) client(o ClerkOptions) *client {
	c.t.Helper()
	k := &client{h: &fakeHolder{open: map[LockID]bool{}}, link: &link{c: c}, t: c.t}
	o.Holder = k.h
	if o.Clock == nil {
		o.Clock = simClock()
	}
	o.Logger = slog.New(slog.NewTextHandler(testWriter{c.t}, nil))
	clerk, err := NewClerk(k.link, o)
	if err != nil {
		c.t.Fatal(err)
	}
	k.SessionClerk = clerk
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := clerk.Start(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(clerk.abandon)
	return k
}

// lock acquires within d, or says that it could not.
func (k *client) lock(d time.Duration, reqs ...Request) bool {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	err := k.Acquire(ctx, reqs...)
	if err != nil && !errors.Is(err, errors.KindTimeout) {
		k.t.Logf("acquire: %v", err)
	}
	return err == nil
}

// must acquires and unpins.
func (k *client) must(id LockID, m Mode) {
	k.t.Helper()
	if !k.lock(2*time.Second, Request{id, m}) {
		k.t.Fatalf("session %d could not lock %d in mode %d", k.Session().Writer, id, m)
	}
	k.Unpin(id)
}

func (h *fakeHolder) expiries() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.expired
}
