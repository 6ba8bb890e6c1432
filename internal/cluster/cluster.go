// Package cluster holds the connections of one client to the nodes of one
// cluster: which nodes there are, which of them leads, which is nearest.
//
// # Contract
//
// Dial takes any non-empty part of the nodes' addresses and connects to
// nothing yet. The first question learns the cluster's id and its member list
// from whoever answers; from then on the members are known whatever becomes of
// the nodes first named. A node of another cluster is never used and is named
// in the errors.
//
// What is known of the leader is a hint: a deposed leader may think that it
// leads. Who calls it and is refused says so with Failed, and the next
// Leader call searches again. Safety rests on the log alone.
//
// Idle, a Cluster runs no goroutine of its own: member list and
// latencies are refreshed on use, at most every RefreshEvery.
//
// Lock order: Cluster.mu is the only lock; nothing is called with it held.
package cluster

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/rpcerr"
)

// Options of Dial; the zero value is good.
type Options struct {
	// ClusterID, if set, is the id that every node must have. Otherwise it is
	// learned from the first answer.
	ClusterID string
	// Credentials of the transport; nil is plain text.
	Credentials credentials.TransportCredentials
	// Dialer opens connections; nil is TCP.
	Dialer Dialer
	// Log gets warnings; nil discards them.
	Log *slog.Logger
	// AskTimeout bounds one question to one node; 0 is 1 s.
	AskTimeout time.Duration
	// RefreshEvery is the age at which, on use, members and latencies are
	// asked for anew; 0 is 30 s.
	RefreshEvery time.Duration
}

// Validate fills in defaults and refuses nonsense with KindInvalid.
func (o *Options) Validate() error {
	if o.AskTimeout < 0 || o.RefreshEvery < 0 {
		return errors.New(errors.KindInvalid, "cluster options: negative time (ask timeout %v, refresh %v)", o.AskTimeout, o.RefreshEvery)
	}
	if o.AskTimeout == 0 {
		o.AskTimeout = time.Second
	}
	if o.RefreshEvery == 0 {
		o.RefreshEvery = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// node is one address and what is known of who answers there.
type node struct {
	addr     string
	conn     *grpc.ClientConn
	sameHost bool
	static   bool // given to Dial: never forgotten

	id       blockstore.NodeID // "" until it answered
	latency  time.Duration     // moving average of answers, 0 before the first
	foreign  error             // it is of another cluster
	last     string            // what it said last, for errors
	fails    int               // questions or calls that failed since the last answer
	retryAt  time.Time         // while fails > 0: when to ask again
	answered time.Time
}

// Cluster is a client's view of a cluster. All methods are safe for concurrent use.
type Cluster struct {
	opts Options
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu           sync.Mutex
	closed       bool
	id           string
	nodes        map[string]*node
	order        []string // addresses as they became known: given ones first
	members      []Member
	membersIndex uint64
	leader       *node // nil: unknown
	leadership   blockstore.Leadership
	selfTermMax  uint64 // greatest term in which a node said that it leads
	hint         string // address of the likely leader, "" if none
	round        *round // a search under way
	refreshed    time.Time
}

// Target is a node that may be called.
type Target struct {
	Address string
	Conn    *grpc.ClientConn
}

// Dial makes a Cluster of the nodes at addrs. It connects to none of them yet.
// Errors are of KindInvalid.
func Dial(addrs []string, o Options) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := checkAddrs(addrs); err != nil {
		return nil, err
	}
	c := &Cluster{opts: o, id: o.ClusterID, nodes: make(map[string]*node)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	for _, addr := range addrs {
		n, err := c.addLocked(addr)
		if err != nil {
			c.Close()
			return nil, err
		}
		n.static = true
	}
	return c, nil
}

// addLocked makes the node of addr, or finds it.
func (c *Cluster) addLocked(addr string) (*node, error) {
	if n := c.nodes[addr]; n != nil {
		return n, nil
	}
	if c.closed {
		return nil, errClosed()
	}
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, DialOptions(c.opts.Credentials, c.opts.Dialer)...)
	if err != nil {
		return nil, errors.New(errors.KindInvalid, "cannot make a connection to node address %q: %w", addr, err)
	}
	n := &node{addr: addr, conn: conn, sameHost: sameHost(addr), last: "not asked yet"}
	c.nodes[addr] = n
	c.order = append(c.order, addr)
	return n, nil
}

func errClosed() error {
	return errors.New(errors.KindUnavailable, "the connections to the cluster were closed")
}

// ID is the cluster's id, "" until a node has answered.
func (c *Cluster) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// Members is the newest member list known; before any node has answered it is
// made of the addresses given to Dial, with empty ids.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.members) > 0 {
		return slices.Clone(c.members)
	}
	var out []Member
	for _, addr := range c.order {
		if n := c.nodes[addr]; n.static {
			out = append(out, Member{Node: n.id, Address: addr})
		}
	}
	return out
}

