package raftstore

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/internal/mux"
)

// stream carries raft, or the frames of its entries, over the mux. An address names the incarnation of the node, too, and the
// mux refuses a connection that is meant for another: a node whose disk was emptied
// never answers for the member that it was.
type stream struct {
	net.Listener
	greet   greeter
	dial    mux.Dialer
	cluster mux.ClusterID
	address raft.ServerAddress
	dials   atomic.Int64

	mu     sync.Mutex
	conns  map[*streamConn]struct{} // open; raft leaves them open when it ends
	closed bool
}

// greeter is mux.DialRaft or mux.DialAppend.
type greeter func(ctx context.Context, dial mux.Dialer, addr string, id mux.ClusterID, incarnation uint64) (net.Conn, error)

var _ raft.StreamLayer = (*stream)(nil)

// streamConn is a connection that ends with its stream.
type streamConn struct {
	net.Conn
	s *stream
}

// Close closes the connection.
func (c *streamConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// track makes conn end with the stream.
func (s *stream) track(conn net.Conn) (net.Conn, error) {
	c := &streamConn{conn, s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	if s.conns == nil {
		s.conns = make(map[*streamConn]struct{})
	}
	s.conns[c] = struct{}{}
	return c, nil
}

// Accept returns the next connection of a member.
func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(conn)
}

// Close ends the listener and every connection.
func (s *stream) Close() error {
	s.mu.Lock()
	s.closed = true
	open := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range open {
		c.Conn.Close()
	}
	return s.Listener.Close()
}

// Dial connects to a member.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	s.dials.Add(1)
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	addr, inc, ok := splitServer(string(address))
	if !ok {
		return nil, errors.New(errors.KindInvalid, "raft address %q names no incarnation", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := s.greet(ctx, s.dial, addr, s.cluster, uint64(inc))
	if err != nil {
		return nil, err
	}
	return s.track(conn)
}

// Addr is the address by which members know this node.
func (s *stream) Addr() net.Addr { return raftAddr(s.address) }

type raftAddr string

func (raftAddr) Network() string  { return "dfs" }
func (a raftAddr) String() string { return string(a) }

// connsKept is how many idle connections raft's transport keeps to a node.
const connsKept = 3

// leftWithin bounds the time in which a request fails that goes over a connection which its other side has left.
const leftWithin = 100 * time.Millisecond

// again makes a request over and over while it may have gone over a connection that its other side had left: raft's transport keeps those to a node that
// was restarted, and raft waits from half a second to an election timeout before it asks again. dials tells how often the transport has opened one: a new connection
// was not left. Only requests that may come twice are made so: for entries, votes, and promises of votes.
func again(dials func() int64, request func() error) error {
	var err error
	for range connsKept + 1 {
		begun, before := time.Now(), dials()
		if err = request(); err == nil || dials() != before || time.Since(begun) > leftWithin {
			return err
		}
	}
	return err
}

// transport is raft's network transport with seven changes: entries go their own way (appendWire), new ones early (earlyAppends), votes are asked for
// without an id, what fails on a connection that was left is asked again, only heartbeats that change nothing pass raft's main goroutine by, how far followers have come is noted, and while one installs a snapshot, and so pulls chunks, this node keeps the log behind the snapshot.
type transport struct {
	*raft.NetworkTransport
	wire      *appendWire
	early     earlyAppends
	dials     func() int64      // how often NetworkTransport has dialled
	raft      func() *raft.Raft // nil before it runs
	followers *followers
	hold      func()
}

var (
	_ raft.Transport   = (*transport)(nil)
	_ raft.WithPreVote = (*transport)(nil)
	_ raft.WithClose   = (*transport)(nil)
)

// SetHeartbeatHandler has heartbeats handled beside raft's main goroutine, which may be busy with a long write, so that a follower knows of its leader
// meanwhile: those of the leader's own term, on a follower. Any other one makes a follower of this node, or changes its term, as the main goroutine
// may do at the same time: a term that was just left for a vote would be set back, and the node would follow the leader of a term in
// which it has promised to follow none (watchedStable.raiseTerm ends it then).
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	if handle == nil {
		t.NetworkTransport.SetHeartbeatHandler(nil)
		return
	}
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		r := t.raft()
		if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && r != nil && r.State() == raft.Follower && r.CurrentTerm() == req.Term {
			handle(rpc)
			return
		}
		t.wire.give(rpc)
	})
}

