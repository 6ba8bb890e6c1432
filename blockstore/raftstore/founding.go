package raftstore

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/mux"
)

// card is what a node answers to a probe.
type card struct {
	Node        blockstore.NodeID `json:"node"`
	Address     string            `json:"address"`
	Incarnation incarnation       `json:"incarnation"`
	Cluster     string            `json:"cluster,omitempty"` // hex, "" while it has none
}

func (n *Node) card() []byte {
	n.identMu.Lock()
	defer n.identMu.Unlock()
	b, err := json.Marshal(card{n.ident.Node, n.opts.Advertise, n.ident.Incarnation, n.ident.Cluster})
	if err != nil {
		n.log.Error("cannot make the card that tells others of this node", "err", err)
	}
	return b
}

// probe asks the node at addr for its card.
func (n *Node) probe(ctx context.Context, addr string) (*card, error) {
	b, err := mux.Probe(ctx, n.opts.Dial, addr)
	if err != nil {
		return nil, err
	}
	c := new(card)
	if err := json.Unmarshal(b, c); err != nil || !nodeIDForm.MatchString(string(c.Node)) {
		return nil, errors.New(errors.KindCorrupt, "node %s says of itself what this one cannot read: %q", addr, b)
	}
	return c, nil
}

// findCluster makes sure that this directory belongs to a cluster: it waits for the other founders, or for a member to join.
func (n *Node) findCluster(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for round := 0; ; round++ {
		if n.ident.Cluster != "" {
			return nil
		}
		var err error
		var missing string
		if len(n.opts.Bootstrap) > 0 {
			missing, err = n.tryFound(ctx)
		} else {
			missing, err = n.tryJoin(ctx)
		}
		if err != nil {
			return err
		}
		if n.ident.Cluster != "" {
			return nil
		}
		if round%20 == 3 {
			n.log.Warn("waiting for other nodes before the first start", "because", missing)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, time.Second)
	}
}

// tryFound asks every founder who it is. Only when all have answered, and none belongs to another cluster, is the
// cluster made: so a node whose disk was emptied cannot found it again in secret.
func (n *Node) tryFound(ctx context.Context) (missing string, err error) {
	var all []founder
	var cards []*card
	for id, addr := range n.opts.Bootstrap {
		if id == n.opts.ID {
			all = append(all, founder{id, addr, n.ident.Incarnation})
			continue
		}
		c, err := n.probe(ctx, addr)
		if err != nil {
			return err.Error(), nil
		}
		if c.Node != id {
			return "", errors.New(errors.KindForeign, "the bootstrap list says that node %s is at %s, but there is node %s: correct the list", id, addr, c.Node)
		}
		all = append(all, founder{id, addr, c.Incarnation})
		cards = append(cards, c)
	}
	sortFounders(all)
	cluster := clusterOf(all)
	name := hex.EncodeToString(cluster[:])
	for _, c := range cards {
		if c.Cluster != "" && c.Cluster != name {
			return "", errors.New(errors.KindForeign, "node %s already belongs to cluster %s, in which this node's empty data directory (%s) has no part: "+
				"remove the member %s there and let this node join as a new one, or correct the bootstrap list", c.Node, c.Cluster, n.opts.Dir, n.opts.ID)
		}
	}
	return "", n.adopt(name, all)
}

// tryJoin learns the cluster from a member.
func (n *Node) tryJoin(ctx context.Context) (missing string, err error) {
	missing = "no member to join was named"
	for _, addr := range n.opts.Join {
		c, err := n.probe(ctx, addr)
		switch {
		case err != nil:
			missing = err.Error()
		case c.Cluster == "":
			missing = "node " + string(c.Node) + " has no cluster yet"
		default:
			return "", n.adopt(c.Cluster, nil)
		}
	}
	return missing, nil
}

// checkListed ends a node whose directory is of another cluster than the nodes that it was told of: of those that answer,
// some belong to another and none to its own. It would wait for its own cluster for ever, or, worse, be taken for a member here.
func (n *Node) checkListed(own string) {
	ctx, cancel := n.runCtx()
	defer cancel()
	list := slices.Clone(n.opts.Join)
	for id, addr := range n.opts.Bootstrap {
		if id != n.opts.ID {
			list = append(list, addr)
		}
	}
	var other *card
	for _, addr := range list {
		pctx, stop := context.WithTimeout(ctx, listedWait)
		c, err := n.probe(pctx, addr)
		stop()
		switch {
		case err != nil || c.Cluster == "":
		case c.Cluster == own:
			return
		default:
			other = c
		}
	}
	if other != nil {
		n.startFailed(errors.New(errors.KindForeign, "data directory %s belongs to cluster %s, but node %s at %s, which this node was told of, to cluster %s: "+
			"start with the directory or the list of nodes that was meant", n.opts.Dir, own, other.Node, other.Address, other.Cluster))
	}
}

// listedWait bounds one question of checkListed.
const listedWait = 5 * time.Second

// adopt binds the data directory to the cluster, durably.
func (n *Node) adopt(cluster string, founders []founder) error {
	n.identMu.Lock()
	defer n.identMu.Unlock()
	next := *n.ident
	next.Cluster, next.Founders = cluster, founders
	if _, ok := next.clusterID(); !ok {
		return errors.New(errors.KindCorrupt, "a member named its cluster %q, which is no cluster id", cluster)
	}
	if err := n.commitFile(func() error { return saveIdentity(n.opts.Dir, &next) }); err != nil {
		return err
	}
	*n.ident = next
	n.log.Info("this node belongs to a cluster now", "cluster", cluster)
	return nil
}

// found writes the first configuration, on the first founder alone and once; the others get it from it. (That
// entry needs a majority like any other, so one node is enough.) A founder whose
// cluster lived has seen a term above 1.
func (n *Node) found() error {
	founders := n.ident.Founders
	if len(founders) == 0 || founders[0].Node != n.opts.ID || n.stores.covered.Load() > 0 {
		return nil
	}
	last, err := n.stores.log.LastIndex()
	if err != nil {
		return err
	}
	term, err := n.stores.stable.GetUint64(keyCurrentTerm)
	if err != nil && !isKeyNotFound(err) {
		return err
	}
	if last > 0 || term > 1 {
		return nil
	}
	var servers []raft.Server
	for _, f := range founders {
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: serverID(f.Node, f.Incarnation), Address: serverAddress(f.Address, f.Incarnation)})
	}
	// What raft.BootstrapCluster does, but repeatable when a crash came between the two steps.
	if err := n.stores.stable.SetUint64(keyCurrentTerm, 1); err != nil {
		return err
	}
	data := raft.EncodeConfiguration(raft.Configuration{Servers: servers})
	return n.stores.log.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: data})
}

// keyCurrentTerm is where raft keeps the term in its stable store.
var keyCurrentTerm = []byte("CurrentTerm")
