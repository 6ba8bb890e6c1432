package lockserver

import (
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Clients that say what no honest client says, and networks that do what no honest network does. What must hold: nobody
// else's lock goes to them or through them, others wait for a bounded time, the session that lied is ended.

// rawClient is a session whose every message the test writes.
type rawClient struct {
	t      *testing.T
	link   *link
	stream ClientStream
	ses    blockstore.Session
	epoch  blockstore.Epoch
	seq    uint64
	ttl    time.Duration // 0: the server's default, 10s
	err    error
	held   map[LockID]Grant
	revoke func(Revoke) []Release // what it answers; nil: nothing
}

// raw opens a session, claims nothing and begins to send keep-alives.
func (c *fakeCluster) raw() *rawClient {
	c.t.Helper()
	k := &rawClient{t: c.t, link: &link{c: c}, held: map[LockID]Grant{}}
	k.ses.Token = blockstore.Token{9, byte(c.index), byte(c.index >> 8)}
	k.hello(true)
	k.send(&ClientMsg{Claims: &Claims{Done: true}})
	if m := k.recv(); m.Claimed == nil {
		c.t.Fatalf("empty claims were answered by %+v", m)
	}
	return k
}

// hello opens a stream; with must it has to be welcome.
func (k *rawClient) hello(must bool) bool {
	k.t.Helper()
	stream, err := k.link.Dial(context.Background())
	if err == nil {
		k.stream = stream
		k.t.Cleanup(func() { stream.Close(nil) })
		k.send(&ClientMsg{Hello: &Hello{Writer: k.ses.Writer, Token: k.ses.Token, TTL: k.ttl}})
		var m *ServerMsg
		if m, err = stream.Recv(); err == nil {
			k.ses.Writer, k.epoch, k.err = m.Welcome.Writer, m.Epoch, nil
			return true
		}
	}
	if k.err = err; must && errors.Is(err, errors.KindNotLeader) { // its reign has not begun yet
		time.Sleep(10 * time.Millisecond)
		return k.hello(true)
	}
	if must {
		k.t.Fatalf("hello: %v", err)
	}
	return false
}

func (k *rawClient) send(m *ClientMsg) { _ = k.stream.Send(m) }

// recv takes the next message; none once the stream has ended.
func (k *rawClient) recv() *ServerMsg {
	m, err := k.stream.Recv()
	if err != nil {
		k.err = err
		return &ServerMsg{}
	}
	for _, g := range m.Grants {
		k.held[g.ID] = g
	}
	return m
}

// refused waits for the end of the stream, on which claims were sent that must not be accepted.
func (k *rawClient) refused() {
	k.t.Helper()
	for k.err == nil {
		if k.recv().Claimed != nil {
			k.t.Error("the claims were accepted")
		}
	}
}

// live sends keep-alives, and answers revokes as k.revoke says, until the stream ends.
func (k *rawClient) live() {
	stream, ended := k.stream, make(chan struct{})
	go func() {
		defer close(ended)
		for k.err == nil {
			for _, r := range k.recv().Revokes {
				if k.revoke != nil {
					_ = stream.Send(&ClientMsg{Releases: k.revoke(r)})
				}
			}
		}
	}()
	for done := false; !done; {
		k.seq++
		_ = stream.Send(&ClientMsg{KeepAlive: k.seq})
		select {
		case <-ended:
			done = true
		case <-time.After(time.Second):
		}
	}
}

// take gets a lock.
func (k *rawClient) take(id LockID, mode Mode) Grant {
	k.t.Helper()
	k.send(&ClientMsg{Acquires: []Request{{id, mode}}})
	for k.held[id].Number == 0 && k.err == nil {
		k.recv()
	}
	if k.err != nil {
		k.t.Fatalf("taking lock %d: %v", id, k.err)
	}
	return k.held[id]
}

// over reports whether the session's writer is dead.
func (c *fakeCluster) over(ses blockstore.Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Is(c.state.Authenticate(ses), errors.KindDeadWriter)
}

// TestRevokeEvaded: a client that keeps its session alive and does anything but give a lock up is ended; the one who waits gets
// the lock after the revoke timeout and the lease, and with it the others that it held.
func TestRevokeEvaded(t *testing.T) {
	const ttl, timeout = 10 * time.Second, 30 * time.Second
	for name, evade := range map[string]struct {
		answer  func(k *rawClient, r Revoke) []Release
		timeout time.Duration
	}{
		"says nothing": {nil, timeout},
		"names another grant": {func(k *rawClient, r Revoke) []Release {
			return []Release{{ID: r.ID, Epoch: k.epoch, Number: r.Number + 1}, {ID: r.ID, Epoch: k.epoch, Number: r.Number - 1}, {ID: r.ID, Epoch: k.epoch}}
		}, timeout},
		"names another epoch": {func(k *rawClient, r Revoke) []Release {
			return []Release{{ID: r.ID, Epoch: k.epoch - 1, Number: r.Number}, {ID: r.ID, Epoch: k.epoch + 1, Number: r.Number}}
		}, timeout},
		"keeps it shared": {func(k *rawClient, r Revoke) []Release {
			return []Release{{ID: r.ID, Epoch: k.epoch, Number: r.Number, To: Shared}}
		}, 2 * timeout},
		"releases what it has not": {func(k *rawClient, r Revoke) []Release {
			return []Release{{ID: r.ID + 1, Epoch: k.epoch, Number: r.Number}}
		}, timeout},
		"asks for it again": {func(k *rawClient, r Revoke) []Release {
			k.send(&ClientMsg{Acquires: []Request{{r.ID, Exclusive}}})
			return nil
		}, timeout},
	} {
		t.Run(name, func(t *testing.T) {
			sim(t, 1, func(t *testing.T, c *fakeCluster) {
				b, k := c.client(ClerkOptions{}), c.raw()
				number := k.take(1, Exclusive).Number
				k.take(5, Exclusive)
				if evade.answer != nil {
					k.revoke = func(r Revoke) []Release {
						if r.Number != number {
							t.Errorf("a revoke of grant %d, the lock was granted as %d", r.Number, number)
						}
						return evade.answer(k, r)
					}
				}
				go k.live()
				start := time.Now()
				if !b.lock(5*time.Minute, Request{1, Exclusive}) {
					t.Fatal("the lock was never given")
				}
				took := time.Since(start)
				if took < timeout || took > evade.timeout+ttl+2*time.Second {
					t.Errorf("the lock was given after %v; the revoke times out after %v, the lease lasts %v", took, evade.timeout, ttl)
				}
				if !c.over(k.ses) {
					t.Error("the lock was given and the writer of the session that had it is live")
				}
				if got := b.MinIndex(1); got == 0 {
					t.Error("the next holder may read at any index")
				}
				b.Unpin(1)
				b.must(5, Exclusive)
			})
		})
	}
}

// TestForgedRelease: nobody lets another's lock go, whatever he names.
func TestForgedRelease(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, b, k := c.client(ClerkOptions{}), c.client(ClerkOptions{}), c.raw()
		fresh := LockID(c.take(a, 10).First)
		if !a.lock(time.Second, Request{1, Exclusive}, Request{fresh, Exclusive}) {
			t.Fatal("no lock")
		}
		go k.live()
		var forged []Release
		for number := range uint64(20) {
			for _, id := range []LockID{1, fresh} {
				forged = append(forged, Release{ID: id, Epoch: k.epoch, Number: number}, Release{ID: id, Epoch: k.epoch, Number: number, To: Shared})
			}
		}
		k.send(&ClientMsg{Releases: forged})
		k.send(&ClientMsg{Files: []FileRequest{{Ref: 1, Op: FileReleaseOwner, ID: 1, Lock: FileLock{Owner: 1, End: 1<<64 - 1, Type: FileUnlock}}}})
		time.Sleep(time.Second)
		if b.lock(time.Second, Request{1, Shared}) || b.lock(time.Second, Request{fresh, Shared}) {
			t.Error("a lock that a pins was given to b after k had let it go")
		}
		a.Unpin(1, fresh)
		b.must(1, Shared)
		b.must(fresh, Shared)
	})
}

