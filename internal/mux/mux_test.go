package mux

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand"
	"net"
	"sync"
	"testing"
	"time"

	"dfs/internal/errors"
)

var testID = ClusterID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func start(t *testing.T) (*Mux, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := New(l, slog.New(slog.NewTextHandler(io.Discard, nil)))
	served := make(chan error, 1)
	go func() { served <- m.Serve() }()
	t.Cleanup(func() {
		m.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return m, l.Addr().String()
}

func ctxFor(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestRaftConnectionIsHandedOver(t *testing.T) {
	m, addr := start(t)
	m.SetCluster(testID, 7)
	c, err := DialRaft(ctxFor(t, 5*time.Second), nil, addr, testID, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := m.Raft().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := c.Write([]byte("vote")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "vote" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// TestAppendConnectionIsHeldToTheSameChecks: it goes to a listener of its own, and only in the right cluster and incarnation.
func TestAppendConnectionIsHeldToTheSameChecks(t *testing.T) {
	m, addr := start(t)
	m.SetCluster(testID, 7)
	for _, tc := range []struct {
		id  ClusterID
		inc uint64
	}{{ClusterID{9}, 7}, {testID, 8}} {
		if _, err := DialAppend(ctxFor(t, 5*time.Second), nil, addr, tc.id, tc.inc); !errors.Is(err, errors.KindForeign) {
			t.Fatalf("%v: %v", tc, err)
		}
	}
	c, err := DialAppend(ctxFor(t, 5*time.Second), nil, addr, testID, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := m.Append().Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if st := m.Stats(); st.Append != 1 || st.Raft != 0 || st.Refused != 2 {
		t.Fatalf("%+v", st)
	}
}

// TestOlderNodeIsToldApart: a node that knows greetings up to version 1 says too new, which a caller can act on.
func TestOlderNodeIsToldApart(t *testing.T) {
	answer := encodeAnswer(reasonTooNew)
	if err := decodeAnswer(answer, "x"); !errors.Is(err, errors.KindTooNew) {
		t.Fatal(err)
	}
	if hello := encodeHello(helloAppend, testID, 7); len(hello) != helloSize || hello[4] <= helloRaft {
		t.Fatalf("an older node would not read %x whole, or would take it for raft's", hello)
	}
}

func TestGRPCConnectionLosesNothing(t *testing.T) {
	m, addr := start(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const sent = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes"
	if _, err := io.WriteString(c, sent); err != nil {
		t.Fatal(err)
	}
	s, err := m.GRPC().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != sent {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	m, addr := start(t)
	dial := func(id ClusterID, incarnation uint64) error {
		c, err := DialRaft(ctxFor(t, 5*time.Second), nil, addr, id, incarnation)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(testID, 7); !errors.Is(err, errors.KindUnavailable) {
		t.Fatalf("before SetCluster: %v", err)
	}
	m.SetCluster(testID, 7)
	if err := dial(ClusterID{9}, 7); !errors.Is(err, errors.KindForeign) {
		t.Fatalf("another cluster: %v", err)
	}
	if err := dial(testID, 8); !errors.Is(err, errors.KindForeign) {
		t.Fatalf("another incarnation: %v", err)
	}
	if n := m.Stats().Refused; n != 3 {
		t.Fatalf("refused %d, want 3", n)
	}
}

func TestNewerOrDamagedHelloIsRefused(t *testing.T) {
	m, addr := start(t)
	m.SetCluster(testID, 7)
	for _, tc := range []struct {
		at   int
		kind errors.Kind
	}{{4, errors.KindTooNew}, {7, errors.KindCorrupt}, {30, errors.KindCorrupt}} {
		hello := encodeHello(helloRaft, testID, 7)
		hello[tc.at] ^= 0x40
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write(hello)
		answer := make([]byte, answerSize)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		if err := decodeAnswer(answer, addr); !errors.Is(err, tc.kind) {
			t.Fatalf("byte %d: %v", tc.at, err)
		}
		c.Close()
	}
}

func TestGarbageIsClosedAndCounted(t *testing.T) {
	m, addr := start(t)
	m.SetCluster(testID, 7)
	rng := rand.New(rand.NewSource(1))
	var wg sync.WaitGroup
	const n = 60
	for i := range n {
		b := make([]byte, rng.Intn(64))
		rng.Read(b)
		if i%3 == 0 {
			b = append([]byte("PRI X"), b...)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			c.Write(b)
			c.(*net.TCPConn).CloseWrite()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.Copy(io.Discard, c)
			c.Close()
		}()
	}
	wg.Wait()
	st := m.Stats()
	if st.Garbage != n || st.Raft != 0 || st.GRPC != 0 {
		t.Fatalf("stats %+v, want %d garbage", st, n)
	}
}

func TestUndecidedConnectionsAreBounded(t *testing.T) {
	m, addr := start(t)
	m.SetCluster(testID, 7)
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for range UndecidedMax + 20 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, c)
	}
	deadline := time.Now().Add(4 * time.Second)
	for m.Stats().Overflow < 20 {
		if time.Now().After(deadline) {
			t.Fatalf("stats %+v, want 20 overflowed", m.Stats())
		}
		time.Sleep(time.Millisecond)
	}
	m.mu.Lock()
	n := len(m.undecided)
	m.mu.Unlock()
	if n > UndecidedMax {
		t.Fatalf("%d undecided", n)
	}
}

func TestCloseEndsWaiters(t *testing.T) {
	m, addr := start(t)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done := make(chan error, 1)
	go func() { _, err := m.Raft().Accept(); done <- err }()
	m.Close()
	if err := <-done; err == nil {
		t.Fatal("Accept returned a connection after Close")
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("undecided connection survived Close")
	}
}

func TestDialOfAStrangerIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	_, err = DialRaft(ctxFor(t, 100*time.Millisecond), nil, l.Addr().String(), testID, 7)
	if !errors.Is(err, errors.KindUnavailable) || time.Since(begin) > 3*time.Second {
		t.Fatalf("%v after %v", err, time.Since(begin))
	}
}

func FuzzHello(f *testing.F) {
	f.Add(encodeHello(helloRaft, testID, 7))
	f.Add(encodeHello(helloAppend, testID, 7))
	f.Add([]byte("PRI * HTTP/2.0\r\n"))
	f.Add([]byte("DFSR"))
	m := New(nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
	m.SetCluster(testID, 7)
	f.Fuzz(func(t *testing.T, b []byte) {
		to, _ := m.classify(&fakeConn{in: bytes.NewReader(b)})
		if to == m.raft && !bytes.Equal(b[:helloSize], encodeHello(helloRaft, testID, 7)) {
			t.Fatalf("welcomed %x", b)
		}
		if to == m.append && !bytes.Equal(b[:helloSize], encodeHello(helloAppend, testID, 7)) {
			t.Fatalf("welcomed %x", b)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(encodeAnswer(reasonWelcome))
	f.Add(encodeAnswer(200))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < answerSize {
			return
		}
		if decodeAnswer(b[:answerSize], "x") == nil && b[5] != reasonWelcome {
			t.Fatalf("accepted %x", b)
		}
	})
}

func TestProbe(t *testing.T) {
	m, addr := start(t)
	if _, err := Probe(ctxFor(t, 5*time.Second), nil, addr); !errors.Is(err, errors.KindUnavailable) {
		t.Fatalf("without a card: %v", err)
	}
	m.SetCard(func() []byte { return []byte("node a") })
	got, err := Probe(ctxFor(t, 5*time.Second), nil, addr)
	if err != nil || string(got) != "node a" {
		t.Fatalf("%q, %v", got, err)
	}
}

func FuzzCard(f *testing.F) {
	f.Add(encodeCard([]byte("x")))
	f.Add(encodeCard(make([]byte, CardBytesMax)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := readCard(bytes.NewReader(b), "x"); err == nil && !bytes.HasPrefix(b, encodeCard(p)) && b[4] == probeVersion {
			t.Fatalf("accepted %x", b)
		}
	})
}

type fakeConn struct {
	net.Conn
	in *bytes.Reader
}

func (c *fakeConn) Read(b []byte) (int, error)  { return c.in.Read(b) }
func (c *fakeConn) Write(b []byte) (int, error) { return len(b), nil }
func (c *fakeConn) RemoteAddr() net.Addr        { return &net.TCPAddr{} }
