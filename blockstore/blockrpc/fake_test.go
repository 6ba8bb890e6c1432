package blockrpc

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/wal"
)

// group is a replicated log in memory: one state machine, several nodes that
// see it. It stands for raftstore in these tests.
type group struct {
	t     testing.TB
	mu    sync.Mutex
	state *blockstore.State
	index uint64
	term  uint64
	order []uint64 // payloads of the records applied, in order
	nodes []*fakeReplica

	// loseAnswer, if set, says whether a proposal that was applied is answered as unknown.
	loseAnswer func() bool
	writeDelay time.Duration
}

// fakeReplica is one node.
type fakeReplica struct {
	g    *group
	id   blockstore.NodeID
	addr string
	ln   net.Listener
	srv  *grpc.Server
	bs   *Server

	mu        sync.Mutex
	leader    bool
	thinks    bool          // that it leads, whatever is true
	lag       uint64        // entries behind
	hang      chan struct{} // reads and proposals wait for it, nil: they do not
	dead      bool          // connecting hangs
	reads     int
	proposed  int
	readError error
}

var _ blockstore.Replica = (*fakeReplica)(nil)

// newGroup starts nodes a, b, c …, the first of them leading in term 1, with
// writer 1 opened and attached to epoch 1.
func newGroup(t testing.TB, n int) (*group, blockstore.Session) {
	g := &group{t: t, state: blockstore.NewState()}
	for i := range n {
		id := string(rune('a' + i))
		ln := bufconn.Listen(1 << 20)
		g.nodes = append(g.nodes, &fakeReplica{g: g, id: blockstore.NodeID(id), addr: id + ":1", ln: ln})
	}
	for _, r := range g.nodes {
		r.start()
	}
	ses := blockstore.Session{Writer: 1, Token: blockstore.Token{1, 2, 3}}
	g.apply(blockstore.Command{Kind: blockstore.CmdOpenWriter, Token: ses.Token, Name: "test"})
	g.lead(0, ses)
	return g, ses
}

// withClient runs test in virtual time on a new group and a client of it that was told an epoch; it closes both.
func withClient(t *testing.T, nodes int, epoch blockstore.Epoch, test func(t *testing.T, g *group, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		g, ses := newGroup(t, nodes)
		defer g.stop()
		c, end := g.client(ses, epoch, ClientOptions{})
		defer end()
		test(t, g, c)
	})
}

func (r *fakeReplica) start() {
	r.srv = grpc.NewServer(cluster.ServerOptions(nil)...)
	o := ServerOptions{Node: r.id, Replica: r}
	bs, err := NewServer(o)
	if err != nil {
		r.g.t.Fatal(err)
	}
	r.bs = bs
	bs.Register(r.srv)
	cluster.Register(r.srv, NewInfoSource(o, func() string { return "X" }, func() ([]cluster.Member, uint64) {
		var out []cluster.Member
		for _, n := range r.g.nodes {
			out = append(out, cluster.Member{Node: n.id, Address: n.addr, Voter: true})
		}
		return out, 1
	}))
	go r.srv.Serve(r.ln)
}

func (g *group) stop() {
	for _, r := range g.nodes {
		r.set(func(r *fakeReplica) {
			if r.hang != nil {
				close(r.hang)
				r.hang = nil
			}
		})
		r.srv.Stop()
		r.bs.Wait()
	}
}

