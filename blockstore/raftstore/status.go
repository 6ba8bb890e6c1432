package raftstore

import (
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/mux"
)

// Status is what `dfs status` tells of a node.
type Status struct {
	Node        blockstore.NodeID
	Cluster     string // 32 hex digits, "" while the node has none
	Incarnation string
	Address     string
	Role        string // Leader, Follower, Candidate, Shutdown, or Starting
	Ready       bool   // as leader: Leadership().Self; else: may be read
	Leader      blockstore.NodeID
	LeaderAddr  string
	Term        uint64
	Members     []Member

	AppliedIndex    uint64
	CommitIndex     uint64
	LastLogIndex    uint64
	FirstLogIndex   uint64
	CheckpointIndex uint64
	LastContact     time.Time // with the leader; zero on the leader

	LogBytes          int64
	LogCacheBytes     int64
	LogKept           bool  // deletions are put off, because a replica copies
	LogKeptBytesMax   int64 // but not in a log greater than this
	LogSpareBytes     int64 // of LogBytes: kept because followers are behind
	LogSpareBytesMax  int64 // the log may have this size for that
	InFlightBytes     int64
	InFlightBytesMax  int64
	BytesSinceRestart int64 // applied

	DeviceUsedBytes uint64
	DeviceFreeBytes uint64
	Space           blockstore.Space
	Writers         int
	Epoch           blockstore.Epoch

	CatchUp Progress
	Held    bool
	Repairs RepairCounts
	Net     mux.Stats
	Failure string // why this replica stopped, "" if it works
}

// RepairCounts count damaged blocks since the start.
type RepairCounts struct {
	Found, Repaired, Failed uint64
	ChunksScrubbed          uint64
	ScrubRounds             uint64
	LastScrub               time.Time // end of the last whole round, zero if none
}

// ClusterID is the cluster's id in 32 hex digits, "" while the node belongs to none. It answers at once, from memory.
func (n *Node) ClusterID() string {
	n.identMu.Lock()
	defer n.identMu.Unlock()
	return n.ident.Cluster
}

// Status tells how this node is.
func (n *Node) Status() Status {
	a := n.applier
	s := Status{Node: n.opts.ID, Address: n.opts.Advertise, Role: "Starting", Members: n.Members(), AppliedIndex: n.Applied(),
		InFlightBytes: n.inFlightBytes.Load(), InFlightBytesMax: n.limits.InFlightBytes, BytesSinceRestart: a.volume.Load(),
		LogBytes: n.stores.entries.Bytes(), LogCacheBytes: n.stores.entries.CacheBytes(), CatchUp: n.CatchUp(), Held: n.Held(), Net: n.opts.Mux.Stats()}
	n.identMu.Lock()
	s.Incarnation = n.ident.Incarnation.String()
	n.identMu.Unlock()
	s.Cluster = n.ClusterID()
	l := n.Leadership()
	s.Leader, s.LeaderAddr, s.Term = l.Leader, l.Address, l.Term
	s.Ready = a.progress.settled() && a.dead.Load() == nil
	if r := n.raft.Load(); r != nil {
		s.Role, s.CommitIndex = r.State().String(), r.CommitIndex()
		if r.State() == raft.Leader {
			s.Ready = l.Self
		} else {
			s.LastContact = r.LastContact()
		}
	}
	s.FirstLogIndex, _ = n.stores.entries.FirstIndex()
	s.LastLogIndex, _ = n.stores.entries.LastIndex()
	n.stores.holdMu.Lock()
	s.LogKept = n.stores.release != nil
	n.stores.holdMu.Unlock()
	s.LogSpareBytes, s.LogSpareBytesMax = n.spareBytes.Load(), n.keepBytes.Load()
	s.LogKeptBytesMax = n.limits.HoldLogBytes
	s.CheckpointIndex, _ = a.dev.Meta()
	if u, err := a.dev.Usage(); err == nil {
		s.DeviceUsedBytes, s.DeviceFreeBytes = u.Used, u.Free
	}
	n.View(func(st *blockstore.State, _ uint64) {
		s.Space, s.Writers, s.Epoch = st.Space(), st.WriterCount(), st.Epoch()
	})
	s.Repairs = n.repairs.counts()
	if err := a.dead.Load(); err != nil {
		s.Failure = (*err).Error()
	}
	return s
}

func (r *repairs) counts() RepairCounts {
	c := RepairCounts{Found: r.found.Load(), Repaired: r.repaired.Load(), Failed: r.failed.Load(),
		ChunksScrubbed: r.scrubbed.Load(), ScrubRounds: r.rounds.Load()}
	if at := r.lastEnd.Load(); at != 0 {
		c.LastScrub = time.Unix(at, 0)
	}
	return c
}