// Conn gives the connection to addr, which need not be a member (a node that is
// to be added is not).
func (c *Cluster) Conn(addr string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.addLocked(addr)
	if err != nil {
		return nil, err
	}
	return n.conn, nil
}

// Nearest is the node that reads should go to. ok is false only if every node
// is of another cluster or the Cluster is closed.
func (c *Cluster) Nearest() (t Target, ok bool) {
	all := c.ByNearness()
	if len(all) == 0 {
		return Target{}, false
	}
	return all[0], true
}

// ByNearness lists every node once, the best to read from first: those that
// answer before those that failed, this machine before others, then by measured
// latency. It does not wait; it may start measuring in the background.
func (c *Cluster) ByNearness() []Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	var list []*node
	seen := make(map[blockstore.NodeID]bool, len(c.order))
	due := false
	now := time.Now()
	for _, addr := range c.order {
		n := c.nodes[addr]
		due = due || (n.fails > 0 && now.After(n.retryAt))
		if n.foreign != nil || !c.usableLocked(n) || (n.id != "" && seen[n.id]) {
			continue
		}
		seen[n.id] = true
		list = append(list, n)
	}
	slices.SortStableFunc(list, nearer)
	if due || now.Sub(c.refreshed) > c.opts.RefreshEvery {
		c.startRoundLocked()
	}
	out := make([]Target, len(list))
	for i, n := range list {
		out[i] = Target{n.addr, n.conn}
	}
	return out
}

// Used says that the cluster is in use, as ByNearness does: what is known of the nodes is refreshed in the background when it is due.
func (c *Cluster) Used() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && time.Since(c.refreshed) > c.opts.RefreshEvery {
		c.startRoundLocked()
	}
}

// usableLocked: given to Dial and not known to have left, or a member.
func (c *Cluster) usableLocked(n *node) bool {
	if len(c.members) == 0 {
		return n.static
	}
	if n.id == "" && n.static {
		return true
	}
	return slices.ContainsFunc(c.members, func(m Member) bool { return m.Address == n.addr || (n.id != "" && m.Node == n.id) })
}

// nearer orders nodes for ByNearness.
func nearer(a, b *node) int {
	rank := func(n *node) int {
		switch {
		case n.fails > 0:
			return 3
		case n.sameHost:
			return 0
		case n.latency > 0:
			return 1
		}
		return 2
	}
	if d := rank(a) - rank(b); d != 0 {
		return d
	}
	switch {
	case a.latency == b.latency:
		return 0
	case b.latency == 0 || (a.latency != 0 && a.latency < b.latency):
		return -1
	}
	return 1
}

// Failed tells that a call to the node at addr ended with err (a dfs error): a
// leader that is none, or is not reached, is forgotten; a hint in
// err is followed; a node that is not reached is called last until it answers.
func (c *Cluster) Failed(addr string, err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[addr]
	if n == nil {
		return
	}
	switch errors.KindOf(err) {
	case errors.KindNotLeader:
		c.forgetLeaderLocked(addr)
		if l, ok := rpcerr.LeaderOf(err); ok && l.Address != "" && l.Address != addr {
			c.hint = l.Address
		}
	case errors.KindUnavailable, errors.KindTimeout:
		c.forgetLeaderLocked(addr)
		c.failLocked(n, err)
	}
}

func (c *Cluster) forgetLeaderLocked(addr string) {
	if c.leader != nil && c.leader.addr == addr {
		c.leader = nil
	}
	if c.hint == addr {
		c.hint = ""
	}
}

// InvalidateLeader forgets the leader if it is the node at addr, or whoever it
// is if addr is "": the next Leader call asks.
func (c *Cluster) InvalidateLeader(addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr == "" {
		c.leader, c.hint = nil, ""
		return
	}
	c.forgetLeaderLocked(addr)
}

// InvalidateBefore forgets the leader if it was seen to lead in a term below
// term: the caller knows of a later one.
func (c *Cluster) InvalidateBefore(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader != nil && c.leadership.Term < term {
		c.leader = nil
	}
}

// KnownLeader is the address of the node thought to lead, "" if none is.
func (c *Cluster) KnownLeader() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leader == nil {
		return ""
	}
	return c.leader.addr
}

func (c *Cluster) failLocked(n *node, err error) {
	n.fails++
	n.last = err.Error()
	n.retryAt = time.Now().Add(min(250*time.Millisecond<<min(n.fails-1, 6), 10*time.Second))
}

// Close ends every connection and whatever is under way.
func (c *Cluster) Close() {
	c.stop()
	c.mu.Lock()
	c.closed = true
	nodes := c.nodes
	c.nodes, c.order, c.leader = map[string]*node{}, nil, nil
	c.mu.Unlock()
	for _, n := range nodes {
		_ = n.conn.Close()
	}
	c.wg.Wait()
}