// TestForgedClaims: a claim to what one was never given ends one's own session and nobody else's.
func TestForgedClaims(t *testing.T) {
	const others, free = 1, 2
	held := func(id LockID) *Claims { return &Claims{Locks: []Claim{{ID: id, Mode: Exclusive}}, Done: true} }
	file := &Claims{Files: []FileClaim{{others, FileLock{Owner: 7, End: 9, Type: FileWrite}}}, Done: true}
	for name, f := range map[string]struct {
		claims *Claims
		again  bool // not a session's first claims in this reign, but those of a later stream
	}{
		"another's lock":        {held(others), false},
		"a free lock":           {held(free), false},
		"a file lock":           {file, false},
		"another's lock, later": {held(others), true},
		"a free lock, later":    {held(free), true},
	} {
		t.Run(name, func(t *testing.T) {
			sim(t, 1, func(t *testing.T, c *fakeCluster) {
				a := c.client(ClerkOptions{})
				a.must(others, Exclusive)
				k := &rawClient{t: t, link: &link{c: c}, held: map[LockID]Grant{}, ses: blockstore.Session{Token: blockstore.Token{3}}}
				if f.again {
					k = c.raw()
				}
				k.hello(true)
				k.send(&ClientMsg{Claims: f.claims})
				k.refused()
				if k.hello(false) {
					t.Error("a session that forged a claim is attached again")
				}
				time.Sleep(12 * time.Second)
				if !c.over(k.ses) {
					t.Error("a session that forged a claim lives")
				}
				if a.h.endings() > 0 || a.Held(others) != Exclusive || a.LeaseLeft() <= 0 {
					t.Error("the forged claim harmed another session")
				}
			})
		})
	}
}

