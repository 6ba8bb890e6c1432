package cluster

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/rpcerr"
)

// fakeNet is a set of nodes reached by name.
type fakeNet struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*fakeNode
}

type fakeNode struct {
	mu    sync.Mutex
	info  Info
	asked int
	ln    *bufconn.Listener
	srv   *grpc.Server
	dead  bool // connecting to it hangs
	delay time.Duration
}

func (n *fakeNode) Info() Info {
	n.mu.Lock()
	n.asked++
	info, d := n.info, n.delay
	n.mu.Unlock()
	time.Sleep(d)
	return info
}

func (n *fakeNode) set(f func(*fakeNode)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

func newNet(t *testing.T) *fakeNet { return &fakeNet{t: t, nodes: map[string]*fakeNode{}} }

func (f *fakeNet) dial(ctx context.Context, addr string) (net.Conn, error) {
	f.mu.Lock()
	n := f.nodes[addr]
	f.mu.Unlock()
	if n == nil {
		return nil, fmt.Errorf("connection refused by %s", addr)
	}
	n.mu.Lock()
	dead := n.dead
	n.mu.Unlock()
	if dead {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return n.ln.DialContext(ctx)
}

func (f *fakeNet) add(addr string, info Info) *fakeNode {
	n := &fakeNode{info: info, ln: bufconn.Listen(1 << 16), srv: grpc.NewServer(ServerOptions(nil)...)}
	Register(n.srv, n)
	go n.srv.Serve(n.ln)
	f.mu.Lock()
	f.nodes[addr] = n
	f.mu.Unlock()
	return n
}

func (f *fakeNet) close() {
	for _, n := range f.nodes {
		n.srv.Stop()
	}
}

// three makes nodes a, b, c at hosts a:1, b:1, c:1; b leads in term 3.
func three(t *testing.T) (*fakeNet, map[string]*fakeNode) {
	f := newNet(t)
	members := []Member{{"a", "a:1", true}, {"b", "b:1", true}, {"c", "c:1", true}}
	out := map[string]*fakeNode{}
	for _, m := range members {
		out[string(m.Node)] = f.add(m.Address, Info{Node: m.Node, ClusterID: "X", Members: members, MembersIndex: 7,
			Leadership: blockstore.Leadership{Leader: "b", Address: "b:1", Self: m.Node == "b", Term: 3}})
	}
	return f, out
}

func dialFake(t *testing.T, f *fakeNet, o Options, addrs ...string) *Cluster {
	t.Helper()
	o.Dialer = f.dial
	c, err := Dial(addrs, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseAddrs(t *testing.T) {
	got, err := ParseAddrs(" a:1, 10.0.0.2:7000 ,[::1]:9 ")
	if err != nil || strings.Join(got, "|") != "a:1|10.0.0.2:7000|[::1]:9" {
		t.Fatalf("%q %v", got, err)
	}
	for bad, word := range map[string]string{
		"": "no node addresses", " ": "no node addresses", "a:1,,b:1": "address 2", "a": "host:port", ":7": "lacks the host",
		"a:1,b:1,a:1": "twice", "a:0": "port", "a:x": "port", "a:70000": "port", "a:1,": "empty", "::1:7": "host:port", "http://a:1": "host:port",
	} {
		if _, err := ParseAddrs(bad); !errors.Is(err, errors.KindInvalid) || !strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v, want %q", bad, err, word)
		}
	}
}

func TestLearnsMembersAndLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := three(t)
		defer f.close()
		c := dialFake(t, f, Options{}, "a:1")
		defer c.Close()
		_, l, err := c.Leader(t.Context())
		if err != nil || l.Address != "b:1" || l.Term != 3 || c.ID() != "X" || len(c.Members()) != 3 {
			t.Fatalf("%+v %v, members %v", l, err, c.Members())
		}
	})
}

