package raftstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/internal/mux"
)

var wireCluster = mux.ClusterID{1, 2, 3}

// wireEnd is one node's end of the wire, over real TCP. Its raft is the test.
type wireEnd struct {
	*appendWire
	mux     *mux.Mux
	address raft.ServerAddress
	dials   atomic.Int64
	raftWay chan raft.RPC // stands for what raft's own transport brings
}

func newWireEnd(t *testing.T, at string, inc incarnation, timeout time.Duration) *wireEnd {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	e := &wireEnd{mux: mux.New(l, log), raftWay: make(chan raft.RPC)}
	e.mux.SetCluster(wireCluster, uint64(inc))
	go e.mux.Serve()
	e.address = serverAddress(l.Addr().String(), inc)
	e.appendWire = newAppendWire(&stream{Listener: e.mux.Append(), greet: e.greet, cluster: wireCluster, address: e.address}, timeout, log)
	e.start(e.raftWay)
	t.Cleanup(e.end)
	return e
}

func (e *wireEnd) greet(ctx context.Context, d mux.Dialer, addr string, id mux.ClusterID, incarnation uint64) (net.Conn, error) {
	e.dials.Add(1)
	return mux.DialAppend(ctx, d, addr, id, incarnation)
}

func (e *wireEnd) end() {
	e.close()
	e.mux.Close()
}

// answer answers what arrives with f, until the end is closed.
func (e *wireEnd) answer(f func(a *raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, error)) {
	go func() {
		for {
			select {
			case rpc := <-e.rpcs:
				resp, err := f(rpc.Command.(*raft.AppendEntriesRequest))
				rpc.Respond(resp, err)
			case <-e.closed:
				return
			}
		}
	}()
}

func accepting(a *raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, error) {
	return &raft.AppendEntriesResponse{Term: a.Term, LastLog: a.Entries[len(a.Entries)-1].Index, Success: true}, nil
}

func oneEntry(index uint64) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{Index: index, Data: make([]byte, 3*appendInlineMax)}}}
}

func TestWireCarriesRequestsAndAnswers(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, 5*time.Second), newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	var mu sync.Mutex
	var got *raft.AppendEntriesRequest
	b.answer(func(r *raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		got = r
		return &raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ID: []byte("b"), Addr: []byte{}}, Term: r.Term + 1, LastLog: 9, Success: true}, nil
	})
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 10 {
		want := someRequest(rnd)
		var resp raft.AppendEntriesResponse
		if done, err := a.send(b.address, want, &resp); !done || err != nil {
			t.Fatal(done, err)
		}
		mu.Lock()
		same := reflect.DeepEqual(got, want)
		mu.Unlock()
		if !same || resp.Term != want.Term+1 || resp.LastLog != 9 || !resp.Success || string(resp.ID) != "b" {
			t.Fatalf("%+v arrived as %+v, answered %+v", want, got, resp)
		}
	}
	if n := b.mux.Stats().Append; n != 1 || a.dials.Load() != 1 {
		t.Fatalf("%d connections for requests one after another", n)
	}
}

// TestWireTellsTheOtherSidesErrors: they leave the connection as it is.
func TestWireTellsTheOtherSidesErrors(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, 5*time.Second), newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	b.answer(func(*raft.AppendEntriesRequest) (*raft.AppendEntriesResponse, error) { return nil, io.ErrNoProgress })
	for range 3 {
		var resp raft.AppendEntriesResponse
		if done, err := a.send(b.address, oneEntry(1), &resp); !done || err == nil || err.Error() != io.ErrNoProgress.Error() {
			t.Fatal(done, err)
		}
	}
	if n := a.dials.Load(); n != 1 {
		t.Fatalf("%d connections", n)
	}
}