func (g *group) dial(ctx context.Context, addr string) (net.Conn, error) {
	for _, r := range g.nodes {
		if r.addr == addr {
			r.mu.Lock()
			dead := r.dead
			r.mu.Unlock()
			if dead {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return r.ln.(*bufconn.Listener).DialContext(ctx)
		}
	}
	return nil, fmt.Errorf("no node at %s", addr)
}

// client makes a Client of the group; the nodes in order are nearest first.
func (g *group) client(ses blockstore.Session, epoch blockstore.Epoch, o ClientOptions) (*Client, func()) {
	var addrs []string
	for _, r := range g.nodes {
		addrs = append(addrs, r.addr)
	}
	cl, err := cluster.Dial(addrs, cluster.Options{Dialer: g.dial, RefreshEvery: time.Hour})
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := NewClient(cl, ses, epoch, o)
	if err != nil {
		g.t.Fatal(err)
	}
	return c, func() { c.Close(); cl.Close() }
}

func (r *fakeReplica) set(f func(*fakeReplica)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// lead makes node i the leader of the next term and begins its epoch, to which ses attaches.
func (g *group) lead(i int, ses blockstore.Session) blockstore.Epoch {
	g.mu.Lock()
	g.term++
	term := g.term
	g.mu.Unlock()
	for j, r := range g.nodes {
		r.set(func(r *fakeReplica) { r.leader, r.thinks = j == i, j == i })
	}
	g.apply(blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: blockstore.Epoch(term)})
	g.apply(blockstore.Command{Kind: blockstore.CmdAttachWriter, Writer: ses.Writer, Token: ses.Token, Epoch: blockstore.Epoch(term)})
	return blockstore.Epoch(term)
}

func (g *group) apply(cmd blockstore.Command) blockstore.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.index++
	res, rec := g.state.Apply(g.index, cmd)
	if rec != nil && len(rec.Ranges) > 0 {
		g.order = append(g.order, binary.LittleEndian.Uint64(rec.Ranges[0].Data))
	}
	return res
}

func (r *fakeReplica) wait(ctx context.Context) {
	r.mu.Lock()
	hang := r.hang
	r.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
		}
	}
}

// Propose implements blockstore.Proposer.
func (r *fakeReplica) Propose(ctx context.Context, cmd blockstore.Command) (blockstore.Result, error) {
	type answer struct {
		res blockstore.Result
		err error
	}
	ch := make(chan answer, 1)
	r.ProposeAsync(ctx, cmd, func(res blockstore.Result, err error) { ch <- answer{res, err} })
	a := <-ch
	return a.res, a.err
}

// ProposeAsync applies at once and answers from another goroutine, a little later.
func (r *fakeReplica) ProposeAsync(ctx context.Context, cmd blockstore.Command, done func(blockstore.Result, error)) {
	r.wait(ctx)
	r.mu.Lock()
	leader := r.leader
	r.proposed++
	r.mu.Unlock()
	if !leader || ctx.Err() != nil {
		go done(blockstore.Result{}, errors.New(errors.KindNotLeader, "%s does not lead", r.id))
		return
	}
	if e := cmd.Encode(); cmd.Kind == blockstore.CmdWrite && &e[len(e)-1] != &cmd.Record[len(cmd.Record)-1] {
		panic("a record came without room around it: a node would have to copy it")
	}
	res := r.g.apply(cmd)
	lose := false
	if r.g.loseAnswer != nil && cmd.Kind != blockstore.CmdBeginEpoch {
		lose = r.g.loseAnswer()
	}
	switch {
	case lose:
		go done(blockstore.Result{}, errors.New(errors.KindUnavailable, "the outcome is unknown"))
	case r.g.writeDelay > 0:
		time.AfterFunc(r.g.writeDelay, func() { done(res, nil) })
	default:
		done(res, nil)
	}
}

// ProveLeadership implements blockstore.Proposer.
func (r *fakeReplica) ProveLeadership(context.Context) error { return nil }

// Leadership implements blockstore.Proposer.
func (r *fakeReplica) Leadership() blockstore.Leadership {
	l := blockstore.Leadership{}
	for _, n := range r.g.nodes {
		n.mu.Lock()
		if n.leader {
			l.Leader, l.Address = n.id, n.addr
		}
		n.mu.Unlock()
	}
	r.mu.Lock()
	l.Self = r.thinks
	r.mu.Unlock()
	r.g.mu.Lock()
	l.Term = r.g.term
	r.g.mu.Unlock()
	if l.Self && l.Leader != r.id { // deposed, and does not know
		l = blockstore.Leadership{Leader: r.id, Address: r.addr, Self: true, Term: l.Term - 1}
	}
	return l
}

// WatchLeadership implements blockstore.Proposer.
func (r *fakeReplica) WatchLeadership(context.Context) <-chan blockstore.Leadership { return nil }

