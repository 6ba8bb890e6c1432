package lockserver

import (
	"container/list"
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Transport finds the leader and opens a stream to it. The stream ends with
// ctx at the latest. What went wrong on a stream is told to it by Failed.
type Transport interface {
	Dial(ctx context.Context) (ClientStream, error)
}

// ClientStream is a client's end of one stream. Recv and Send may each be
// called by one goroutine. Close may be called at any time and ends both.
type ClientStream interface {
	Send(*ClientMsg) error
	Recv() (*ServerMsg, error)
	// Close gives the stream up; why is nil or what was wrong with it.
	Close(why error)
}

// Mover is a ClientStream that can tell whether it leads to the leader still. It may wait, until ctx ends at the latest.
type Mover interface {
	Moved(ctx context.Context) bool
}

// ClerkOptions of a SessionClerk; zero fields take the defaults.
type ClerkOptions struct {
	Name string        // for people: host and mount point
	TTL  time.Duration // the lease asked for; 0: the server's default
	// Holder may be set later by SetHolder, but before the first Acquire.
	Holder Holder
	// OnEpoch is called with each new epoch when the session has been attached to it and before it
	// claims its locks there: from then on records must carry it. May be set later by SetOnEpoch.
	OnEpoch func(blockstore.Epoch)
	// KeepAliveEvery is the pause between keep-alives: default 1s, never more than a third of the lease.
	KeepAliveEvery time.Duration
	// SilenceMax is how long a stream may bring nothing before another is opened: default 2s.
	SilenceMax time.Duration
	// LocksMax bounds the locks kept; beyond it those not used for long are given back. Default 200,000.
	LocksMax int
	// DeadlockAfter is after how long a wait that a shared pin of this session may be
	// keeping up ends with KindDeadlock: default 10s.
	DeadlockAfter time.Duration
	// MinHold is how long after its grant a lock that is in use when it is asked back is kept, so that a busy
	// session gets some work done with each hand-over (see linger); one that is not in use is given up at once. Default 10ms.
	MinHold time.Duration
	// Clock tells CLOCK_BOOTTIME; nil is the kernel's. (Tests set their own.)
	Clock  func() time.Duration
	Logger *slog.Logger
}

// Validate fills in the defaults and refuses what cannot work (KindInvalid).
func (o *ClerkOptions) Validate() error {
	setDefault(&o.KeepAliveEvery, time.Second)
	setDefault(&o.SilenceMax, 2*time.Second)
	setDefault(&o.LocksMax, 200_000)
	setDefault(&o.DeadlockAfter, 10*time.Second)
	setDefault(&o.MinHold, 10*time.Millisecond)
	if o.Clock == nil {
		o.Clock = bootTime
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.TTL < 0 || o.KeepAliveEvery < 0 || o.SilenceMax < 0 || o.MinHold < 0 || o.LocksMax < 1 || len(o.Name) > nameBytesMax {
		return errors.New(errors.KindInvalid, "lock clerk options: negative times, LocksMax below 1, or a name of more than %d bytes", nameBytesMax)
	}
	return nil
}

// bootTime is CLOCK_BOOTTIME: it goes on while the machine is suspended.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("lockserver: no CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// SessionClerk is the Clerk of one session.
//
// A lock is in one of these states, of which only the first lets pins of its
// mode through without a message:
//
//	held -> (Revoke arrives) lingering: while it is in use, for a bounded time
//	     -> preparing: Holder.PrepareRevoke, pins as before
//	     -> draining: no new pins, until those there are gone
//	     -> running: Holder.Revoke; pins up to the mode that remains
//	     -> released: told to the server, or by the next claims
//
// Lock order: mu alone. Holder, OnEpoch, transport are never called with it.
type SessionClerk struct {
	o      ClerkOptions
	t      Transport
	stop   context.CancelFunc
	ctx    context.Context // ends with Close or the session
	wg     sync.WaitGroup
	wake   chan struct{} // to the sender: out has something
	joined chan struct{} // closed at the first attach

	leaseEnd atomic.Int64 // by Clock; 0: none

	mu      sync.Mutex
	holder  Holder
	onEpoch func(blockstore.Epoch)
	ses     blockstore.Session
	ttl     time.Duration
	epoch   blockstore.Epoch
	newest  uint64 // greatest grant number seen in epoch
	conn    *connection
	out     ClientMsg // collects for conn; only while that is attached
	lease   leaseState
	closing bool
	ended   error // final
	done    chan struct{}

	table clerkTable
	files clerkFiles
}

// leaseState is what the clerk knows of its lease besides its end.
type leaseState struct {
	seq     uint64                   // of the last keep-alive
	sent    map[uint64]time.Duration // when those not answered yet were sent
	changed chan struct{}            // closed and made anew when the lease is renewed or the session ends
	expired bool                     // LeaseExpired was called since the last renewal
}

// clerkTable is what the session holds.
type clerkTable struct {
	locks  map[LockID]*clerkLock
	held   list.List // of *clerkLock held by an explicit grant, least lately used first (roughly)
	ranges []*heldRange
	early  map[LockID]struct{} // given up out of a range that OwnInodes has not told yet
	floor  uint64
	evicts int // evictions under way
	habits map[LockID]habit
}

// NewClerk makes a clerk with a random token; Start opens the session.
func NewClerk(t Transport, o ClerkOptions) (*SessionClerk, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	c := &SessionClerk{o: o, t: t, holder: o.Holder, onEpoch: o.OnEpoch, wake: make(chan struct{}, 1),
		joined: make(chan struct{}), done: make(chan struct{})}
	if _, err := rand.Read(c.ses.Token[:]); err != nil {
		return nil, errors.New(errors.KindIO, "no random numbers for the session's token: %w", err)
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.lease = leaseState{sent: map[uint64]time.Duration{}, changed: make(chan struct{})}
	c.table.locks, c.table.early, c.table.habits = map[LockID]*clerkLock{}, map[LockID]struct{}{}, map[LockID]habit{}
	c.files.init()
	return c, nil
}

var _ Clerk = (*SessionClerk)(nil)

// SetHolder sets the holder; before the first Acquire.
func (c *SessionClerk) SetHolder(h Holder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holder = h
}

// SetOnEpoch sets the callback for epochs and calls it with the current one, if any.
func (c *SessionClerk) SetOnEpoch(f func(blockstore.Epoch)) {
	c.mu.Lock()
	c.onEpoch = f
	epoch := c.epoch
	c.mu.Unlock()
	if epoch != 0 {
		f(epoch)
	}
}

// Start opens the session and returns when it is attached and its lease
// lives, or with ctx's or the session's error; then everything has stopped.
func (c *SessionClerk) Start(ctx context.Context) error {
	c.wg.Go(c.run)
	c.wg.Go(c.watchLease)
	err := c.WaitLease(ctx)
	if err != nil {
		c.abandon()
		return errors.New(errors.KindOf(err), "no session with the lock service: %w", err)
	}
	return nil
}

// abandon stops everything without a word to the server.
func (c *SessionClerk) abandon() {
	c.mu.Lock()
	c.finishLocked(errors.New(errors.KindSessionEnded, "the session is closed"))
	c.mu.Unlock()
	c.stop()
	c.wg.Wait()
}

// finishLocked ends the session for everyone who waits. It reports whether it did.
func (c *SessionClerk) finishLocked(cause error) bool {
	if c.ended != nil {
		return false
	}
	c.ended = cause
	c.leaseEnd.Store(0)
	close(c.done)
	close(c.lease.changed)
	c.lease.changed = make(chan struct{})
	for _, l := range c.table.locks {
		for _, w := range l.waiters {
			w.finish(cause)
		}
		l.waiters = nil
	}
	c.files.fail(cause)
	return true
}

// end is the end of the session by the server: final.
func (c *SessionClerk) end(cause error) {
	cause = errors.New(errors.KindSessionEnded, "lock session %d is over: %w", c.Session().Writer, cause)
	c.mu.Lock()
	first := c.finishLocked(cause)
	tell := first && !c.closing
	h := c.holder
	c.mu.Unlock()
	c.stop()
	if tell {
		c.o.Logger.Error("the lock session is over: caches are void, dirty data is lost", "cause", cause)
		if h != nil {
			h.SessionEnded(cause)
		}
	}
}

// Session names the writer.
func (c *SessionClerk) Session() blockstore.Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ses
}

// Epoch is the epoch attached to last.
func (c *SessionClerk) Epoch() blockstore.Epoch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.epoch
}

// LeaseLeft looks at the clock now.
func (c *SessionClerk) LeaseLeft() time.Duration {
	end := c.leaseEnd.Load()
	if end == 0 {
		return 0
	}
	return time.Duration(end) - c.o.Clock()
}

// WaitLease waits for a live lease.
func (c *SessionClerk) WaitLease(ctx context.Context) error {
	for {
		c.mu.Lock()
		changed, ended := c.lease.changed, c.ended
		c.mu.Unlock()
		if ended != nil {
			return ended
		}
		if c.LeaseLeft() > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New(errors.KindOf(ctx.Err()), "waiting for the lock service's lease: %w", ctx.Err())
		}
	}
}

