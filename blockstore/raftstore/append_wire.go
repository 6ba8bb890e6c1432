package raftstore

import (
	"bufio"
	stderrors "errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
)

const (
	// appendRate is what a frame's time limit allows for beyond the timeout, in bytes a second.
	appendRate = 1 << 20
	// appendConnsMax bounds the connections that are served.
	appendConnsMax = 64
	// olderFor is how long a node that refused our greeting as too new is not asked again.
	olderFor = time.Minute
	// appendReadBytes is small: it gathers heads and bodies, and large data goes past it.
	appendReadBytes = 16 << 10
)

// appendWire carries AppendEntries requests that have entries. Raft's own transport encodes each entry through
// two buffers and decodes it likewise; here the data goes from the log's cache to the socket, and from the socket into
// the entry. Each request is answered before the next goes over the same connection. Connections are
// greeted like raft's (cluster, incarnation), but apart from them.
type appendWire struct {
	stream  *stream
	timeout time.Duration
	log     *slog.Logger
	rpcs    chan raft.RPC // what raft consumes: of both ways
	intake  intake
	closed  chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	slots   chan struct{} // of served connections
	// covered is the index up to which a snapshot answers for what this node has. nil: none does.
	covered func() uint64
	// has tells whether this node has all up to an index, durably. nil: it never does.
	has func(index uint64) bool
	// elections has its say where candidates ask. nil: raft alone answers them.
	elections *elections

	mu    sync.Mutex
	idle  map[raft.ServerAddress]*appendConn // one a target
	older map[raft.ServerAddress]time.Time   // nodes that know no wire, until when not to ask again
}

func newAppendWire(s *stream, timeout time.Duration, log *slog.Logger) *appendWire {
	return &appendWire{stream: s, timeout: timeout, log: log, rpcs: make(chan raft.RPC), intake: intake{over: make(chan struct{})}, closed: make(chan struct{}),
		slots: make(chan struct{}, appendConnsMax), idle: map[raft.ServerAddress]*appendConn{}, older: map[raft.ServerAddress]time.Time{}}
}

// start serves connections, and gives raft what comes from other, too.
func (w *appendWire) start(other <-chan raft.RPC) {
	w.wg.Add(2)
	go func() {
		defer w.wg.Done()
		w.forward(other)
	}()
	go func() {
		defer w.wg.Done()
		w.accept()
	}()
}

// close ends every connection and waits for the goroutines.
func (w *appendWire) close() {
	w.deafen()
	w.once.Do(func() {
		close(w.closed)
		_ = w.stream.Close()
	})
	w.wg.Wait()
}

func (w *appendWire) forward(other <-chan raft.RPC) {
	for {
		select {
		case rpc := <-other:
			switch req := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				w.vouch(req)
			case *raft.InstallSnapshotRequest:
				if w.has != nil && w.has(req.LastLogIndex) {
					w.wg.Go(func() { takeNothing(rpc, req) })
					continue
				}
			case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest:
				rpc = w.asked(rpc)
			}
			w.give(rpc)
		case <-w.closed:
			return
		}
	}
}

// intake ends before raft does: see appendWire.deafen.
type intake struct {
	mu   sync.RWMutex // held shared while a request waits for raft to take it
	over chan struct{}
	once sync.Once
}

// give waits until raft takes a request; false if it takes none any more, and the request was answered so.
func (w *appendWire) give(rpc raft.RPC) bool {
	w.intake.mu.RLock()
	defer w.intake.mu.RUnlock()
	select {
	case <-w.intake.over:
	default:
		select {
		case w.rpcs <- rpc:
			return true
		case <-w.intake.over:
		}
	}
	rpc.Respond(nil, raft.ErrTransportShutdown)
	return false
}

// deafen has raft take no more requests from here on. The end of a node ends a copy in its midst, too, and raft then goes on where it was
// before, for as long as it takes to shut it down; but the log that the copy was to replace is gone (LogStore.Agree), and raft would
// panic over the first entries that it is told to be committed.
func (w *appendWire) deafen() {
	w.intake.once.Do(func() { close(w.intake.over) })
	w.intake.mu.Lock() // those that waited are out
	defer w.intake.mu.Unlock()
}

