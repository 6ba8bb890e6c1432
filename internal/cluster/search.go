package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/errors"
)

const (
	// hintHeadStart is how long a hinted leader may take before all are asked.
	hintHeadStart = 100 * time.Millisecond
	// selfGrace is how long, after a node said that it leads, the others may
	// still name a leader of a later term.
	selfGrace = 20 * time.Millisecond
	// quietGrace is how long, after the first answer, a round that found no
	// leader waits for the others. Later answers still count, for the next round.
	quietGrace = 150 * time.Millisecond
	// firstGrace is the same in the round that learns the cluster's id, so that
	// a list that mixes clusters is noticed.
	firstGrace = 200 * time.Millisecond

	backoffMin = 20 * time.Millisecond
	backoffMax = 250 * time.Millisecond
)

// round is one asking of all nodes, shared by all who wait for it.
type round struct {
	done chan struct{}
	err  error // final: no use in asking again
}

// answer is what one node said.
type answer struct {
	n    *node
	info Info
	took time.Duration
	err  error
}

// Leader gives the connection to the node that leads, asking for it where it
// is not known, again and again until ctx ends. Errors: KindUnavailable (ctx's deadline:
// the text tells what each node said), KindInterrupted, KindForeign
// (the nodes given are of several clusters, or all of another one).
func (c *Cluster) Leader(ctx context.Context) (*grpc.ClientConn, blockstore.Leadership, error) {
	start := time.Now()
	for wait := backoffMin; ; wait = min(2*wait, backoffMax) {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, blockstore.Leadership{}, errClosed()
		}
		if c.leader != nil {
			defer c.mu.Unlock()
			return c.leader.conn, c.leadership, nil
		}
		r := c.startRoundLocked()
		c.mu.Unlock()
		select {
		case <-r.done:
		case <-ctx.Done():
			return nil, blockstore.Leadership{}, c.noLeader(ctx, start)
		}
		if r.err != nil {
			return nil, blockstore.Leadership{}, r.err
		}
		if c.knowsLeader() {
			continue
		}
		t := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, blockstore.Leadership{}, c.noLeader(ctx, start)
		}
	}
}

func (c *Cluster) knowsLeader() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.leader != nil
}

// noLeader is the error of a search that found none in its time.
func (c *Cluster) noLeader(ctx context.Context, start time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var said []string
	for _, addr := range c.order {
		n := c.nodes[addr]
		name := addr
		if n.id != "" {
			name = fmt.Sprintf("%s (node %s)", addr, n.id)
		}
		said = append(said, name+": "+n.last)
	}
	kind := errors.KindUnavailable
	if ctx.Err() == context.Canceled {
		kind = errors.KindInterrupted
	}
	return errors.New(kind, "no leader found in %v. Asked %s. Check that a majority of the nodes runs and that these addresses are reached from here (%w)",
		time.Since(start).Round(time.Millisecond), strings.Join(said, "; "), ctx.Err())
}

// Refresh asks every node now: members, leader, latencies. It returns ctx's
// error, or KindForeign as Leader does.
func (c *Cluster) Refresh(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errClosed()
	}
	r := c.startRoundLocked()
	c.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return errors.New(errors.KindOf(ctx.Err()), "asking the nodes of the cluster: %w", ctx.Err())
	}
}

// startRoundLocked starts a round, or joins the one under way.
func (c *Cluster) startRoundLocked() *round {
	if c.round != nil {
		return c.round
	}
	r := &round{done: make(chan struct{})}
	c.round = r
	c.refreshed = time.Now()
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		err := c.runRound()
		c.mu.Lock()
		c.round = nil
		c.mu.Unlock()
		r.err = err
		close(r.done)
	}()
	return r
}

// asking is the state of one round; it belongs to the round's goroutine.
type asking struct {
	c       *Cluster
	ctx     context.Context
	asked   map[*node]bool
	answers chan answer
	left    int
	best    *answer // who says that it leads, in the greatest term
}

// runRound asks the hinted leader, then all, those that the answers name too.
func (c *Cluster) runRound() error {
	c.mu.Lock()
	learning := c.id == ""
	hint := c.hint
	n := len(c.order)
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(c.ctx, c.opts.AskTimeout)
	a := &asking{c: c, ctx: ctx, asked: map[*node]bool{}, answers: make(chan answer, n+8)}
	defer a.drain(cancel)
	grace := selfGrace
	if learning {
		grace, hint = firstGrace, ""
	}
	if hint != "" && a.askHint(hint) {
		return nil
	}
	a.askAll()
	var graceC, quietC <-chan time.Time
	for waiting := true; waiting && a.left > 0; {
		select {
		case ans := <-a.answers:
			a.left--
			a.take(ans)
			a.askAll()
			if quietC == nil && ans.err == nil {
				quietC = time.After(max(quietGrace, grace))
			}
			if graceC == nil && a.best != nil {
				graceC = time.After(grace)
			}
		case <-graceC:
			waiting = false
		case <-quietC:
			waiting = false
		}
	}
	a.c.settle(a.best)
	return a.verdict(learning)
}

// drain takes in the answers that come after the round, in the background.
func (a *asking) drain(cancel context.CancelFunc) {
	if a.left == 0 {
		cancel()
		return
	}
	a.c.wg.Add(1)
	go func() {
		defer a.c.wg.Done()
		defer cancel()
		for ; a.left > 0; a.left-- {
			ans := <-a.answers
			if a.c.note(ans) && ans.err == nil && ans.info.Leadership.Self {
				a.c.settle(&ans)
			}
		}
	}()
}