// TestForgedClaimsBeforeTheOwner: after a failover a session that was opened since claims what another had before that
// one is back. It is the forger who is ended.
func TestForgedClaimsBeforeTheOwner(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		a := c.client(ClerkOptions{})
		fresh := LockID(c.take(a, 10).First)
		a.must(1, Exclusive)
		if err := a.FileLock(t.Context(), 1, FileLock{Owner: 1, End: 9, Type: FileWrite}, false); err != nil {
			t.Fatal(err)
		}
		a.link.set(func(k *link) { k.only = c.nodes[0] }) // it does not find the new leader yet
		c.down(c.nodes[0])
		c.elect(c.nodes[1])
		time.Sleep(time.Second)
		for i, claims := range []*Claims{
			{Locks: []Claim{{ID: 1, Mode: Exclusive}}, Done: true},
			{Locks: []Claim{{ID: fresh, Mode: Exclusive}}, Done: true},
			{Files: []FileClaim{{1, FileLock{Owner: 7, End: 9, Type: FileWrite}}}, Done: true},
			{Given: []IDRun{{fresh, 1 << 62}}, Done: true},
		} {
			k := &rawClient{t: t, link: &link{c: c}, ses: blockstore.Session{Token: blockstore.Token{1, byte(i)}}, held: map[LockID]Grant{}}
			k.hello(true)
			k.send(&ClientMsg{Claims: claims})
			k.recv()
		}
		a.link.set(func(k *link) { k.only = nil })
		time.Sleep(15 * time.Second)
		if a.h.endings() != 0 || a.Held(1) != Exclusive || a.Held(fresh) != Exclusive || a.LeaseLeft() <= 0 {
			t.Error("the owner was ended, or has lost what another claimed before it")
		}
		if err := a.FileLock(t.Context(), 1, FileLock{Owner: 1, End: 9, Type: FileRead}, false); err != nil {
			t.Errorf("the owner's file lock: %v", err)
		}
	})
}

