// Package mux lets one TCP port carry both the Raft traffic between nodes and
// gRPC. The first bytes of a connection decide where it goes.
//
// # Contract
//
// A gRPC client begins with the HTTP/2 preface; its connection is handed, with
// nothing missing, to the listener GRPC. A Raft peer begins with a hello and
// waits for the answer:
//
//	hello   0      4         5             21            29        33
//	        +------+---------+-------------+-------------+---------+
//	        | DFSR | version | cluster id  | incarnation | CRC32C  |
//	        +------+---------+-------------+-------------+---------+
//	answer  0      4         5             6         10
//	        +------+---------+-------------+---------+
//	        | DFSA | version | reason      | CRC32C  |
//	        +------+---------+-------------+---------+
//
// Only a hello that is answered with reason 0 goes to a listener: one of version 1 to Raft, one of
// version 2, which a node of an older binary refuses as too new, to Append. So a
// node of another cluster never speaks Raft with this one, and nobody takes a node
// whose disk was emptied for the member it was: the incarnation (a random number
// that a data directory gets when it is made) is the one asked for, or the
// connection is refused.
//
// A node that has no cluster yet may ask another who it is:
//
//	probe   0      4         5
//	        +------+---------+
//	        | DFSP | version |
//	        +------+---------+
//	card    0      4         5        7
//	        +------+---------+--------+---------+---------+
//	        | DFSQ | version | length | payload | CRC32C  |   payload: CardBytesMax at most
//	        +------+---------+--------+---------+---------+
//
// Everything else is closed and counted: no first bytes can crash or stall the acceptor.
//
// Bounds: a connection must be decided and taken over within
// DecideTimeout, at most UndecidedMax may be undecided at a time, and one above
// that is closed. Keys and certificates are the business of the net.Listener
// that New is given and of the Dialer.
package mux

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DecideTimeout bounds the time from accepting a connection to handing it over.
	DecideTimeout = 5 * time.Second
	// UndecidedMax bounds the connections that are not handed over yet.
	UndecidedMax = 128
)

// http2Preface is how the connection of every gRPC client begins.
var http2Preface = []byte("PRI * HTTP/2.0")

// ClusterID names a cluster on the wire.
type ClusterID [16]byte

// Stats counts what became of the accepted connections.
type Stats struct {
	Raft     uint64 // handed to Raft
	Append   uint64 // handed to what takes Raft's entries
	GRPC     uint64 // handed to gRPC
	Refused  uint64 // Raft hellos answered with a refusal
	Probes   uint64 // answered with the card
	Garbage  uint64 // none of these, or nothing said in time
	Overflow uint64 // closed because UndecidedMax were undecided, or nobody took them
}

// Mux shares one listener. Build it with New, then run Serve on a goroutine.
type Mux struct {
	listener net.Listener
	log      *slog.Logger
	raft     *branch
	append   *branch
	grpc     *branch
	slots    chan struct{}
	closed   chan struct{}
	closing  sync.Once
	wg       sync.WaitGroup

	mu          sync.Mutex
	cluster     ClusterID
	incarnation uint64
	known       bool                  // cluster and incarnation are set
	card        func() []byte         // answers probes, nil: none is answered
	undecided   map[net.Conn]struct{} // closed by Close

	raftCount, appendCount, grpcCount, refused, probes, garbage, overflow atomic.Uint64
}

// New wraps l. Until SetCluster is called every Raft hello is refused as 'not ready'.
func New(l net.Listener, log *slog.Logger) *Mux {
	m := &Mux{
		listener:  l,
		log:       log,
		slots:     make(chan struct{}, UndecidedMax),
		closed:    make(chan struct{}),
		undecided: make(map[net.Conn]struct{}),
	}
	m.raft = &branch{mux: m, conns: make(chan net.Conn), done: make(chan struct{})}
	m.append = &branch{mux: m, conns: make(chan net.Conn), done: make(chan struct{})}
	m.grpc = &branch{mux: m, conns: make(chan net.Conn), done: make(chan struct{})}
	return m
}

// SetCluster tells which Raft hellos are accepted from now on.
func (m *Mux) SetCluster(id ClusterID, incarnation uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cluster, m.incarnation, m.known = id, incarnation, true
}

// SetCard gives what probes are answered with, at most CardBytesMax bytes.
func (m *Mux) SetCard(card func() []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.card = card
}

// Raft is the listener of accepted Raft connections. Closing it does not close the port.
func (m *Mux) Raft() net.Listener { return m.raft }

// Append is the listener of accepted connections that carry Raft's entries. Closing it does not close the port.
func (m *Mux) Append() net.Listener { return m.append }

