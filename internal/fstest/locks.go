package fstest

import (
	"context"
	"slices"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// Locks is a lock service that the clerks of several file servers share. Grants are FIFO for
// each lock; a conflicting holder is revoked as the real clerk does it: PrepareRevoke, then, without pins, Revoke.
type Locks struct {
	mu     sync.Mutex
	locks  map[lockserver.LockID]*lockState
	files  []fileLock
	owners []*Clerk // of inode ranges
	// revokes counts the revokes sent.
	revokes int
}

type lockState struct {
	holders map[*Clerk]*holding
	queue   []*request
	index   uint64          // greatest release index
	open    map[*Clerk]bool // who told at a release that it has the inode open
}

type holding struct {
	mode     lockserver.Mode
	pins     int
	revoking bool // no new pins
	asked    bool // a revoke goroutine runs
	to       lockserver.Mode
	idle     chan struct{}
	// elsewhere: another had told, when it was granted, that it has the inode open.
	elsewhere bool
}

type request struct {
	c    *Clerk
	mode lockserver.Mode
	got  chan struct{}
	done bool
}

// NewLocks makes an empty lock service.
func NewLocks() *Locks { return &Locks{locks: map[lockserver.LockID]*lockState{}} }

// Revokes tells how many revokes were sent so far.
func (t *Locks) Revokes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.revokes
}

// Clerk is one file server's lockserver.Clerk.
type Clerk struct {
	t      *Locks
	store  *Store
	holder lockserver.Holder
	ranges []blockstore.InodeRange
	given  map[lockserver.LockID]bool // of the ranges: not implicit any more
	ended  bool
	lease  func() time.Duration
}

var _ lockserver.Clerk = (*Clerk)(nil)

// NewClerk makes a clerk for the session of store; holder is told of revokes.
func (t *Locks) NewClerk(store *Store, holder lockserver.Holder) *Clerk {
	return &Clerk{t: t, store: store, holder: holder, given: map[lockserver.LockID]bool{}}
}

// SetLease replaces LeaseLeft (nil: always an hour).
func (c *Clerk) SetLease(f func() time.Duration) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.lease = f
}

// End ends the session: its writer is fenced, its locks are free, the holder is told.
func (c *Clerk) End(cause error) {
	c.store.Fence()
	c.t.mu.Lock()
	c.ended = true
	c.store.d.mu.Lock()
	index := c.store.d.index
	c.store.d.mu.Unlock()
	for id, st := range c.t.locks {
		delete(st.open, c)
		st.index = max(st.index, index)
		if h := st.holders[c]; h != nil {
			delete(st.holders, c)
			if h.idle != nil {
				close(h.idle)
				h.idle = nil
			}
		}
		c.t.grant(id, st)
	}
	c.t.files = slices.DeleteFunc(c.t.files, func(f fileLock) bool { return f.c == c })
	c.t.mu.Unlock()
	c.holder.SessionEnded(cause)
}

func (t *Locks) state(id lockserver.LockID) *lockState {
	st := t.locks[id]
	if st == nil {
		st = &lockState{holders: map[*Clerk]*holding{}, open: map[*Clerk]bool{}}
		t.locks[id] = st
	}
	return st
}

// own makes an implicitly held lock an explicit one.
func (c *Clerk) own(id lockserver.LockID) {
	if id.Fixed() || c.given[id] {
		return
	}
	for _, r := range c.ranges {
		if uint64(id) >= r.First && uint64(id)-r.First < r.Count {
			c.given[id] = true
			st := c.t.state(id)
			if len(st.holders) != 0 {
				panic("fstest: an inode of a fresh range is held by another")
			}
			st.holders[c] = &holding{mode: lockserver.Exclusive}
		}
	}
}

// ownAll materializes implicit locks of all clerks that own id.
func (t *Locks) ownAll(id lockserver.LockID, clerks ...*Clerk) {
	for _, c := range clerks {
		c.own(id)
	}
}