// TestGivenBudget: a client that tells its inodes given up over and over is ended before that has cost anything.
func TestGivenBudget(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		k := c.raw()
		res, err := c.lead.Propose(t.Context(), blockstore.Command{Kind: blockstore.CmdTakeInodes, Writer: k.ses.Writer, Token: k.ses.Token, Op: 1, Count: 4096})
		if err != nil || res.Err != nil {
			t.Fatal(err, res.Err)
		}
		runs := make([]IDRun, 4000)
		for i := range runs {
			runs[i] = IDRun{LockID(res.Inodes.First), 4096}
		}
		k.hello(true)
		k.send(&ClientMsg{Claims: &Claims{Given: runs, Done: true}})
		k.refused()
		if k.hello(false) {
			t.Error("a session that told 16 million inodes given up, out of 4096, is attached again")
		}
	})
}

// TestForgedHello: a stream speaks for the session that it named, with that session's token, or for none.
func TestForgedHello(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		a, k := c.client(ClerkOptions{}), c.raw()
		a.must(1, Exclusive)
		mine := k.ses
		for name, f := range map[string]struct {
			ses  blockstore.Session
			want errors.Kind
		}{
			"another's number, one's own token": {blockstore.Session{Writer: a.Session().Writer, Token: mine.Token}, errors.KindWrongToken},
			"a number never given out":          {blockstore.Session{Writer: 1 << 40, Token: mine.Token}, errors.KindDeadWriter},
			"no token":                          {blockstore.Session{Writer: a.Session().Writer}, errors.KindInvalid},
		} {
			k.ses = f.ses
			if k.hello(false) || !errors.Is(k.err, f.want) {
				t.Errorf("%s: %v, want %v", name, k.err, f.want)
			}
		}
		k.ses = mine
		k.hello(true)
		k.send(&ClientMsg{Hello: &Hello{Writer: a.Session().Writer, Token: blockstore.Token{1}}})
		for k.err == nil {
			k.recv()
		}
		if !errors.Is(k.err, errors.KindInvalid) {
			t.Errorf("a second hello: %v", k.err)
		}
		// Requests with an old epoch, another's session number or token reach the blocks no more than the locks.
		for name, f := range map[string]struct {
			ses   blockstore.Session
			epoch blockstore.Epoch
			want  errors.Kind
		}{
			"another's session": {blockstore.Session{Writer: a.Session().Writer, Token: mine.Token}, a.Epoch(), errors.KindWrongToken},
			"an old epoch":      {a.Session(), a.Epoch() - 1, errors.KindStaleEpoch},
			"a coming epoch":    {a.Session(), a.Epoch() + 1, errors.KindStaleEpoch},
		} {
			if _, err := c.write(f.ses, f.epoch, 1); !errors.Is(err, f.want) {
				t.Errorf("a record with %s: %v, want %v", name, err, f.want)
			}
		}
		if _, err := c.write(a.Session(), a.Epoch(), 1); err != nil || a.Held(1) != Exclusive || a.LeaseLeft() <= 0 {
			t.Errorf("the session that was named is harmed (its record: %v)", err)
		}
	})
}

// TestNeverClaims: after a failover nothing is granted before all have told what they hold; one that attaches, again and again, sends
// keep-alives and never tells keeps the others waiting for a bounded time.
func TestNeverClaims(t *testing.T) {
	sim(t, 2, func(t *testing.T, c *fakeCluster) {
		b, k := c.client(ClerkOptions{}), c.raw()
		c.down(c.nodes[0])
		time.Sleep(time.Second)
		c.elect(c.nodes[1])
		elected := time.Now()
		time.Sleep(100 * time.Millisecond)
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
				}
				if n%5 == 0 && !k.hello(false) {
					return
				}
				k.send(&ClientMsg{KeepAlive: uint64(n + 1)})
				k.send(&ClientMsg{Claims: &Claims{}}) // never the last
			}
		}()
		if !b.lock(2*time.Minute, Request{1, Exclusive}) {
			t.Fatal("one that never tells its claims keeps all others waiting for ever")
		}
		if took := time.Since(elected); took > 40*time.Second {
			t.Errorf("one that never tells its claims kept all others waiting for %v", took)
		}
		if !c.over(k.ses) {
			t.Error("the lock was given while it may hold it")
		}
	})
}

