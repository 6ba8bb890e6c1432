package lockserver

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"dfs/internal/errors"
)

// connection is one stream as the clerk uses it. attached and claims are
// guarded by SessionClerk.mu.
type connection struct {
	stream   ClientStream
	attached bool // its claims are accepted
	claims   []*clerkLock
	heard    atomic.Int64 // when something came last, as time since begun
	renewed  atomic.Int64 // when the lease was renewed on it, likewise
	begun    time.Time

	asking bool      // the sender's: whether the leader is another by now is being asked
	moved  chan bool // the answer
}

// unrenewedMax is how many times longer a leader that does not renew the lease is waited for while no other is known.
const unrenewedMax = 4

func (k *connection) hear() { k.heard.Store(int64(time.Since(k.begun))) }

func (k *connection) silence() time.Duration {
	return time.Since(k.begun) - time.Duration(k.heard.Load())
}

func (k *connection) unrenewed() time.Duration {
	return time.Since(k.begun) - time.Duration(k.renewed.Load())
}

// final reports whether err ends the session and not only a stream.
func final(err error) bool {
	switch errors.KindOf(err) {
	case errors.KindDeadWriter, errors.KindWrongToken, errors.KindSessionEnded:
		return true
	}
	return false
}

// run keeps the session attached until it ends: it connects, and again when a
// stream breaks, quickly at first.
func (c *SessionClerk) run() {
	const soonest, latest = 10 * time.Millisecond, 500 * time.Millisecond
	const patience, patienceMax = 2 * time.Second, 15 * time.Second
	fails := 0
	for c.ctx.Err() == nil {
		attached, err := c.connect(min(patience*time.Duration(fails/4+1), patienceMax))
		if c.ctx.Err() != nil {
			return
		}
		if final(err) {
			c.end(err)
			return
		}
		if fails++; attached {
			fails = 0
		}
		wait := soonest << min(fails, 3) // up to 80ms for the first 10s or so
		if fails > 100 {
			wait = latest
		}
		wait += rand.N(wait / 4)
		c.o.Logger.Info("no stream to the lock service; trying again", "session", c.Session().Writer, "in", wait, "error", err)
		if !sleep(c.ctx, wait) {
			return
		}
	}
}

// connect opens a stream, attaches, claims, and serves until it breaks.
// patience bounds the time until the claims are accepted.
func (c *SessionClerk) connect(patience time.Duration) (attached bool, err error) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	impatient := time.AfterFunc(patience, cancel)
	defer impatient.Stop()
	stream, err := c.t.Dial(ctx)
	if err != nil {
		return false, err
	}
	k := &connection{stream: stream, begun: time.Now(), moved: make(chan bool, 1)}
	defer func() { stream.Close(err) }()
	if err = c.attach(k); err != nil {
		return false, err
	}
	defer c.detach(k)
	if err = c.claim(k); err != nil {
		return false, err
	}
	impatient.Stop()
	sent := make(chan error, 1)
	go func() {
		err := c.sender(ctx, k)
		if ctx.Err() == nil {
			stream.Close(err)
		}
		sent <- err
	}()
	err = c.receive(k)
	cancel()
	if e := <-sent; !final(err) && e != nil && ctxFree(e) {
		err = e
	}
	return true, err
}

// ctxFree reports that an error is more than the end of a context.
func ctxFree(err error) bool {
	k := errors.KindOf(err)
	return k != errors.KindInterrupted && k != errors.KindTimeout
}

// attach says hello and takes the welcome: the session has left its older epoch.
func (c *SessionClerk) attach(k *connection) error {
	ses := c.Session()
	if err := k.stream.Send(&ClientMsg{Hello: &Hello{Writer: ses.Writer, Token: ses.Token, Name: c.o.Name, TTL: c.o.TTL}}); err != nil {
		return err
	}
	m, err := k.stream.Recv()
	if err != nil {
		return err
	}
	c.mu.Lock()
	w := m.Welcome
	if w == nil || w.Writer == 0 || w.TTL <= 0 || c.ses.Writer != 0 && w.Writer != c.ses.Writer || m.Epoch < c.epoch || m.Epoch == 0 {
		c.mu.Unlock()
		return errors.New(errors.KindUnavailable, "the lock service's welcome is of an older epoch or of another session: it no longer leads")
	}
	if m.Epoch > c.epoch {
		c.epoch, c.newest = m.Epoch, 0
	}
	c.ses.Writer, c.ttl = w.Writer, w.TTL
	c.conn = k
	c.out = ClientMsg{}
	clear(c.lease.sent)
	onEpoch := c.onEpoch
	c.mu.Unlock()
	k.hear()
	if onEpoch != nil {
		onEpoch(m.Epoch)
	}
	return nil
}