// TestUsedLearnsNewNodes: whoever only says now and then that the cluster is in use learns of new nodes, so that all may be replaced.
func TestUsedLearnsNewNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, nodes := three(t)
		defer f.close()
		c := dialFake(t, f, Options{}, "a:1")
		defer c.Close()
		if _, _, err := c.Leader(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := []Member{{"a", "a:1", true}, {"b", "b:1", true}, {"c", "c:1", true}}
		index := uint64(7)
		for i, fresh := range []string{"d", "e", "f"} {
			gone := nodes[string(now[0].Node)]
			now = append(slices.Clone(now[1:]), Member{blockstore.NodeID(fresh), fresh + ":1", true})
			index++
			info := Info{ClusterID: "X", Members: now, MembersIndex: index, Leadership: blockstore.Leadership{Leader: now[1].Node, Address: now[1].Address, Term: 4 + uint64(i)}}
			nodes[fresh] = f.add(fresh+":1", Info{})
			for _, m := range now {
				info.Node, info.Leadership.Self = m.Node, m.Node == now[1].Node
				nodes[string(m.Node)].set(func(n *fakeNode) { n.info = info })
			}
			gone.set(func(n *fakeNode) {
				n.info = Info{Node: n.info.Node, ClusterID: "X", Leadership: blockstore.Leadership{Term: 3}}
			})
			for range 35 {
				c.Used()
				time.Sleep(time.Second)
			}
		}
		c.InvalidateLeader("")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, l, err := c.Leader(ctx); err != nil || l.Leader != now[1].Node {
			t.Fatalf("all nodes were replaced: %+v %v, members %v", l, err, c.Members())
		}
	})
}

func TestLeaderChangeFollowsHintAndTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := three(t)
		defer f.close()
		c := dialFake(t, f, Options{}, "a:1", "b:1", "c:1")
		defer c.Close()
		if _, _, err := c.Leader(t.Context()); err != nil {
			t.Fatal(err)
		}
		// c leads now; b was paused and still thinks that it does.
		n["c"].set(func(n *fakeNode) {
			n.info.Leadership = blockstore.Leadership{Leader: "c", Address: "c:1", Self: true, Term: 4}
		})
		before := n["a"].asked
		c.Failed("b:1", rpcerr.NotLeader("b", rpcerr.Leader{Node: "c", Address: "c:1"}))
		_, l, err := c.Leader(t.Context())
		if err != nil || l.Address != "c:1" || n["a"].asked != before {
			t.Fatalf("%+v %v: the hint was not followed", l, err)
		}
		c.InvalidateLeader("c:1")
		n["c"].set(func(n *fakeNode) { n.delay = 10 * time.Millisecond }) // b answers first
		if _, l, err = c.Leader(t.Context()); err != nil || l.Address != "c:1" {
			t.Fatalf("the deposed leader was taken: %+v %v", l, err)
		}
	})
}

func TestDeposedLeaderAloneIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := three(t)
		defer f.close()
		n["b"].info.Leadership.Term = 9
		c := dialFake(t, f, Options{}, "a:1", "b:1", "c:1")
		defer c.Close()
		if _, _, err := c.Leader(t.Context()); err != nil {
			t.Fatal(err)
		}
		n["b"].set(func(n *fakeNode) { n.info.Leadership.Term = 8 })
		c.InvalidateLeader("b:1")
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, l, err := c.Leader(ctx); !errors.Is(err, errors.KindUnavailable) {
			t.Fatalf("took a leader of an older term: %+v %v", l, err)
		}
	})
}

func TestNoLeaderTellsWhatEachSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := three(t)
		defer f.close()
		n["b"].set(func(n *fakeNode) { n.dead = true })
		n["a"].set(func(n *fakeNode) { n.info.Leadership = blockstore.Leadership{Term: 5} })
		c := dialFake(t, f, Options{}, "a:1", "b:1", "c:1", "d:1")
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		_, _, err := c.Leader(ctx)
		if !errors.Is(err, errors.KindUnavailable) || time.Since(start) != 5*time.Second {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		for _, want := range []string{"a:1 (node a): it knows no leader (term 5)", "c:1 (node c): it follows b at b:1", "refused by d:1", "b:1: ", "majority"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
		if strings.Contains(err.Error(), "not asked") {
			t.Errorf("a node was not asked: %v", err)
		}
	})
}

func TestDeadNodeCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := three(t)
		defer f.close()
		n["a"].set(func(n *fakeNode) { n.dead = true })
		c := dialFake(t, f, Options{}, "a:1", "b:1", "c:1")
		defer c.Close()
		start := time.Now()
		if _, l, err := c.Leader(t.Context()); err != nil || l.Address != "b:1" || time.Since(start) > 300*time.Millisecond {
			t.Fatalf("%+v %v after %v", l, err, time.Since(start))
		}
	})
}

func TestMixedListIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _ := three(t)
		defer f.close()
		f.add("z:1", Info{Node: "z", ClusterID: "Y", Leadership: blockstore.Leadership{Leader: "z", Address: "z:1", Self: true, Term: 50}})
		c := dialFake(t, f, Options{}, "a:1", "z:1")
		defer c.Close()
		for range 2 {
			_, _, err := c.Leader(t.Context())
			if !errors.Is(err, errors.KindForeign) || !strings.Contains(err.Error(), "X") || !strings.Contains(err.Error(), "Y") {
				t.Fatalf("%v", err)
			}
		}
		pinned := dialFake(t, f, Options{ClusterID: "X"}, "a:1", "z:1")
		defer pinned.Close()
		if _, l, err := pinned.Leader(t.Context()); err != nil || l.Address != "b:1" {
			t.Fatalf("%+v %v", l, err)
		}
		for _, n := range pinned.ByNearness() {
			if n.Address == "z:1" {
				t.Fatal("a foreign node is offered for reads")
			}
		}
		all := dialFake(t, f, Options{ClusterID: "X"}, "z:1")
		defer all.Close()
		if _, _, err := all.Leader(t.Context()); !errors.Is(err, errors.KindForeign) || !strings.Contains(err.Error(), "z:1") {
			t.Fatalf("%v", err)
		}
	})
}

func TestNearness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, n := three(t)
		defer f.close()
		n["a"].set(func(n *fakeNode) { n.delay = 5 * time.Millisecond })
		n["b"].set(func(n *fakeNode) { n.delay = 2 * time.Millisecond })
		n["c"].set(func(n *fakeNode) { n.delay = 9 * time.Millisecond })
		c := dialFake(t, f, Options{}, "a:1", "b:1", "c:1")
		defer c.Close()
		order := func() string {
			var s []string
			for _, t := range c.ByNearness() {
				s = append(s, t.Address)
			}
			return strings.Join(s, " ")
		}
		if err := c.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := order(); got != "b:1 a:1 c:1" {
			t.Fatalf("order %s", got)
		}
		c.Failed("b:1", errors.Of(errors.KindUnavailable))
		if got := order(); got != "a:1 c:1 b:1" {
			t.Fatalf("order %s after b failed", got)
		}
		time.Sleep(time.Second)
		order() // notices that b may be asked again
		time.Sleep(time.Second)
		if got := order(); got != "b:1 a:1 c:1" {
			t.Fatalf("order %s after b came back", got)
		}
	})
}

func TestSameHost(t *testing.T) {
	if !sameHost("127.0.0.1:1") || !sameHost("[::1]:1") || !sameHost("localhost:1") || sameHost("192.0.2.77:1") || sameHost("elsewhere.example:1") {
		t.Error("same host is judged wrongly")
	}
	near, far := &node{sameHost: true, latency: time.Second}, &node{latency: time.Millisecond}
	if nearer(near, far) >= 0 {
		t.Error("this machine does not come first")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	f, n := three(t)
	n["c"].dead = true
	before := runtime.NumGoroutine()
	c := dialFake(t, f, Options{}, "a:1", "b:1", "c:1")
	if _, _, err := c.Leader(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	if _, _, err := c.Leader(t.Context()); !errors.Is(err, errors.KindUnavailable) {
		t.Fatalf("after Close: %v", err)
	}
	f.close()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