// TestKeepAliveFlood: however many keep-alives a client sends, one of each stream waits to be answered.
func TestKeepAliveFlood(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		k := c.raw()
		time.Sleep(1500 * time.Millisecond)
		most := 0
		for n := range uint64(5000) {
			k.send(&ClientMsg{KeepAlive: n + 1})
			c.nodes[0].server.mu.Lock()
			most = max(most, len(c.nodes[0].server.reign.pending))
			c.nodes[0].server.mu.Unlock()
		}
		if most > 1 {
			t.Errorf("%d keep-alives of one stream wait to be answered", most)
		}
		for newest := uint64(0); newest < 5000; {
			m := k.recv()
			if k.err != nil {
				t.Fatal(k.err)
			}
			newest = max(newest, m.Renewed)
		}
	})
}

// deafStream is the server's end of a stream whose client does not read.
type deafStream struct {
	ctx   context.Context
	hello chan *ClientMsg
	sends int
}

func (d *deafStream) Recv() (*ClientMsg, error) {
	select {
	case m := <-d.hello:
		return m, nil
	case <-d.ctx.Done():
		return nil, io.EOF
	}
}

func (d *deafStream) Send(*ServerMsg) error {
	if d.sends++; d.sends == 1 {
		return nil
	}
	<-d.ctx.Done()
	return io.EOF
}

// TestClientThatDoesNotRead: its stream ends with its session, though what was sent on it is not read.
func TestClientThatDoesNotRead(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		b := c.client(ClerkOptions{})
		d := &deafStream{ctx: t.Context(), hello: make(chan *ClientMsg, 10)}
		d.hello <- &ClientMsg{Hello: &Hello{Token: blockstore.Token{1}, TTL: 5 * time.Second}}
		d.hello <- &ClientMsg{Claims: &Claims{Done: true}}
		d.hello <- &ClientMsg{Acquires: []Request{{1, Exclusive}}}
		served := make(chan error, 1)
		go func() { served <- c.nodes[0].server.Serve(t.Context(), d) }()
		time.Sleep(time.Second)
		b.lock(30*time.Second, Request{1, Exclusive})
		select {
		case err := <-served:
			if err == nil {
				t.Error("no reason")
			}
		case <-time.After(30 * time.Second):
			t.Error("the stream of a session that is over stays open for as long as its client does not read")
		}
		if n := c.nodes[0].server.Stats().Streams; n != 1 {
			t.Errorf("%d streams are counted, 1 is open", n)
		}
	})
}

// TestOneWayCut cuts one direction of a client's network, in the middle of work: others get what it holds in bounded time and
// never while its lease lives, and it heals when the network does.
func TestOneWayCut(t *testing.T) {
	const ttl = 10 * time.Second
	for name, cut := range map[string]struct {
		set   func(k *link)
		bound time.Duration
	}{
		"nothing arrives at the server": {func(k *link) { k.onUp = func(*ClientMsg) bool { return false } }, ttl + time.Second},
		// Here the server hears it live and ask; only the revoke that is never answered tells.
		"nothing arrives at the client": {func(k *link) { k.onDown = func(*ServerMsg) bool { return false } }, 30*time.Second + ttl + 2*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			sim(t, 1, func(t *testing.T, c *fakeCluster) {
				a, b := c.client(ClerkOptions{}), c.client(ClerkOptions{})
				a.must(1, Exclusive)
				a.link.set(cut.set)
				start := time.Now()
				if !b.lock(5*time.Minute, Request{1, Exclusive}) {
					t.Fatal("the lock was never given")
				}
				if left := a.LeaseLeft(); left > 0 {
					t.Errorf("b has the lock, and a's lease lives for %v", left)
				}
				if took := time.Since(start); took > cut.bound {
					t.Errorf("b waited %v, more than %v", took, cut.bound)
				}
				b.Unpin(1)
				a.link.set(func(k *link) { k.onUp, k.onDown = nil, nil })
				time.Sleep(20 * time.Second)
				if a.h.endings() != 1 || a.h.expiries() == 0 {
					t.Errorf("a was told of %d endings and %d expiries", a.h.endings(), a.h.expiries())
				}
			})
		})
	}
}