// claim tells what is held and takes the answer.
func (c *SessionClerk) claim(k *connection) error {
	for _, piece := range c.claims(k) {
		if err := k.stream.Send(&ClientMsg{Claims: &piece}); err != nil {
			return err
		}
	}
	for {
		m, err := k.stream.Recv()
		if err != nil {
			return err
		}
		k.hear()
		if m.Claimed != nil {
			if err := c.claimed(k, m); err != nil {
				return err
			}
			c.take(k, m) // revokes may have come with it, and are not sent twice
			return nil
		}
	}
}

// claims lists everything that is held, in pieces of bounded size.
func (c *SessionClerk) claims(k *connection) []Claims {
	c.mu.Lock()
	defer c.mu.Unlock()
	pieces := []Claims{{}}
	items := 0
	piece := func() *Claims {
		if items++; items%messageItemsMax == 0 {
			pieces = append(pieces, Claims{})
		}
		return &pieces[len(pieces)-1]
	}
	for _, l := range c.table.locks {
		l.asked, l.relIndex, l.untold = None, 0, false
		switch {
		case l.mode == None && l.toldOpen:
			p := piece()
			p.Locks = append(p.Locks, Claim{ID: l.id, Open: true})
		case l.mode != None && (l.number != 0 || !c.implicit(l.id)):
			p := piece()
			p.Locks = append(p.Locks, Claim{ID: l.id, Mode: l.mode})
			l.claimed = l.mode
			k.claims = append(k.claims, l)
		}
	}
	for _, r := range c.table.ranges {
		r.given.runs(func(first, count uint64) {
			p := piece()
			p.Given = append(p.Given, IDRun{LockID(r.First + first), count})
		})
	}
	for id := range c.table.early {
		p := piece()
		p.Given = append(p.Given, IDRun{id, 1})
	}
	for id, held := range c.files.held {
		for _, h := range held {
			p := piece()
			p.Files = append(p.Files, FileClaim{id, h.FileLock})
		}
	}
	last := &pieces[len(pieces)-1]
	last.Floor, last.Done = c.table.floor, true
	return pieces
}

// runs calls f for each run of members.
func (b *bitmap) runs(f func(first, count uint64)) {
	var first, count uint64
	for w, word := range b.words {
		if word == 0 {
			if count > 0 {
				f(first, count)
				count = 0
			}
			continue
		}
		for i := range uint64(64) {
			switch set := word&(1<<i) != 0; {
			case set && count == 0:
				first, count = uint64(w)*64+i, 1
			case set:
				count++
			case count > 0:
				f(first, count)
				count = 0
			}
		}
	}
	if count > 0 {
		f(first, count)
	}
}

// claimed takes the new numbers of what was claimed, tells what was released since
// the claims were made, and asks for what is waited for.
func (c *SessionClerk) claimed(k *connection, m *ServerMsg) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Epoch != c.epoch || c.conn != k || m.Claimed.Count != uint64(len(k.claims)) {
		return errors.New(errors.KindUnavailable, "the lock service accepted %d of %d claims in epoch %d: claiming again", m.Claimed.Count, len(k.claims), m.Epoch)
	}
	k.attached = true
	for i, l := range k.claims {
		l.number = m.Claimed.First + uint64(i)
		c.newest = max(c.newest, l.number)
		claimed := l.claimed
		l.claimed = None
		if l.mode < claimed {
			c.tellReleaseLocked(l)
		}
		c.tidyLocked(l)
	}
	k.claims = nil
	for _, l := range c.table.locks {
		if l.untold { // held by its range when the claims were made, so not named in them
			c.tellReleaseLocked(l)
			c.tidyLocked(l)
		}
		c.serveLocked(l)
	}
	c.files.resend(&c.out)
	wake(c.wake)
	c.o.Logger.Info("attached to the lock service", "session", c.ses.Writer, "epoch", c.epoch, "claims", m.Claimed.Count)
	return nil
}

// detach forgets a stream that broke: what was asked on it is asked again.
func (c *SessionClerk) detach(k *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != k {
		return
	}
	c.conn = nil
	c.out = ClientMsg{}
	for _, l := range k.claims {
		l.claimed = None
		c.tidyLocked(l)
	}
	for _, l := range c.table.locks {
		l.asked = None
		c.tidyLocked(l)
	}
}

// receive takes messages until the stream breaks.
func (c *SessionClerk) receive(k *connection) error {
	for {
		m, err := k.stream.Recv()
		if err != nil {
			return err
		}
		k.hear()
		c.take(k, m)
	}
}

