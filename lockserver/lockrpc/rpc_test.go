package lockrpc

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/lockpb"
	"dfs/lockserver"
)

// group is a replicated log without replicas, shared by the nodes.
type group struct {
	mu    sync.Mutex
	state *blockstore.State
	index uint64
	term  uint64
	lead  *node
	nodes []*node
}

// node is one node's Proposer and gRPC server.
type node struct {
	g     *group
	name  blockstore.NodeID
	addr  string
	grpc  *grpc.Server
	watch chan blockstore.Leadership
}

func newGroup(t *testing.T, n int) *group {
	g := &group{state: blockstore.NewState()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	for i := range n {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		nd := &node{g: g, name: blockstore.NodeID(fmt.Sprint("n", i)), addr: lis.Addr().String(),
			grpc: grpc.NewServer(cluster.ServerOptions(nil)...), watch: make(chan blockstore.Leadership, 10)}
		s, err := lockserver.NewServer(nd, lockserver.Options{})
		if err != nil {
			t.Fatal(err)
		}
		Register(nd.grpc, s, nd.Leadership)
		cluster.Register(nd.grpc, nd)
		g.nodes = append(g.nodes, nd)
		wg.Go(func() { s.Run(ctx) })
		wg.Go(func() { nd.grpc.Serve(lis) })
		t.Cleanup(nd.grpc.Stop)
	}
	return g
}

func (g *group) addrs() (list []string) {
	for _, n := range g.nodes {
		list = append(list, n.addr)
	}
	return list
}

func (g *group) elect(n *node) {
	g.mu.Lock()
	g.term++
	g.lead = n
	g.mu.Unlock()
	for _, o := range g.nodes {
		o.watch <- o.Leadership()
	}
}

func (n *node) Info() cluster.Info {
	info := cluster.Info{Node: n.name, ClusterID: "test", Leadership: n.Leadership()}
	for _, o := range n.g.nodes {
		info.Members = append(info.Members, cluster.Member{Node: o.name, Address: o.addr, Voter: true})
	}
	return info
}

func (n *node) Leadership() blockstore.Leadership {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if n.g.lead == nil {
		return blockstore.Leadership{}
	}
	return blockstore.Leadership{Leader: n.g.lead.name, Address: n.g.lead.addr, Self: n.g.lead == n, Term: n.g.term}
}

func (n *node) Propose(_ context.Context, cmd blockstore.Command) (blockstore.Result, error) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	if n.g.lead != n {
		return blockstore.Result{}, errors.Of(errors.KindNotLeader)
	}
	n.g.index++
	res, _ := n.g.state.Apply(n.g.index, cmd)
	return res, nil
}

func (n *node) ProposeAsync(ctx context.Context, cmd blockstore.Command, done func(blockstore.Result, error)) {
	done(n.Propose(ctx, cmd))
}

func (n *node) ProveLeadership(context.Context) error {
	if !n.Leadership().Self {
		return errors.Of(errors.KindNotLeader)
	}
	return nil
}

func (n *node) WatchLeadership(context.Context) <-chan blockstore.Leadership { return n.watch }
func (n *node) WaitApplied(context.Context, uint64) error                    { return nil }
func (n *node) View(f func(*blockstore.State, uint64)) {
	n.g.mu.Lock()
	defer n.g.mu.Unlock()
	f(n.g.state, n.g.index)
}

type holder struct{ revoked chan lockserver.LockID }

func (h holder) Revoke(id lockserver.LockID, _ lockserver.Mode) (uint64, bool, error) {
	h.revoked <- id
	return 0, false, nil
}
func (holder) LeaseExpired()      {}
func (holder) SessionEnded(error) {}

func open(t *testing.T, g *group) (*lockserver.SessionClerk, holder) {
	t.Helper()
	c, err := cluster.Dial(g.addrs(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	h := holder{make(chan lockserver.LockID, 100)}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	clerk, err := Open(ctx, c, Options{Name: "t\xff", TTL: 3 * time.Second, Holder: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		clerk.Close(ctx)
	})
	return clerk, h
}

// TestFailoverOverTheWire: two clerks over TCP, the leader's process dies, and
// within 3s locks are granted again while what was held stayed held.
func TestFailoverOverTheWire(t *testing.T) {
	g := newGroup(t, 3)
	g.elect(g.nodes[1])
	a, ha := open(t, g)
	b, _ := open(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	lock := func(c *lockserver.SessionClerk, id lockserver.LockID, m lockserver.Mode) {
		t.Helper()
		if err := c.Acquire(ctx, lockserver.Request{ID: id, Mode: m}); err != nil {
			t.Fatal(err)
		}
		c.Unpin(id)
	}
	lock(a, 1, lockserver.Exclusive)
	lock(a, 2, lockserver.Exclusive)
	lock(b, 1, lockserver.Exclusive)
	if id := <-ha.revoked; id != 1 {
		t.Errorf("lock %d was revoked", id)
	}
	g.nodes[1].grpc.Stop()
	start := time.Now()
	g.elect(g.nodes[2])
	lock(b, 3, lockserver.Exclusive)
	if d := time.Since(start); d > 3*time.Second {
		t.Errorf("locks were granted again after %v", d)
	}
	if a.Held(2) != lockserver.Exclusive || b.Held(1) != lockserver.Exclusive {
		t.Error("a failover cost a lock")
	}
	if a.Epoch() != 2 && b.Epoch() != 2 {
		t.Errorf("epochs %d and %d", a.Epoch(), b.Epoch())
	}
	lock(b, 2, lockserver.Shared)
}

// TestFollowerTellsTheLeader: a stream that comes to a follower learns where to go.
func TestFollowerTellsTheLeader(t *testing.T) {
	g := newGroup(t, 2)
	g.elect(g.nodes[0])
	c, err := cluster.Dial(g.addrs(), cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn, err := c.Conn(g.nodes[1].addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream, err := lockpb.NewLockClient(conn).Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &clientStream{BidiStreamingClient: stream, cancel: cancel, c: c, addr: g.nodes[1].addr}
	s.Send(&lockserver.ClientMsg{Hello: &lockserver.Hello{Token: blockstore.Token{1}}})
	if _, err := s.Recv(); !errors.Is(err, errors.KindNotLeader) {
		t.Fatalf("a follower answers %v", err)
	}
}