// GRPC is the listener of gRPC connections. Closing it does not close the port.
func (m *Mux) GRPC() net.Listener { return m.grpc }

// Addr is the address of the port.
func (m *Mux) Addr() net.Addr { return m.listener.Addr() }

// Stats returns the counters.
func (m *Mux) Stats() Stats {
	return Stats{
		Raft: m.raftCount.Load(), Append: m.appendCount.Load(), GRPC: m.grpcCount.Load(), Refused: m.refused.Load(), Probes: m.probes.Load(),
		Garbage: m.garbage.Load(), Overflow: m.overflow.Load(),
	}
}

// Serve accepts connections until Close; it returns nil then, or the listener's error.
func (m *Mux) Serve() error {
	pause := 5 * time.Millisecond
	for {
		conn, err := m.listener.Accept()
		if err != nil {
			if m.isClosed() {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Out of descriptors, or a peer that was gone before we looked: go on, more slowly.
			m.log.Warn("cannot accept a connection; trying again", "err", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-m.closed:
				return nil
			}
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		m.admit(conn)
	}
}

// Close closes the port, its listeners and every undecided connection, and waits for
// the goroutines of Mux. Connections handed over are not touched.
func (m *Mux) Close() error {
	var err error
	m.closing.Do(func() {
		close(m.closed)
		err = m.listener.Close()
		_ = m.raft.Close()
		_ = m.append.Close()
		_ = m.grpc.Close()
		m.mu.Lock()
		for c := range m.undecided {
			c.Close()
		}
		m.mu.Unlock()
	})
	m.wg.Wait()
	return err
}

func (m *Mux) isClosed() bool {
	select {
	case <-m.closed:
		return true
	default:
		return false
	}
}

// admit starts deciding about conn, or closes it if there are too many undecided.
func (m *Mux) admit(conn net.Conn) {
	select {
	case m.slots <- struct{}{}:
	default:
		m.overflow.Add(1)
		conn.Close()
		return
	}
	m.mu.Lock()
	if m.isClosed() {
		m.mu.Unlock()
		conn.Close()
		<-m.slots
		return
	}
	m.undecided[conn] = struct{}{}
	m.wg.Add(1)
	m.mu.Unlock()
	go m.decide(conn)
}

// decide reads the first bytes of conn and hands it over, or closes it.
func (m *Mux) decide(conn net.Conn) {
	defer m.wg.Done()
	timer := time.NewTimer(DecideTimeout)
	defer timer.Stop()
	conn.SetDeadline(time.Now().Add(DecideTimeout))
	to, out := m.classify(conn)
	m.mu.Lock()
	delete(m.undecided, conn)
	m.mu.Unlock()
	delivered := false
	if to != nil {
		conn.SetDeadline(time.Time{})
		select {
		case to.conns <- out:
			delivered = true
		case <-to.done:
		case <-timer.C:
			m.overflow.Add(1)
		}
	}
	if !delivered {
		conn.Close()
	}
	<-m.slots
}

// classify returns the branch that conn belongs to and the connection to hand over, or nil.
func (m *Mux) classify(conn net.Conn) (*branch, net.Conn) {
	first := make([]byte, helloSize)
	if _, err := io.ReadFull(conn, first[:4]); err != nil {
		m.garbage.Add(1)
		return nil, nil
	}
	switch {
	case bytes.Equal(first[:4], helloMagic[:]):
		return m.answerHello(conn, first), conn
	case bytes.Equal(first[:4], probeMagic[:]):
		m.answerProbe(conn)
		return nil, nil
	case bytes.Equal(first[:4], http2Preface[:4]):
		n := len(http2Preface)
		if _, err := io.ReadFull(conn, first[4:n]); err != nil || !bytes.Equal(first[:n], http2Preface) {
			m.garbage.Add(1)
			return nil, nil
		}
		m.grpcCount.Add(1)
		return m.grpc, &prefixed{Conn: conn, prefix: first[:n]}
	}
	m.garbage.Add(1)
	return nil, nil
}

// branch is one of the listeners.
type branch struct {
	mux   *Mux
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*branch)(nil)

func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.done:
		return nil, net.ErrClosed
	}
}

func (b *branch) Close() error {
	b.once.Do(func() { close(b.done) })
	return nil
}

func (b *branch) Addr() net.Addr { return b.mux.Addr() }

// prefixed gives the bytes back that were read to decide.
type prefixed struct {
	net.Conn
	prefix []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.prefix) > 0 {
		n := copy(b, p.prefix)
		p.prefix = p.prefix[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}