// limit is the time that a transfer of so many bytes may take.
func (w *appendWire) limit(bytes int) time.Time {
	return time.Now().Add(w.timeout + time.Duration(bytes)*time.Second/appendRate)
}

// appendConn is a connection to a follower, used by one request at a time.
type appendConn struct {
	conn   net.Conn
	raw    net.Conn // under it: writes of several buffers at a time
	r      *bufio.Reader
	frame  []byte
	behind [][]byte
}

// send carries a request to target and waits for the answer. done is false if it must go the other way: the
// target's binary is older, or no frame can hold the request. As with raft's own transport the error is the other side's, after which
// the connection goes on, or says what happened to the connection, which is closed then. A connection that was kept may be one that its other
// side has left meanwhile, so then another is tried.
func (w *appendWire) send(target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (done bool, err error) {
	for range 2 {
		var left bool
		if done, left, err = w.attempt(target, args, resp); !left {
			break
		}
	}
	return done, err
}

// attempt is send over one connection. left: it failed as one does that was kept, and that the other side has left.
func (w *appendWire) attempt(target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (done, left bool, err error) {
	c, kept, err := w.take(target)
	if c == nil {
		return err != nil, false, err
	}
	var size int
	var ok bool
	c.frame, c.behind, size, ok = encodeAppend(c.frame, args, c.behind[:0])
	if !ok {
		clear(c.behind)
		w.giveBack(target, c)
		return false, false, nil
	}
	begun := time.Now()
	problem, err := c.exchange(size, w.limit(size), resp)
	if err != nil {
		c.conn.Close()
		return true, kept && time.Since(begun) <= leftWithin, errors.New(errors.KindUnavailable, "cannot send %d log entries to %s: %w", len(args.Entries), target, err)
	}
	w.giveBack(target, c)
	if problem != "" {
		return true, false, stderrors.New(problem)
	}
	return true, false, nil
}

// exchange writes the frame and the data behind it and reads the answer.
func (c *appendConn) exchange(size int, deadline time.Time, resp *raft.AppendEntriesResponse) (problem string, err error) {
	if err := c.conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	c.behind = append(c.behind, nil)
	copy(c.behind[1:], c.behind)
	c.behind[0] = c.frame
	out := net.Buffers(c.behind) // consumed: its elements become nil
	n, err := out.WriteTo(c.raw)
	if err == nil && n != int64(size) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return "", err
	}
	return readAppended(c.r, resp)
}

// take gives a connection to target, and tells whether it was kept from an earlier request: nil and no error if that node knows no wire.
func (w *appendWire) take(target raft.ServerAddress) (c *appendConn, kept bool, err error) {
	w.mu.Lock()
	until := w.older[target]
	c = w.idle[target]
	delete(w.idle, target)
	w.mu.Unlock()
	if c != nil {
		return c, true, nil
	}
	if time.Now().Before(until) {
		return nil, false, nil
	}
	conn, err := w.stream.Dial(target, w.timeout)
	if errors.Is(err, errors.KindTooNew) {
		w.log.Info("a member runs an older binary; its entries go the older way", "target", target)
		w.mu.Lock()
		w.older[target] = time.Now().Add(olderFor)
		w.mu.Unlock()
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	w.mu.Lock()
	delete(w.older, target)
	w.mu.Unlock()
	return &appendConn{conn: conn, raw: rawConn(conn), r: bufio.NewReaderSize(conn, 1024)}, false, nil
}

// rawConn takes the stream's wrapping off: only the system's own connections write several buffers in one call.
func rawConn(conn net.Conn) net.Conn {
	if s, ok := conn.(*streamConn); ok {
		return s.Conn
	}
	return conn
}

// giveBack keeps c for the next request. A second one to the same target, of a request that outlived its leader's reign, is closed.
func (w *appendWire) giveBack(target raft.ServerAddress, c *appendConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.idle[target] != nil {
		c.conn.Close()
		return
	}
	w.idle[target] = c // close ends it, too: the stream knows it
}

// accept serves what members open, until the stream is closed.
func (w *appendWire) accept() {
	for {
		conn, err := w.stream.Accept()
		if err != nil {
			return // the mux's branch ends with the stream alone
		}
		select {
		case w.slots <- struct{}{}:
		default:
			w.log.Error("too many connections bring log entries; the newest is closed", "from", conn.RemoteAddr().String(), "limit", appendConnsMax)
			conn.Close()
			continue
		}
		w.wg.Add(1)
		go func() {
			defer w.wg.Done()
			defer func() { <-w.slots }()
			defer conn.Close()
			if err := w.serve(conn); err != nil {
				w.log.Warn("a connection that brings log entries ends", "from", conn.RemoteAddr().String(), "err", err)
			}
		}()
	}
}

// serve takes requests from conn, one after another, until it ends: with an error if that is not between two requests, or not
// this node's doing.
func (w *appendWire) serve(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, appendReadBytes)
	var answer []byte
	for {
		if err := conn.SetDeadline(time.Time{}); err != nil {
			return w.unlessClosed(err)
		}
		if _, err := r.Peek(1); err != nil { // between two requests there may be any time
			return nil
		}
		if err := conn.SetReadDeadline(w.limit(appendBodyMax)); err != nil {
			return w.unlessClosed(err)
		}
		req, err := readAppend(r, func(bytes int) { _ = conn.SetReadDeadline(w.limit(bytes)) })
		if err != nil {
			return w.unlessClosed(err)
		}
		resp, problem, err := w.deliver(req)
		if err != nil {
			return w.unlessClosed(err)
		}
		answer = encodeAppended(answer, resp, problem)
		if err := conn.SetWriteDeadline(w.limit(len(answer))); err != nil {
			return w.unlessClosed(err)
		}
		if _, err := conn.Write(answer); err != nil {
			return w.unlessClosed(err)
		}
	}
}

// takeNothing answers a leader that sends a snapshot of what this node has; it does not know that. Raft would take it, and go back to it.
func takeNothing(rpc raft.RPC, req *raft.InstallSnapshotRequest) {
	_, err := io.Copy(io.Discard, rpc.Reader)
	rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: err == nil}, err)
}