// take takes one message. One of another epoch than that attached to, or on a
// stream that is not the newest, is dropped.
func (c *SessionClerk) take(k *connection, m *ServerMsg) {
	c.mu.Lock()
	if c.conn != k || m.Epoch != c.epoch || c.ended != nil {
		c.mu.Unlock()
		return
	}
	unnoticed := m.Renewed != 0 && c.renewedLocked(m.Renewed)
	if m.Renewed != 0 {
		k.renewed.Store(k.heard.Load())
	}
	for _, g := range m.Grants {
		c.grantLocked(g)
	}
	for _, r := range m.Revokes {
		c.revokeLocked(r)
	}
	for _, f := range m.Files {
		c.files.replied(f, &c.out)
	}
	h := c.holder
	c.mu.Unlock()
	wake(c.wake)
	if unnoticed && h != nil {
		c.wg.Go(h.LeaseExpired) // it had run out while this process was paused, and is back
	}
}

// sender sends what collects, and keep-alives, until the stream breaks or
// nothing has come on it for SilenceMax.
func (c *SessionClerk) sender(ctx context.Context, k *connection) error {
	every := min(c.o.KeepAliveEvery, c.leaseTTL()/3)
	patience := c.leaseTTL() / 2
	tick := time.NewTicker(max(every/4, time.Millisecond))
	defer tick.Stop()
	var kept, awake time.Time
	for {
		now := time.Now()
		if !awake.IsZero() && now.Sub(awake) > c.o.SilenceMax/2 {
			k.hear() // it was this process that paused
			k.renewed.Store(k.heard.Load())
		}
		awake = now
		if k.silence() > c.o.SilenceMax {
			return errors.New(errors.KindUnavailable, "nothing came from the lock service for %v", c.o.SilenceMax)
		}
		if err := c.stillLeads(ctx, k, patience); err != nil {
			return err
		}
		m := c.collect(now.Sub(kept) >= every)
		if m.KeepAlive != 0 {
			kept = now
		}
		if err := sendClientPieces(k.stream, m); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.wake:
		case <-tick.C:
		}
	}
}

// stillLeads is an error if the stream should be given up because the server answers on it, but has not renewed the lease for longer than
// patience: it may have been deposed without knowing. If it can be asked whether another node leads by now, a leader that is merely slow to
// prove itself is kept: a new stream to it would have to wait for the same. But for so long only, then anything is worth a try.
func (c *SessionClerk) stillLeads(ctx context.Context, k *connection, patience time.Duration) error {
	since := k.unrenewed()
	if since <= patience {
		return nil
	}
	if m, ok := k.stream.(Mover); ok && since <= unrenewedMax*patience {
		select {
		case moved := <-k.moved:
			k.asking = false
			if !moved {
				return nil
			}
		default:
			if !k.asking {
				k.asking = true
				c.wg.Go(func() { k.moved <- m.Moved(ctx) })
			}
			return nil
		}
	}
	return errors.New(errors.KindUnavailable, "the lock service answers, but has not renewed the lease for %v: looking for another leader", since)
}

func (c *SessionClerk) leaseTTL() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ttl
}

// collect takes what collected; with a keep-alive its time of sending is
// noted, before it is sent.
func (c *SessionClerk) collect(keepAlive bool) *ClientMsg {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.out
	c.out = ClientMsg{}
	if keepAlive {
		c.lease.seq++
		m.KeepAlive = c.lease.seq
		c.lease.sent[m.KeepAlive] = c.o.Clock()
		delete(c.lease.sent, m.KeepAlive-min(m.KeepAlive, 256))
	}
	return &m
}

// sendClientPieces sends m in messages of bounded size, in the order of its fields.
func sendClientPieces(stream ClientStream, m *ClientMsg) error {
	end := m.End
	for {
		piece := ClientMsg{KeepAlive: m.KeepAlive}
		m.KeepAlive = 0
		piece.Releases, m.Releases = split(m.Releases)
		if len(m.Releases) == 0 {
			piece.Acquires, m.Acquires = split(m.Acquires)
			piece.Files, m.Files = split(m.Files)
		}
		if piece.KeepAlive != 0 || len(piece.Releases)+len(piece.Acquires)+len(piece.Files) > 0 {
			if err := stream.Send(&piece); err != nil {
				return err
			}
		}
		if len(m.Releases)+len(m.Acquires)+len(m.Files) == 0 {
			break
		}
	}
	if end != nil {
		return stream.Send(&ClientMsg{End: end})
	}
	return nil
}