func (r *fakeReplica) applied() uint64 {
	r.g.mu.Lock()
	index := r.g.index
	r.g.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return index - min(index, r.lag)
}

// View implements blockstore.Proposer.
func (r *fakeReplica) View(f func(*blockstore.State, uint64)) {
	r.g.mu.Lock()
	defer r.g.mu.Unlock()
	f(r.g.state, r.g.index)
}

// WaitApplied implements blockstore.Proposer.
func (r *fakeReplica) WaitApplied(ctx context.Context, index uint64) error {
	for r.applied() < index {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// ReadLocal gives blocks whose every byte is the low byte of their number.
func (r *fakeReplica) ReadLocal(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, uint64, error) {
	r.wait(ctx)
	r.mu.Lock()
	r.reads++
	err := r.readError
	r.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	at := r.applied()
	if at < minIndex {
		return nil, 0, errors.Of(errors.KindNotReached)
	}
	out := make([]blockstore.ReadResult, len(spans))
	for i, s := range spans {
		out[i] = blockstore.ReadResult{Data: make([]byte, s.Count*wal.BlockSize), Present: make([]byte, (s.Count+7)/8)}
		for j := range out[i].Data {
			out[i].Data[j] = byte(s.Block + uint64(j)/wal.BlockSize)
		}
		for j := range s.Count {
			if (s.Block+j)%3 == 0 {
				out[i].Present[j/8] |= 1 << (j % 8)
			}
		}
	}
	return out, at, nil
}

// PresenceLocal implements blockstore.Replica.
func (r *fakeReplica) PresenceLocal(ctx context.Context, span blockstore.ReadSpan, minIndex uint64) ([]byte, uint64, error) {
	if r.applied() < minIndex {
		return nil, 0, errors.Of(errors.KindNotReached)
	}
	return make([]byte, (span.Count+7)/8), r.applied(), nil
}

// SkipAbsentLocal implements blockstore.Replica: every 1000th block is present.
func (r *fakeReplica) SkipAbsentLocal(ctx context.Context, vdisk, block, minIndex uint64) (uint64, uint64, error) {
	if r.applied() < minIndex {
		return 0, 0, errors.Of(errors.KindNotReached)
	}
	return (block + 999) / 1000 * 1000, r.applied(), nil
}

// record makes a record that carries payload.
func record(payload uint64, size int) []byte {
	data := make([]byte, min(max(size, 8), wal.BlockSize))
	binary.LittleEndian.PutUint64(data, payload)
	rec := wal.Record{}
	for i := 0; i == 0 || i < size/wal.BlockSize; i++ {
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: 9, Block: uint64(i)}, Data: data})
	}
	return rec.AppendTo(nil)
}

// acks collects what done functions are told.
type acks struct {
	mu    sync.Mutex
	order []uint64
	index []uint64
	errs  []error
	wg    sync.WaitGroup
}

func (a *acks) submit(c *Client, payload uint64) {
	a.wg.Add(1)
	c.Submit(record(payload, 0), func(index uint64, err error) {
		a.mu.Lock()
		a.order, a.index, a.errs = append(a.order, payload), append(a.index, index), append(a.errs, err)
		a.mu.Unlock()
		a.wg.Done()
	})
}

func (a *acks) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.order)
}

func (r *fakeReplica) proposals() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proposed
}

// check: payloads 1..n were acknowledged once each, in order, at rising indexes, and applied once each, in order.
func (a *acks) check(t *testing.T, g *group, n uint64) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if uint64(len(a.order)) != n || uint64(len(g.order)) != n {
		t.Fatalf("%d acknowledged, %d applied, want %d", len(a.order), len(g.order), n)
	}
	for i := range n {
		if a.order[i] != i+1 || g.order[i] != i+1 || a.errs[i] != nil {
			t.Fatalf("position %d: acknowledged %d (%v), applied %d", i, a.order[i], a.errs[i], g.order[i])
		}
		if i > 0 && a.index[i] < a.index[i-1] {
			t.Fatalf("record %d was acknowledged at %d, the one before at %d", i+1, a.index[i], a.index[i-1])
		}
	}
}