// Acquire pins locks, one after another in the agreed order.
func (c *Clerk) Acquire(ctx context.Context, reqs ...lockserver.Request) error {
	reqs = slices.Clone(reqs)
	slices.SortStableFunc(reqs, func(a, b lockserver.Request) int {
		if a.ID.Before(b.ID) {
			return -1
		} else if b.ID.Before(a.ID) {
			return 1
		}
		return int(b.Mode) - int(a.Mode)
	})
	reqs = slices.CompactFunc(reqs, func(a, b lockserver.Request) bool { return a.ID == b.ID })
	for i, r := range reqs {
		if err := c.acquire(ctx, r); err != nil {
			for _, q := range reqs[:i] {
				c.Unpin(q.ID)
			}
			return err
		}
	}
	return nil
}

func (c *Clerk) acquire(ctx context.Context, r lockserver.Request) error {
	c.t.mu.Lock()
	if c.ended {
		c.t.mu.Unlock()
		return errors.Of(errors.KindSessionEnded)
	}
	if c.tryLocked(r) {
		c.t.mu.Unlock()
		return nil
	}
	st := c.t.state(r.ID)
	q := &request{c: c, mode: r.Mode, got: make(chan struct{})}
	st.queue = append(st.queue, q)
	c.t.grant(r.ID, st)
	c.t.mu.Unlock()
	select {
	case <-q.got:
	case <-ctx.Done():
		c.t.mu.Lock()
		if !q.done {
			defer c.t.mu.Unlock()
			st.queue = slices.DeleteFunc(st.queue, func(x *request) bool { return x == q })
			c.t.grant(r.ID, st)
			return errors.New(errors.KindOf(ctx.Err()), "waiting for lock %d: %w", r.ID, ctx.Err())
		}
		c.t.mu.Unlock()
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if c.ended {
		return errors.Of(errors.KindSessionEnded)
	}
	return nil
}

// tryLocked pins a lock that is held and not being revoked.
func (c *Clerk) tryLocked(r lockserver.Request) bool {
	if c.ended {
		return false
	}
	c.own(r.ID)
	st := c.t.state(r.ID)
	h := st.holders[c]
	if h == nil || h.mode < r.Mode || h.revoking && r.Mode > h.to {
		return false
	}
	h.pins++
	return true
}

// TryAcquire pins without waiting.
func (c *Clerk) TryAcquire(r lockserver.Request) bool {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	return c.tryLocked(r)
}

// Unpin undoes an Acquire.
func (c *Clerk) Unpin(ids ...lockserver.LockID) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	for _, id := range ids {
		h := c.t.state(id).holders[c]
		if h == nil {
			if c.ended {
				continue
			}
			panic("fstest: unpin of a lock that is not held")
		}
		if h.pins--; h.pins < 0 {
			panic("fstest: unpin of a lock without pins")
		}
		if h.pins == 0 && h.idle != nil {
			close(h.idle)
			h.idle = nil
		}
	}
}

// grant gives the lock to the requests at the head that fit, and revokes what is in the way of the next.
func (t *Locks) grant(id lockserver.LockID, st *lockState) {
	for len(st.queue) > 0 {
		q := st.queue[0]
		if q.c.ended {
			q.done = true
			close(q.got)
			st.queue = st.queue[1:]
			continue
		}
		t.ownAll(id, t.clerksOf(id)...)
		own, blocked := st.holders[q.c], false
		if own != nil && own.revoking {
			blocked = true
		}
		for c, h := range st.holders {
			if c != q.c && (q.mode == lockserver.Exclusive || h.mode == lockserver.Exclusive) {
				blocked = true
				to := lockserver.None
				if q.mode == lockserver.Shared {
					to = lockserver.Shared
				}
				t.revoke(id, c, h, to)
			}
		}
		if blocked {
			return
		}
		if own == nil {
			own = &holding{}
			st.holders[q.c] = own
		}
		own.mode = max(own.mode, q.mode)
		delete(st.open, q.c)
		own.elsewhere = len(st.open) > 0
		own.pins++
		q.done = true
		close(q.got)
		st.queue = st.queue[1:]
	}
}