// TestWireToARestartedNode: the connection that is kept is one that the node has left; the next request goes over another, and no error is told.
func TestWireToARestartedNode(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, 5*time.Second), newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	b.answer(accepting)
	var resp raft.AppendEntriesResponse
	if _, err := a.send(b.address, oneEntry(1), &resp); err != nil {
		t.Fatal(err)
	}
	at, _, _ := splitServer(string(b.address))
	b.end()
	again := newWireEnd(t, at, 2, 5*time.Second)
	again.answer(accepting)
	if done, err := a.send(b.address, oneEntry(2), &resp); !done || err != nil || resp.LastLog != 2 {
		t.Errorf("after the restart: %v %v %+v", done, err, resp)
	}
}

// TestWireAfterARestart: the old connection breaks, which is told, and the next request finds the new process.
func TestWireAfterARestart(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, 5*time.Second), newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	b.answer(accepting)
	var resp raft.AppendEntriesResponse
	if _, err := a.send(b.address, oneEntry(1), &resp); err != nil {
		t.Fatal(err)
	}
	at, _, _ := splitServer(string(b.address))
	b.end()
	if done, err := a.send(b.address, oneEntry(2), &resp); !done || !errors.Is(err, errors.KindUnavailable) {
		t.Fatalf("to a node that is gone: %v %v", done, err)
	}
	again := newWireEnd(t, at, 2, 5*time.Second)
	again.answer(accepting)
	if done, err := a.send(b.address, oneEntry(3), &resp); !done || err != nil || resp.LastLog != 3 {
		t.Fatalf("after the restart: %v %v %+v", done, err, resp)
	}
	again.end()
	_, _ = a.send(b.address, oneEntry(4), &resp)
	other := newWireEnd(t, at, 77, 5*time.Second) // the same address, another disk
	other.answer(accepting)
	if done, err := a.send(b.address, oneEntry(5), &resp); !done || !errors.Is(err, errors.KindForeign) {
		t.Fatalf("to another incarnation: %v %v", done, err)
	}
}

// TestWireGivesUpOnASilentNode: the answer is waited for within bounds, and the connection, on which it may
// still come, is not used again.
func TestWireGivesUpOnASilentNode(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, 100*time.Millisecond), newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	arrived := make(chan raft.RPC)
	go func() { arrived <- <-b.rpcs }()
	var resp raft.AppendEntriesResponse
	var late raft.RPC
	for late.Command == nil { // 100 ms may be short on a busy machine
		if done, err := a.send(b.address, oneEntry(1), &resp); !done || !errors.Is(err, errors.KindUnavailable) {
			t.Fatalf("%v %v", done, err)
		}
		select {
		case late = <-arrived:
		case <-time.After(10 * time.Millisecond):
		}
	}
	late.Respond(&raft.AppendEntriesResponse{LastLog: 1}, nil)
	b.answer(accepting)
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := a.send(b.address, oneEntry(2), &resp)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if resp.LastLog != 2 {
		t.Fatalf("the answer to an earlier request was taken: %+v", resp)
	}
}

// TestWireCloses: with requests in every state, and nothing is left running.
func TestWireCloses(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, time.Minute), newWireEnd(t, "127.0.0.1:0", 2, time.Minute)
	results := make(chan error, 3)
	send := func(index uint64) {
		_, err := a.send(b.address, oneEntry(index), new(raft.AppendEntriesResponse))
		results <- err
	}
	go send(1)
	taken := <-b.rpcs // raft has it and does not answer
	go send(2)        // on a connection of its own, as of a leader that was elected again
	for b.mux.Stats().Append < 2 {
		time.Sleep(time.Millisecond)
	}
	b.end()
	for range 2 {
		if err := <-results; !errors.Is(err, errors.KindUnavailable) {
			t.Fatalf("%v", err)
		}
	}
	taken.Respond(nil, nil) // too late, and for nobody
	c := newWireEnd(t, "127.0.0.1:0", 3, time.Minute)
	go func() {
		_, err := a.send(c.address, oneEntry(3), new(raft.AppendEntriesResponse))
		results <- err
	}()
	<-c.rpcs
	a.end() // the sender's end
	if err := <-results; err == nil {
		t.Fatal("a request outlived its wire")
	}
	if _, err := a.send(c.address, oneEntry(4), new(raft.AppendEntriesResponse)); err == nil {
		t.Fatal("a closed wire sends")
	}
}

