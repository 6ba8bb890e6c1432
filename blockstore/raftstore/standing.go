package raftstore

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// leaderlessWarn is after how long without a leader a node says so.
const leaderlessWarn = 10 * time.Second

// standing is what a node last said of its place in the cluster.
type standing struct {
	removed bool      // it said that it was removed
	alone   time.Time // since when it knows no leader; zero: it knows one
	said    bool      // it said that it knows none
}

// lookAround says, once each time, that this node was removed, or that it hears of no leader: raft itself goes on in silence.
func (n *Node) lookAround(s *standing, now time.Time) {
	id := n.serverID()
	conf := n.configuration().Servers
	removed := len(conf) > 0 && !slices.ContainsFunc(conf, func(m raft.Server) bool { return m.ID == id })
	if removed && !s.removed {
		n.log.Warn("this node was removed from its cluster and takes part in nothing: stop it, or add it again (dfs node add)", "cluster", n.ClusterID(), "address", n.opts.Advertise)
	}
	s.removed = removed
	switch {
	case removed || n.Leadership().Leader != "":
		s.alone, s.said = time.Time{}, false
	case s.alone.IsZero():
		s.alone = now
	case !s.said && now.Sub(s.alone) >= leaderlessWarn:
		s.said = true
		n.log.Warn("this node hears of no leader: does a majority of the others run and reach it, and is it still a member? (dfs node ls)", "members", n.peerAddresses(), "for", now.Sub(s.alone))
	}
}