// clerks known by their ranges.
func (t *Locks) clerksOf(id lockserver.LockID) []*Clerk {
	var out []*Clerk
	for _, c := range t.owners {
		for _, r := range c.ranges {
			if uint64(id) >= r.First && uint64(id)-r.First < r.Count && !c.ended {
				out = append(out, c)
			}
		}
	}
	return out
}

func (t *Locks) revoke(id lockserver.LockID, c *Clerk, h *holding, to lockserver.Mode) {
	if h.asked {
		return
	}
	h.asked = true
	t.revokes++
	go func() {
		if p, ok := c.holder.(lockserver.RevokePreparer); ok {
			p.PrepareRevoke(id, to)
		}
		t.mu.Lock()
		h.revoking, h.to = true, to
		for h.pins > 0 && !c.ended {
			idle := make(chan struct{})
			h.idle = idle
			t.mu.Unlock()
			<-idle
			t.mu.Lock()
		}
		ended := c.ended
		t.mu.Unlock()
		if ended {
			return
		}
		index, open, err := c.holder.Revoke(id, to)
		t.mu.Lock()
		defer t.mu.Unlock()
		if c.ended || err != nil {
			return
		}
		st := t.state(id)
		st.index = max(st.index, index)
		h.revoking, h.asked, h.mode = false, false, to
		if to == lockserver.None {
			delete(st.holders, c)
			if delete(st.open, c); open {
				st.open[c] = true
			}
		}
		t.grant(id, st)
	}()
}

// Held tells the mode held now.
func (c *Clerk) Held(id lockserver.LockID) lockserver.Mode {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.own(id)
	if st := c.t.locks[id]; st != nil && st.holders[c] != nil {
		return st.holders[c].mode
	}
	return lockserver.None
}

// MinIndex is the greatest release index.
func (c *Clerk) MinIndex(id lockserver.LockID) uint64 {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if st := c.t.locks[id]; st != nil {
		return st.index
	}
	return 0
}

// LeaseLeft is an hour, or what SetLease says.
func (c *Clerk) LeaseLeft() time.Duration {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if c.ended {
		return 0
	}
	if c.lease != nil {
		return c.lease()
	}
	return time.Hour
}

// WaitLease polls the lease.
func (c *Clerk) WaitLease(ctx context.Context) error {
	for {
		if c.LeaseLeft() > 0 {
			return nil
		}
		c.t.mu.Lock()
		ended := c.ended
		c.t.mu.Unlock()
		if ended {
			return errors.Of(errors.KindSessionEnded)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// OwnInodes notes a fresh range.
func (c *Clerk) OwnInodes(r blockstore.InodeRange) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	c.ranges = append(c.ranges, r)
	if !slices.Contains(c.t.owners, c) {
		c.t.owners = append(c.t.owners, c)
	}
}

// OpenElsewhere tells what other clerks had told, when the lock was granted, as they released it.
func (c *Clerk) OpenElsewhere(id lockserver.LockID) bool {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	h := c.t.state(id).holders[c]
	return h != nil && h.elsewhere
}

// GiveBack lets the lock go.
func (c *Clerk) GiveBack(ctx context.Context, id lockserver.LockID) error {
	c.t.mu.Lock()
	st := c.t.state(id)
	h := st.holders[c]
	c.t.mu.Unlock()
	for {
		c.t.mu.Lock()
		gone := h == nil || st.holders[c] != h || c.ended
		if !gone {
			c.t.revoke(id, c, h, lockserver.None)
		}
		c.t.mu.Unlock()
		if gone {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New(errors.KindOf(ctx.Err()), "giving lock %d back: %w", id, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// Session names the writer.
func (c *Clerk) Session() blockstore.Session { return c.store.session }

// Epoch is always 1.
func (c *Clerk) Epoch() blockstore.Epoch { return 1 }

// Close ends the session without telling the holder.
func (c *Clerk) Close(ctx context.Context) error {
	c.store.Fence()
	return nil
}