// asked prepares a candidate's question for raft, and has the answer looked at on its way back.
func (w *appendWire) asked(rpc raft.RPC) raft.RPC {
	if w.elections == nil {
		return rpc
	}
	rpc.Command = w.elections.ballot(rpc.Command)
	asker, got := rpc.RespChan, make(chan raft.RPCResponse, 1)
	rpc.RespChan = got
	w.wg.Go(func() {
		select {
		case r := <-got:
			asker <- r // has room for the one answer
			w.elections.refused(r.Response, w.closed)
		case <-w.closed:
		}
	})
	return rpc
}

// vouch takes what this node's newest snapshot covers out of a request: its entries, and the entry before them, by which raft finds out whether its log is
// the leader's so far. Whatever is covered was committed, so every leader that raft still listens to has the same. Raft compares with
// its own log alone, which may have none of it any more, and with what it remembers of its last entry. And raft takes all of its log for committed that the leader
// has committed that much of, so what the request does not show to be the leader's is not told to be committed: entries of another leader could stand there.
func (w *appendWire) vouch(req *raft.AppendEntriesRequest) {
	if w.covered == nil {
		return
	}
	covered := w.covered()
	shown := max(req.PrevLogEntry, covered)
	if n := len(req.Entries); n > 0 {
		shown = max(shown, req.Entries[n-1].Index)
	}
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, shown)
	if req.PrevLogEntry <= covered {
		req.PrevLogEntry, req.PrevLogTerm = 0, 0
	}
	for len(req.Entries) > 0 && req.Entries[0].Index <= covered {
		req.Entries = req.Entries[1:]
	}
}

// deliver gives a request to raft and waits for its answer.
func (w *appendWire) deliver(req *raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, string, error) {
	w.vouch(req)
	got := make(chan raft.RPCResponse, 1)
	if !w.give(raft.RPC{Command: req, RespChan: got}) {
		return nil, "", raft.ErrTransportShutdown
	}
	select {
	case r := <-got:
		problem := ""
		if r.Error != nil {
			problem = r.Error.Error()
		}
		resp, _ := r.Response.(*raft.AppendEntriesResponse)
		return resp, problem, nil
	case <-w.closed:
		return nil, "", raft.ErrTransportShutdown
	}
}

// unlessClosed drops the error of a connection that ends because the wire does.
func (w *appendWire) unlessClosed(err error) error {
	select {
	case <-w.closed:
		return nil
	default:
		return err
	}
}
