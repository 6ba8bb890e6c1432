package sim

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// network is the machines' network: TCP as its users see it. What one end wrote arrives at the other whole and in order,
// after the link's delay, or not at all. So a message that is lost shows as bytes that come late (the link is held, TCP sends
// them again) or as a connection that breaks with a part of them delivered; one that is duplicated, as a request sent again
// after the answer to the first was lost with its connection. A link is directed: from one machine to another.
type network struct {
	mu    sync.Mutex
	rng   *rand.Rand
	hosts map[string]*host
	links map[[2]string]*link // by machines
	conns map[*conn]struct{}
	made  int // connections
}

// host is a machine's network.
type host struct {
	n      *network
	name   string
	off    bool // without power: answers nothing, says nothing
	down   bool // no process runs on it
	muted  bool // its disk failed: its process is about to end itself
	frozen bool // its processes do not run: its kernel takes connections and bytes
	listen map[string]*listener
}

// link is what goes from one machine to another.
type link struct {
	cut   bool
	delay time.Duration
}

const (
	bufferMax   = 32 << 20 // of one direction of a connection; more waits
	connectWait = 3 * time.Second
)

func newNetwork(rng *rand.Rand) *network {
	return &network{rng: rng, hosts: map[string]*host{}, links: map[[2]string]*link{}, conns: map[*conn]struct{}{}}
}

// host makes a machine, or returns it.
func (n *network) host(name string) *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[name]
	if h == nil {
		h = &host{n: n, name: name, listen: map[string]*listener{}}
		n.hosts[name] = h
	}
	return h
}

func (n *network) linkLocked(from, to string) *link {
	l := n.links[[2]string{from, to}]
	if l == nil {
		l = &link{delay: time.Duration(80+n.rng.IntN(300)) * time.Microsecond}
		n.links[[2]string{from, to}] = l
	}
	return l
}

// machine is the part of an address before the port.
func machine(addr string) string {
	name, _, _ := net.SplitHostPort(addr)
	return name
}

type listener struct {
	h    *host
	addr string
	in   chan *conn
	done chan struct{}
	once sync.Once
}

func (h *host) Listen(addr string) (net.Listener, error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.listen[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{h: h, addr: addr, in: make(chan *conn, 64), done: make(chan struct{})}
	h.listen[addr] = l
	return l, nil
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.h.n.mu.Lock()
		if l.h.listen[l.addr] == l {
			delete(l.h.listen, l.addr)
		}
		l.h.n.mu.Unlock()
		close(l.done)
	})
	return nil
}

func (l *listener) Addr() net.Addr { return simAddr(l.addr) }

type simAddr string

func (simAddr) Network() string  { return "sim" }
func (a simAddr) String() string { return string(a) }

// Dial connects to addr: both directions are needed. Over a link that is cut it waits, as a SYN does.
func (h *host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	for {
		c, wait, err := h.connect(addr)
		if err != nil {
			return nil, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			if c != nil {
				c.Close()
			}
			return nil, &net.OpError{Op: "dial", Net: "sim", Addr: simAddr(addr), Err: ctx.Err()}
		}
		if c != nil {
			return c, nil
		}
	}
}

