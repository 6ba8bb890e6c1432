package raftstore

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Member is a node of the cluster, as this node knows it.
type Member struct {
	ID          blockstore.NodeID
	Address     string // host:port
	Incarnation string // of its data directory, 16 hex digits
	Voter       bool
	Leader      bool
	Self        bool
	// Applied is what the member has applied, LastContact when it told; zeros if it does not answer. Members fills in this
	// node's own only; MembersAsked asks the others.
	Applied     uint64
	LastContact time.Time
}

// configuration returns the newest configuration that this node knows, committed or not.
func (n *Node) configuration() raft.Configuration {
	r := n.raft.Load()
	if r == nil {
		return raft.Configuration{}
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return raft.Configuration{}
	}
	return f.Configuration()
}

// Members lists the members that this node knows. It asks nobody.
func (n *Node) Members() []Member {
	leader := n.Leadership()
	var out []Member
	for _, s := range n.configuration().Servers {
		node, inc, _ := splitServer(string(s.ID))
		addr, _, _ := splitServer(string(s.Address))
		m := Member{ID: blockstore.NodeID(node), Address: addr, Incarnation: inc.String(), Voter: s.Suffrage == raft.Voter}
		m.Leader = m.ID == leader.Leader
		if m.Self = s.ID == n.serverID(); m.Self {
			m.Applied, m.LastContact = n.Applied(), time.Now()
		}
		out = append(out, m)
	}
	return out
}

// MembersAsked is Members, with what each member that answers until ctx ends says it has applied.
func (n *Node) MembersAsked(ctx context.Context) []Member {
	members := n.Members()
	done := make(chan struct{}, len(members))
	asked := 0
	for i := range members {
		m := &members[i]
		if m.Self {
			continue
		}
		asked++
		go func() {
			if applied, err := n.opts.Peers.AppliedIndex(ctx, m.Address); err == nil {
				m.Applied, m.LastContact = applied, time.Now()
			}
			done <- struct{}{}
		}()
	}
	for range asked {
		<-done
	}
	return members
}

func (n *Node) serverID() raft.ServerID {
	n.identMu.Lock()
	defer n.identMu.Unlock()
	return n.ident.serverID()
}

// voterCount is the number of voters that this node knows of.
func (n *Node) voterCount() int {
	count := 0
	for _, s := range n.configuration().Servers {
		if s.Suffrage == raft.Voter {
			count++
		}
	}
	return count
}

// peerAddresses lists the other members, the leader first: it has applied the most.
func (n *Node) peerAddresses() []string {
	var out []string
	for _, m := range n.Members() {
		switch {
		case m.Self:
		case m.Leader:
			out = append([]string{m.Address}, out...)
		default:
			out = append(out, m.Address)
		}
	}
	return out
}

// sources lists the members' addresses for a manifest.
func (n *Node) sources() []string {
	var out []string
	for _, m := range n.Members() {
		if len(out) < sourcesMax {
			out = append(out, m.Address)
		}
	}
	return out
}

// AddNonvoter adds the node at addr, which must be running with an empty data directory and waiting to join, or updates the
// address of a member that moved. It gets a copy of everything; Promote makes it a voter then.
// Only the leader does it (KindNotLeader). KindExist: a member of that id has another data directory; Remove it first.
func (n *Node) AddNonvoter(ctx context.Context, id blockstore.NodeID, addr string) error {
	r, err := n.leaderNow()
	if err != nil {
		return err
	}
	if err := checkAddress(addr); err != nil {
		return err
	}
	c, err := n.probe(ctx, addr)
	if err != nil {
		return errors.New(errors.KindOf(err), "cannot add node %s: %w", id, err)
	}
	if c.Node != id {
		return errors.New(errors.KindInvalid, "cannot add node %s: the node at %s calls itself %s", id, addr, c.Node)
	}
	n.identMu.Lock()
	mine := n.ident.Cluster
	n.identMu.Unlock()
	if c.Cluster != "" && c.Cluster != mine {
		return errors.New(errors.KindForeign, "cannot add node %s: it belongs to cluster %s, this one is %s", id, c.Cluster, mine)
	}
	voter := false
	for _, m := range n.Members() {
		switch {
		case m.ID == id && m.Incarnation != c.Incarnation.String():
			return errors.New(errors.KindExist, "cannot add node %s: there is a member %s with another data directory; remove it first", id, id)
		case m.ID == id:
			voter = m.Voter
		case m.Address == addr:
			return errors.New(errors.KindExist, "cannot add node %s: member %s has the address %s", id, m.ID, addr)
		}
	}
	sid, saddr := serverID(id, c.Incarnation), serverAddress(addr, c.Incarnation)
	if voter {
		return n.configured(r.AddVoter(sid, saddr, 0, n.applyWait(ctx)))
	}
	return n.configured(r.AddNonvoter(sid, saddr, 0, n.applyWait(ctx)))
}

// configured waits for a change of the membership.
func (n *Node) configured(f raft.IndexFuture) error {
	if err := f.Error(); err != nil {
		return n.proposeError(err)
	}
	return nil
}

// find returns the server of a member.
func (n *Node) find(id blockstore.NodeID) (raft.Server, error) {
	for _, s := range n.configuration().Servers {
		if node, _, _ := splitServer(string(s.ID)); node == string(id) {
			return s, nil
		}
	}
	return raft.Server{}, errors.New(errors.KindNotExist, "there is no member %s", id)
}

// promoteLag is how many entries a member may lack when it becomes a voter.
const promoteLag = 1000

// Promote makes a member a voter. It is refused (KindBusy) while the member is still far behind, because the
// group could wait for it.
func (n *Node) Promote(ctx context.Context, id blockstore.NodeID) error {
	r, err := n.leaderNow()
	if err != nil {
		return err
	}
	s, err := n.find(id)
	if err != nil || s.Suffrage == raft.Voter {
		return err
	}
	addr, _, _ := splitServer(string(s.Address))
	applied, err := n.opts.Peers.AppliedIndex(ctx, addr)
	if err != nil {
		return errors.New(errors.KindBusy, "member %s does not answer, or still copies; promote it later: %w", id, err)
	}
	if now := n.Applied(); applied+promoteLag < now {
		return errors.New(errors.KindBusy, "member %s has applied %d of %d entries; promote it later", id, applied, now)
	}
	return n.configured(r.AddVoter(s.ID, s.Address, 0, n.applyWait(ctx)))
}

// Remove takes a member out of the cluster. Its data directory cannot come back: empty it, and add the node anew.
func (n *Node) Remove(ctx context.Context, id blockstore.NodeID) error {
	r, err := n.leaderNow()
	if err != nil {
		return err
	}
	s, err := n.find(id)
	if err != nil {
		return err
	}
	if s.Suffrage == raft.Voter && n.voterCount() == 1 {
		return errors.New(errors.KindInvalid, "member %s is the only voter: nothing would be left", id)
	}
	return n.configured(r.RemoveServer(s.ID, 0, n.applyWait(ctx)))
}

// TransferLeadership hands leadership to another voter ("": to the most up to date).
func (n *Node) TransferLeadership(_ context.Context, to blockstore.NodeID) error {
	r, err := n.leaderNow()
	if err != nil {
		return err
	}
	if to == "" {
		err = r.LeadershipTransfer().Error()
	} else {
		var s raft.Server
		if s, err = n.find(to); err != nil {
			return err
		}
		err = r.LeadershipTransferToServer(s.ID, s.Address).Error()
	}
	if err != nil {
		return errors.New(errors.KindUnavailable, "leadership was not handed over: %w", err)
	}
	return nil
}
