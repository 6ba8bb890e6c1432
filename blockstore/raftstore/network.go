package raftstore

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/internal/mux"
)

// stream carries raft over the mux. An address names the incarnation of the node, too, and the
// mux refuses a connection that is meant for another: a node whose disk was emptied
// never answers for the member that it was.
type stream struct {
	net.Listener
	dial    mux.Dialer
	cluster mux.ClusterID
	address raft.ServerAddress
}

var _ raft.StreamLayer = (*stream)(nil)

// Dial connects to a member.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	addr, inc, ok := splitServer(string(address))
	if !ok {
		return nil, errors.New(errors.KindInvalid, "raft address %q names no incarnation", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return mux.DialRaft(ctx, s.dial, addr, s.cluster, uint64(inc))
}

// Addr is the address by which members know this node.
func (s *stream) Addr() net.Addr { return raftAddr(s.address) }

type raftAddr string

func (raftAddr) Network() string  { return "dfs" }
func (a raftAddr) String() string { return string(a) }

// transport is raft's network transport with one addition: while a follower installs a snapshot, and so
// pulls chunks, this node keeps the log behind the snapshot.
type transport struct {
	*raft.NetworkTransport
	hold func()
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// InstallSnapshot sends the manifest and returns when the follower has pulled what it lacks.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t.hold()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(deleteHold / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.hold()
			case <-stop:
				return
			}
		}
	}()
	err := t.NetworkTransport.InstallSnapshot(id, target, args, resp, data)
	t.hold()
	return err
}

func newTransport(n *Node, s *stream) *transport {
	nt := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger:                  newRaftLogger(n.log, "raft-net"),
		Stream:                  s,
		MaxPool:                 3,
		MaxRPCsInFlight:         1, // 2 can wedge a follower for good
		Timeout:                 n.limits.RPCTimeout,
		MsgpackUseNewTimeFormat: true,
	})
	nt.TimeoutScale = 1 // a manifest is small, but the answer comes when the copy is done
	return &transport{NetworkTransport: nt, hold: n.holdDeletes}
}