// connect makes a connection, which may be used after wait; without one, wait is until the next try.
func (h *host) connect(addr string) (*conn, time.Duration, error) {
	n, name := h.n, machine(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	there, back := n.linkLocked(h.name, name), n.linkLocked(name, h.name)
	to := n.hosts[name]
	if h.down {
		return nil, 0, &net.OpError{Op: "dial", Net: "sim", Addr: simAddr(addr), Err: syscall.ENETDOWN}
	}
	if to == nil || to.off || h.frozen || there.cut || back.cut {
		return nil, 100 * time.Millisecond, nil
	}
	l := to.listen[addr]
	if l == nil {
		return nil, 0, &net.OpError{Op: "dial", Net: "sim", Addr: simAddr(addr), Err: syscall.ECONNREFUSED}
	}
	out, in := newStream(n, h, to), newStream(n, to, h)
	near := &conn{n: n, local: h, remote: to, addr: addr, out: out, in: in}
	far := &conn{n: n, local: to, remote: h, addr: h.name + ":0", out: in, in: out}
	near.peer, far.peer = far, near
	n.made += 2
	near.id, far.id = n.made, n.made+1
	select {
	case l.in <- far:
	default:
		return nil, 0, syscall.ECONNREFUSED
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, there.delay + back.delay, nil
}

// stream is one direction of a connection. The network's mutex guards it.
type stream struct {
	n        *network
	from, to *host
	queue    []segment
	bytes    int
	last     time.Time     // when the newest segment arrives
	end      error         // behind the queue
	changed  chan struct{} // closed and replaced
}

type segment struct {
	data []byte
	at   time.Time
}

func newStream(n *network, from, to *host) *stream {
	return &stream{n: n, from: from, to: to, changed: make(chan struct{})}
}

func (s *stream) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// held tells whether nothing passes now.
func (s *stream) held() bool {
	return s.from.off || s.to.off || s.from.frozen || s.to.frozen || s.n.linkLocked(s.from.name, s.to.name).cut
}

// told tells whether the news of the end have arrived: who reads what is there hears of it without a wait.
func (s *stream) told(now time.Time) bool {
	return s.end != nil && !s.held() && !s.last.After(now)
}

// conn is one end of a connection.
type conn struct {
	n             *network
	id            int
	local, remote *host
	addr          string
	in, out       *stream
	peer          *conn
	closed        bool
	readBy        time.Time
	writeBy       time.Time
}

// Read waits for the next bytes.
func (c *conn) Read(p []byte) (int, error) {
	for {
		c.n.mu.Lock()
		s, now := c.in, time.Now()
		wait := time.Hour
		switch {
		case c.closed:
			c.n.mu.Unlock()
			return 0, net.ErrClosed
		case !c.readBy.IsZero() && !now.Before(c.readBy):
			c.n.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case s.held():
		case len(s.queue) > 0 && !s.queue[0].at.After(now):
			k := 0
			for k < len(p) && len(s.queue) > 0 && !s.queue[0].at.After(now) {
				q := &s.queue[0]
				m := copy(p[k:], q.data)
				if k, q.data = k+m, q.data[m:]; len(q.data) == 0 {
					s.queue = s.queue[1:]
				}
			}
			if s.bytes -= k; s.bytes+k > bufferMax {
				s.wake()
			}
			c.n.mu.Unlock()
			return k, nil
		case len(s.queue) > 0:
			wait = s.queue[0].at.Sub(now)
		case s.told(now):
			c.n.mu.Unlock()
			return 0, s.end
		case s.end != nil:
			wait = s.last.Sub(now)
		}
		if !c.readBy.IsZero() {
			wait = min(wait, c.readBy.Sub(now))
		}
		changed := s.changed
		c.n.mu.Unlock()
		await(changed, wait)
	}
}

// await waits until changed is closed, for wait at most.
func await(changed chan struct{}, wait time.Duration) {
	if wait >= time.Hour {
		<-changed
		return
	}
	t := time.NewTimer(wait)
	select {
	case <-changed:
	case <-t.C:
	}
	t.Stop()
}

// Write takes p on its way.
func (c *conn) Write(p []byte) (int, error) {
	for {
		c.n.mu.Lock()
		s, now := c.out, time.Now()
		switch {
		case c.closed:
			c.n.mu.Unlock()
			return 0, net.ErrClosed
		case s.end != nil && c.in.told(now): // who is not told writes on: gRPC begins calls on such a connection without a pause, until its reader is
			c.n.mu.Unlock()
			return 0, syscall.EPIPE
		case s.end != nil:
			c.n.mu.Unlock()
			return len(p), nil
		case !c.writeBy.IsZero() && !now.Before(c.writeBy):
			c.n.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case c.local.muted:
			c.n.mu.Unlock()
			return len(p), nil
		case s.bytes <= bufferMax:
			s.put(append([]byte(nil), p...), now)
			c.n.mu.Unlock()
			return len(p), nil
		}
		wait := time.Hour
		if !c.writeBy.IsZero() {
			wait = c.writeBy.Sub(now)
		}
		changed := s.changed
		c.n.mu.Unlock()
		await(changed, wait)
	}
}

func (s *stream) put(p []byte, now time.Time) {
	if at := now.Add(s.n.linkLocked(s.from.name, s.to.name).delay); at.After(s.last) {
		s.last = at
	}
	s.queue = append(s.queue, segment{p, s.last})
	s.bytes += len(p)
	if len(s.queue) == 1 {
		s.wake()
	}
}

// Close ends the connection: the other end reads what is under way, then its end.
func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closeLocked(io.EOF)
	return nil
}

// closeLocked gives up this end; the other one is told why behind what was written.
func (c *conn) closeLocked(why error) {
	c.closed = true
	delete(c.n.conns, c)
	if c.out.end == nil {
		c.out.put(nil, time.Now())
		c.out.queue = c.out.queue[:len(c.out.queue)-1]
		c.out.end = why
	}
	c.in.wake()
	c.out.wake()
}

// breakLocked ends both ends; of what is under way only a part arrives.
func (c *conn) breakLocked() {
	for _, s := range []*stream{c.in, c.out} {
		if keep := c.n.rng.IntN(len(s.queue) + 1); keep < len(s.queue) {
			for _, q := range s.queue[keep:] {
				s.bytes -= len(q.data)
			}
			s.queue = s.queue[:keep]
		}
		if s.end == nil {
			s.end = fmt.Errorf("sim: %w", syscall.ECONNRESET)
		}
		s.wake()
	}
}

func (c *conn) LocalAddr() net.Addr  { return simAddr(c.local.name + ":0") }
func (c *conn) RemoteAddr() net.Addr { return simAddr(c.addr) }

func (c *conn) SetDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.readBy, c.writeBy = t, t
	c.in.wake()
	c.out.wake()
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.readBy = t
	c.in.wake()
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.writeBy = t
	c.out.wake()
	return nil
}