// TestManySessions: as many sessions as a large installation has, through one server: attached, served, handed over, failed over
// in bounded memory and time; one more than the limit is told so.
func TestManySessions(t *testing.T) {
	const n = manySessions
	c := newCluster(t, 2, Options{StreamsMax: n})
	c.t = t
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c.elect(c.nodes[0])
	for c.nodes[0].server.Stats().Epoch == 0 {
		time.Sleep(time.Millisecond)
	}
	clients := make([]*rawClient, n)
	start := time.Now()
	each := func(f func(i int, k *rawClient)) {
		done := make(chan struct{}, 256)
		for w := range cap(done) {
			go func() {
				for i := w; i < n; i += cap(done) {
					f(i, clients[i])
				}
				done <- struct{}{}
			}()
		}
		for range cap(done) {
			<-done
		}
	}
	attach := func(claims func(i int) []Claim) {
		each(func(i int, k *rawClient) {
			if !k.hello(false) {
				t.Errorf("session %d: %v", i, k.err)
				return
			}
			k.send(&ClientMsg{Claims: &Claims{Locks: claims(i), Done: true}, KeepAlive: 1})
			for m := k.recv(); m.Claimed == nil && k.err == nil; {
				m = k.recv()
			}
			if k.err != nil {
				t.Errorf("session %d: %v", i, k.err)
			}
		})
	}
	for i := range clients {
		l := &link{c: c, queue: 8}
		clients[i] = &rawClient{t: t, link: l, ttl: 2 * time.Minute, held: map[LockID]Grant{}, ses: blockstore.Session{Token: blockstore.Token{1, byte(i), byte(i >> 8)}}}
	}
	attach(func(int) []Claim { return nil })
	opened := time.Since(start)
	each(func(i int, k *rawClient) { k.take(LockID(1<<63|uint64(i)), Exclusive) })
	extra := &rawClient{t: t, link: &link{c: c}, ses: blockstore.Session{Token: blockstore.Token{2}}}
	if extra.hello(false) || !errors.Is(extra.err, errors.KindUnavailable) {
		t.Errorf("a stream over the limit: %v", extra.err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perSession := (after.HeapAlloc + after.StackInuse - before.HeapAlloc - before.StackInuse) / n
	if perSession > 32<<10 && n == 10_000 {
		t.Errorf("a session takes %d bytes", perSession)
	}
	c.down(c.nodes[0])
	start = time.Now()
	c.elect(c.nodes[1])
	for c.nodes[1].server.Stats().Epoch == 0 {
		time.Sleep(time.Millisecond)
	}
	attach(func(i int) []Claim { return []Claim{{ID: LockID(1<<63 | uint64(i)), Mode: Exclusive}} })
	st := c.nodes[1].server.Stats()
	if st.Sessions != n || st.Awaited != 0 || st.Locks != n {
		t.Errorf("after the failover: %+v", st)
	}
	t.Logf("%d sessions: %d bytes each, opened in %v, back after a failover in %v", n, perSession, opened.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	if took := time.Since(start); took > 100*time.Second {
		t.Errorf("%d sessions were back after %v only: their leases last for 2 minutes", n, took)
	}
}