// TestWireBringsRaftsOwnRequests: what raft's transport receives reaches raft, too.
func TestWireBringsRaftsOwnRequests(t *testing.T) {
	a := newWireEnd(t, "127.0.0.1:0", 1, time.Second)
	go func() { a.raftWay <- raft.RPC{Command: &raft.RequestVoteRequest{Term: 5}} }()
	if rpc := <-a.rpcs; rpc.Command.(*raft.RequestVoteRequest).Term != 5 {
		t.Fatalf("%+v", rpc)
	}
}

// TestWireEndsConnectionsThatBringGarbage: and says so, and others go on.
func TestWireEndsConnectionsThatBringGarbage(t *testing.T) {
	a, b := newWireEnd(t, "127.0.0.1:0", 1, 5*time.Second), newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	b.answer(accepting)
	at, inc, _ := splitServer(string(b.address))
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n1234567890", strings.Repeat("\xff", 1000)} {
		conn, err := mux.DialAppend(context.Background(), nil, at, wireCluster, uint64(inc))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(conn, garbage); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n > 0 || errIsTimeout(err) {
			t.Fatalf("garbage was answered, or the connection left open: %v", err)
		}
		conn.Close()
	}
	if _, err := a.send(b.address, oneEntry(1), new(raft.AppendEntriesResponse)); err != nil {
		t.Fatal(err)
	}
}

func errIsTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

// TestWireServesNoMoreThanItsBound: connections above it are closed.
func TestWireServesNoMoreThanItsBound(t *testing.T) {
	b := newWireEnd(t, "127.0.0.1:0", 2, 5*time.Second)
	at, inc, _ := splitServer(string(b.address))
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range appendConnsMax + 1 {
		c, err := mux.DialAppend(context.Background(), nil, at, wireCluster, uint64(inc))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	ended := make(chan struct{}, len(open))
	for _, c := range open {
		go func() {
			c.Read(make([]byte, 1))
			ended <- struct{}{}
		}()
	}
	<-ended
	if n := len(b.slots); n != appendConnsMax {
		t.Fatalf("%d served", n)
	}
}

// olderBinary stands for a connection to a node whose mux knows greetings up to version 1.
type olderBinary struct {
	net.Conn
	answer bytes.Reader
}

func (c *olderBinary) Write(b []byte) (int, error) {
	if len(b) > 4 && string(b[:4]) == "DFSR" && b[4] > 1 {
		tooNew := []byte("DFSA\x01\x02")
		c.answer.Reset(binary.LittleEndian.AppendUint32(tooNew, crc.Checksum(tooNew)))
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *olderBinary) Read(b []byte) (int, error) {
	if c.answer.Len() > 0 {
		return c.answer.Read(b)
	}
	return c.Conn.Read(b)
}

// TestEntriesReachOlderNodes: to a member that knows no wire they go raft's own way, and it is not asked each time; and a cluster
// of nodes that do know it uses it.
func TestEntriesReachOlderNodes(t *testing.T) {
	t.Parallel()
	for _, older := range []bool{false, true} {
		c := newCluster(t, "a", "b", "c")
		var asked atomic.Int64
		for id := range c.boot {
			c.startWith(string(id), func(o *Options) {
				dial := o.Dial
				o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
					conn, err := dial(ctx, addr)
					if err != nil || !older {
						return conn, err
					}
					asked.Add(1)
					return &olderBinary{Conn: conn}, nil
				}
			})
		}
		w := c.writer(1)
		for i := range uint64(20) {
			w.write(1, 3*i, 3, byte(i), 3)
		}
		c.caughtUp(c.leader().Applied())
		var wires, raftWay uint64
		for _, n := range c.running() {
			wires, raftWay = wires+n.mux.Stats().Append, raftWay+n.mux.Stats().Raft
		}
		if older && wires != 0 || !older && wires < 2 || raftWay == 0 {
			t.Fatalf("older %v: %d connections for entries, %d of raft's", older, wires, raftWay)
		}
		if n := asked.Load(); n > 40 {
			t.Fatalf("%d greetings", n)
		}
		c.closeAll()
	}
}