// Consumer gives the requests of both ways.
func (t *transport) Consumer() <-chan raft.RPC { return t.wire.rpcs }

// AppendEntries sends entries over the wire; without entries, and to a node that knows no wire, raft's own way.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.append(id, target, args, resp)
	if err == nil {
		t.followers.answered(id, args, resp, time.Now())
	}
	return err
}

func (t *transport) append(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(args.Entries) > 0 {
		if t.early.answer(target, args, resp) {
			t.early.acknowledged(target, args)
			return nil
		}
		if done, err := t.wire.send(target, args, resp); done {
			if err == nil && resp.Success {
				t.early.acknowledged(target, args)
			} else {
				t.early.forget(target)
			}
			return err
		}
	}
	return again(t.dials, func() error { return t.NetworkTransport.AppendEntries(id, target, args, resp) })
}

// RequestVote asks for a vote without naming the candidate's id. Raft's library would refuse it to a
// candidate that the voter has not heard of as a member: after a node was replaced while another was away, these two could not
// elect a leader between them, though they are a majority. Raft needs no such check (a log that lacks what was committed gets no
// majority), and a removed node disturbs nobody: who hears from a leader refuses it in any case.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	nameless := *args
	nameless.ID = nil
	return again(t.dials, func() error { return t.NetworkTransport.RequestVote(id, target, &nameless, resp) })
}

// RequestPreVote asks in the same way. It must name a voter that is known where it is asked: there the id serves for nothing else.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	asked := *args
	asked.ID = []byte(id)
	return again(t.dials, func() error { return t.NetworkTransport.RequestPreVote(id, target, &asked, resp) })
}

// Close ends both ways and every connection.
func (t *transport) Close() error {
	err := t.NetworkTransport.Close()
	t.wire.close()
	t.early.wg.Wait()
	return err
}

// InstallSnapshot sends the manifest and returns when the follower has pulled what it lacks. Raft tries this again and again with a follower
// that is dead, too: the log is kept for one that answers.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	hold := func() {
		if t.followers.alive(id, args.Term, time.Now()) {
			t.hold()
		}
	}
	hold()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				hold()
			case <-stop:
				return
			}
		}
	}()
	err := t.NetworkTransport.InstallSnapshot(id, target, args, resp, data)
	if err == nil && resp.Success {
		t.followers.installed(id, args.Term, args.LastLogIndex, time.Now())
	}
	hold()
	return err
}

func newTransport(n *Node, cluster mux.ClusterID, address raft.ServerAddress) *transport {
	streamOf := func(l net.Listener, greet greeter) *stream {
		return &stream{Listener: l, greet: greet, dial: n.opts.Dial, cluster: cluster, address: address}
	}
	own := streamOf(n.opts.Mux.Raft(), mux.DialRaft)
	nt := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger:                  newRaftLogger(n.log, "raft-net"),
		Stream:                  own,
		MaxPool:                 connsKept,
		MaxRPCsInFlight:         1, // 2 can wedge a follower for good
		Timeout:                 n.limits.RPCTimeout,
		MsgpackUseNewTimeFormat: true,
	})
	nt.TimeoutScale = 1 // a manifest is small, but the answer comes when the copy is done
	wire := newAppendWire(streamOf(n.opts.Mux.Append(), mux.DialAppend), n.limits.RPCTimeout, n.log.With("part", "raft-entries"))
	wire.covered, wire.has, wire.elections = n.stores.snapshotIndex, n.has, &n.elections
	wire.start(nt.Consumer())
	return &transport{NetworkTransport: nt, wire: wire, early: earlyAppends{send: wire.send}, dials: own.dials.Load, raft: n.raft.Load, followers: &n.followers, hold: n.holdDeletes}
}