// askHint asks one node ahead of all; true: it leads.
func (a *asking) askHint(addr string) bool {
	a.c.mu.Lock()
	n, err := a.c.addLocked(addr)
	a.c.hint = ""
	a.c.mu.Unlock()
	if err != nil {
		return false
	}
	a.ask(n)
	t := time.NewTimer(hintHeadStart)
	defer t.Stop()
	select {
	case ans := <-a.answers:
		a.left--
		a.take(ans)
		if a.best != nil {
			return a.c.settle(a.best)
		}
	case <-t.C:
	}
	return false
}

// askAll asks every node that was not asked in this round.
func (a *asking) askAll() {
	a.c.mu.Lock()
	var todo []*node
	for _, addr := range a.c.order {
		if n := a.c.nodes[addr]; !a.asked[n] && (n.static || a.c.usableLocked(n)) {
			todo = append(todo, n)
		}
	}
	a.c.mu.Unlock()
	for _, n := range todo {
		a.ask(n)
	}
}

func (a *asking) ask(n *node) {
	if a.asked[n] {
		return
	}
	a.asked[n] = true
	a.left++
	a.c.wg.Add(1)
	go func() {
		defer a.c.wg.Done()
		start := time.Now()
		info, err := Ask(a.ctx, n.conn)
		a.answers <- answer{n, info, time.Since(start), err}
	}()
}

// take notes an answer and remembers the best.
func (a *asking) take(ans answer) {
	if !a.c.note(ans) {
		return
	}
	if ans.err == nil && ans.info.Leadership.Self && (a.best == nil || ans.info.Leadership.Term > a.best.info.Leadership.Term) {
		a.best = &ans
	}
}

// verdict is the round's final error: nodes of several clusters in the round that was
// to learn the id, or none but foreign ones.
func (a *asking) verdict(learning bool) error {
	c := a.c
	c.mu.Lock()
	defer c.mu.Unlock()
	var foreign error
	others := false
	for n := range a.asked {
		if n.foreign != nil {
			foreign = n.foreign
		} else {
			others = true
		}
	}
	if foreign == nil || (others && !learning) {
		return nil
	}
	if learning {
		// Which of the clusters is meant is not for a race to decide.
		c.id, c.leader, c.members, c.membersIndex = c.opts.ClusterID, nil, nil, 0
		for n := range a.asked {
			n.foreign = nil
		}
	}
	return foreign
}

// note takes in what a node said; false if it is of another cluster.
func (c *Cluster) note(ans answer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := ans.n
	if ans.err != nil {
		if c.ctx.Err() == nil {
			c.failLocked(n, ans.err)
		}
		return true
	}
	info := ans.info
	n.id, n.fails, n.answered = info.Node, 0, time.Now()
	if n.latency == 0 {
		n.latency = ans.took
	} else {
		n.latency += (ans.took - n.latency) / 4
	}
	if c.id == "" {
		c.id = info.ClusterID
	}
	if info.ClusterID != c.id && info.ClusterID != "" {
		if n.foreign == nil {
			c.opts.Log.Warn("node of another cluster is not used", "address", n.addr, "node", info.Node, "cluster", info.ClusterID, "ours", c.id)
		}
		n.foreign = errors.New(errors.KindForeign, "the node at %s (%s) is of cluster %s, not of %s: correct the list of addresses", n.addr, info.Node, info.ClusterID, c.id)
		n.last = n.foreign.Error()
		if c.leader == n {
			c.leader = nil
		}
		return false
	}
	n.foreign = nil
	l := info.Leadership
	switch {
	case info.ClusterID == "":
		n.last = "it belongs to no cluster yet"
	case l.Self:
		n.last = fmt.Sprintf("it leads, in term %d", l.Term)
	case l.Leader == "":
		n.last = fmt.Sprintf("it knows no leader (term %d)", l.Term)
	default:
		n.last = fmt.Sprintf("it follows %s at %s (term %d)", l.Leader, l.Address, l.Term)
	}
	c.learnMembersLocked(info)
	return true
}

// learnMembersLocked takes in a newer member list: of a greater index, or of the
// same one (0: the node knows no index) from the leader.
func (c *Cluster) learnMembersLocked(info Info) {
	newer := info.MembersIndex > c.membersIndex || (info.MembersIndex == c.membersIndex && info.Leadership.Self && info.Leadership.Term >= c.selfTermMax)
	if len(info.Members) == 0 || (len(c.members) > 0 && !newer) {
		return
	}
	c.members, c.membersIndex = info.Members, info.MembersIndex
	for _, m := range info.Members {
		if _, err := c.addLocked(m.Address); err != nil && !c.closed {
			c.opts.Log.Warn("member's address is of no use", "node", m.Node, "address", m.Address, "err", err)
		}
	}
}

// settle makes ans, if any, the leader; false if a later leader was seen.
func (c *Cluster) settle(ans *answer) bool {
	if ans == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := ans.info.Leadership
	if c.closed || l.Term < c.selfTermMax || ans.n.foreign != nil {
		return false
	}
	c.selfTermMax = l.Term
	if l.Address == "" {
		l.Address = ans.n.addr
	}
	// Callers reach it where we did, whatever it calls itself.
	c.leader, c.leadership = ans.n, l
	c.leadership.Address = ans.n.addr
	return true
}
