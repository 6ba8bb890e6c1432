package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	stderrors "errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/mux"
)

// Recovery of a cluster whose majority is lost for good, from the data directory of one node that is left:
//
//  1. OpenSurvivor looks whether the directory is whole, and tells what it holds. Nothing is changed.
//  2. Recover replaces node.json: a new random cluster id, and a note (recovered) of the entry to come. That is the switch.
//  3. At the next start, before Raft runs, refound appends that entry, in a new term: a configuration of this node alone.
//     It is elected by itself, commits everything that its log holds, and goes on as a cluster of one.
//
// A node of the old cluster has the old cluster id, which the mux refuses on both sides; nodes are added to the
// new one as to any other.

// recovered is what the identity file says of a recovery.
type recovered struct {
	Index   uint64 `json:"index"` // of the new configuration in the log
	Term    uint64 `json:"term"`
	Address string `json:"address"` // host:port of the one member
	From    string `json:"from"`    // the old cluster's id
}

// Survivor is the data directory of a stopped node, held. Close it.
type Survivor struct {
	Node    blockstore.NodeID
	Cluster string
	Members []Member // of the newest configuration in its log; Self is set, of the rest what the configuration says
	// Checkpoint is the index up to which the block files are durable; entries up to it were committed for sure.
	Checkpoint uint64
	// LastIndex, LastTerm, LastTime are of the newest entry of the log; the time is its leader's, zero if it is not known.
	LastIndex, LastTerm uint64
	LastTime            time.Time

	n *Node
}

// Identity tells whose data directory dir is. KindNotExist: nobody's.
func Identity(dir string) (node blockstore.NodeID, incarnation string, err error) {
	id, err := readIdentity(dir)
	if err != nil {
		return "", "", err
	}
	return id.Node, id.Incarnation.String(), nil
}

// readIdentity is loadIdentity that makes none.
func readIdentity(dir string) (*identity, error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if stderrors.Is(err, fs.ErrNotExist) {
		return nil, errors.New(errors.KindNotExist, "%s is not there: %s is not the data directory of a node", path, dir)
	}
	if err != nil {
		return nil, errors.New(errors.KindIO, "cannot read the identity of the data directory: %w", err)
	}
	id, err := decodeIdentity(b)
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "identity file %s: %w", path, err)
	}
	return id, nil
}