// margin is kept between the lease as counted here and as counted there: for
// clocks that run at different speeds.
func margin(ttl time.Duration) time.Duration { return ttl / 10 }

// renewedLocked counts the lease from the sending of keep-alive seq. It
// reports whether the lease had run out unnoticed.
func (c *SessionClerk) renewedLocked(seq uint64) (unnoticed bool) {
	sent, ok := c.lease.sent[seq]
	if !ok || c.ended != nil || c.closing && c.leaseEnd.Load() == 0 {
		return false
	}
	for s := range c.lease.sent {
		if s <= seq {
			delete(c.lease.sent, s)
		}
	}
	old := c.leaseEnd.Load()
	unnoticed = old != 0 && time.Duration(old) <= c.o.Clock() && !c.lease.expired
	c.leaseEnd.Store(max(old, int64(sent+c.ttl-margin(c.ttl))))
	c.lease.expired = false
	close(c.lease.changed)
	c.lease.changed = make(chan struct{})
	return unnoticed
}

// watchLease calls LeaseExpired when the lease has run out.
func (c *SessionClerk) watchLease() {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		c.mu.Lock()
		changed := c.lease.changed
		c.mu.Unlock()
		select {
		case <-c.done:
			return
		case <-c.ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
		if c.leaseEnd.Load() == 0 {
			continue
		}
		if left := c.LeaseLeft(); left > 0 {
			t.Reset(min(left, 500*time.Millisecond)) // the timer does not see a suspended machine
			continue
		}
		c.mu.Lock()
		tell := !c.lease.expired && c.ended == nil && !c.closing
		c.lease.expired = true
		h := c.holder
		c.mu.Unlock()
		if tell {
			c.o.Logger.Warn("the lock lease ran out: nothing is served from caches until it is back")
			if h != nil {
				h.LeaseExpired()
			}
		}
	}
}