// OpenSurvivor looks into the data directory of a stopped node, whose opened device is dev, and holds it. KindBusy: the node
// runs. KindInvalid: there is nothing to recover here. KindCorrupt: it does not hold everything up to its newest entry.
func OpenSurvivor(dir string, dev blockstore.Device, log *slog.Logger) (*Survivor, error) {
	n := &Node{opts: Options{Dir: dir, Device: dev, Logger: log, LogKind: LogSeg, Fatal: func(error) {}}, limits: Limits{}.withDefaults(), log: log, closing: make(chan struct{})}
	s := &Survivor{n: n}
	if err := s.open(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close lets the directory go.
func (s *Survivor) Close() { s.n.release() }

func (s *Survivor) open() (err error) {
	n := s.n
	if n.lock, err = lockDir(n.opts.Dir); err != nil {
		return err
	}
	if n.ident, err = readIdentity(n.opts.Dir); err != nil {
		return err
	}
	n.opts.ID = n.ident.Node
	if n.ident.Cluster == "" || !n.ident.Lives {
		return errors.New(errors.KindInvalid, "node %s in %s has never been part of a running cluster: there is nothing to recover", n.ident.Node, n.opts.Dir)
	}
	if exists(filepath.Join(n.opts.Dir, "raft", "log.db")) {
		n.opts.LogKind = LogBolt
	}
	if n.stores, err = n.openStores(); err != nil {
		return err
	}
	if err := n.checkLife(); err != nil {
		return err
	}
	s.Node, s.Cluster = n.ident.Node, n.ident.Cluster
	if err := s.readLog(); err != nil {
		return err
	}
	return s.checkWhole()
}

// readLog reads every entry: each must be good, and the last configuration among them counts.
func (s *Survivor) readLog() error {
	log := s.n.stores.log
	snaps, err := s.n.stores.snapshots.List()
	if err != nil {
		return errors.New(errors.KindIO, "cannot list the snapshots: %w", err)
	}
	if err := s.n.noGap(snaps); err != nil {
		return err
	}
	var conf raft.Configuration
	if len(snaps) > 0 {
		conf, s.LastIndex, s.LastTerm = snaps[0].Configuration, snaps[0].Index, snaps[0].Term
	}
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i > 0 && i <= last; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil {
			return errors.New(errors.KindOf(err), "log entry %d, of %d up to %d, cannot be read: %w", i, first, last, err)
		}
		if l.Type == raft.LogConfiguration {
			conf = raft.DecodeConfiguration(l.Data)
		}
		if l.Index > s.LastIndex {
			s.LastIndex, s.LastTerm, s.LastTime = l.Index, l.Term, l.AppendedAt
		}
	}
	for _, m := range conf.Servers {
		node, inc, _ := splitServer(string(m.ID))
		addr, _, _ := splitServer(string(m.Address))
		s.Members = append(s.Members, Member{ID: blockstore.NodeID(node), Address: addr, Incarnation: inc.String(),
			Voter: m.Suffrage == raft.Voter, Self: m.ID == s.n.ident.serverID()})
	}
	return nil
}

// checkWhole refuses what cannot, or need not, be recovered.
func (s *Survivor) checkWhole() error {
	dev, dir := s.n.opts.Device, s.n.opts.Dir
	s.Checkpoint, _ = dev.Meta()
	mark, err := loadCopyMark(dir)
	if err != nil {
		return err
	}
	edge := s.n.stores.edge.Load()
	switch {
	case incomplete(dev) || mark != nil && (mark.Copying || mark.Floor > s.LastIndex) || edge != nil && s.Checkpoint < edge.Index:
		return errors.New(errors.KindCorrupt, "node %s was copying from another node and does not hold everything: recover from another node's data directory", s.Node)
	case s.self() == nil:
		return errors.New(errors.KindInvalid, "node %s is no member of the cluster by the newest configuration that %s holds: recover from a member's data directory", s.Node, dir)
	case s.self().Voter && s.voters() == 1:
		return errors.New(errors.KindInvalid, "node %s is the only voter of its cluster already: start it", s.Node)
	}
	return nil
}

func (s *Survivor) self() *Member {
	for i := range s.Members {
		if s.Members[i].Self {
			return &s.Members[i]
		}
	}
	return nil
}

func (s *Survivor) voters() (count int) {
	for _, m := range s.Members {
		if m.Voter {
			count++
		}
	}
	return count
}

// Recover makes the node the one member of a new cluster, durably, and returns that cluster's id. It takes
// effect at the node's next start.
func (s *Survivor) Recover() (cluster string, err error) {
	term, err := s.n.stores.stable.GetUint64(keyCurrentTerm)
	if err != nil {
		return "", errors.New(errors.KindIO, "cannot read the term in %s: %w", stableFile, err)
	}
	var id mux.ClusterID
	if _, err := rand.Read(id[:]); err != nil {
		return "", err
	}
	next := *s.n.ident
	next.Cluster, next.Founders = hex.EncodeToString(id[:]), nil
	next.Recovered = &recovered{Index: s.LastIndex + 1, Term: max(term, s.LastTerm) + 1, Address: s.self().Address, From: s.Cluster}
	return next.Cluster, saveIdentity(s.n.opts.Dir, &next)
}

// refound writes the configuration that a recovery asks for, once.
func (n *Node) refound() error {
	r := n.ident.Recovered
	if r == nil {
		return nil
	}
	last, err := n.stores.log.LastIndex()
	if err != nil {
		return err
	}
	last = max(last, n.stores.covered.Load())
	switch {
	case last >= r.Index:
		return nil
	case last != r.Index-1:
		return errors.New(errors.KindCorrupt, "this node was recovered with %d log entries, but only %d are there", r.Index-1, last)
	}
	n.log.Warn("this node is the one member of a recovered cluster", "cluster", n.ident.Cluster, "from", r.From, "entries", last)
	if err := n.stores.stable.SetUint64(keyCurrentTerm, r.Term); err != nil {
		return err
	}
	self := raft.Server{Suffrage: raft.Voter, ID: n.ident.serverID(), Address: serverAddress(r.Address, n.ident.Incarnation)}
	data := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{self}})
	return n.stores.log.StoreLog(&raft.Log{Index: r.Index, Term: r.Term, Type: raft.LogConfiguration, Data: data})
}
