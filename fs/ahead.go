package fs

import (
	"context"
	"slices"
	"sync"
	"time"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// Children used one after the other. Who removes, looks up or opens many names of a directory does so in the order of its
// listing or, mostly, in that in which they were made, which is that of their inode numbers. A child that is not at hand costs a
// question to the store, and its lock another; where a few in a row went on where the one before was, those that
// come next are fetched with it: all their locks in one message, all their inodes in one read.
const (
	// aheadRuns is how many misses in a row must go on where the one before was.
	aheadRuns = 2
	// aheadFirst and aheadMost are how many children are fetched at first and at most.
	aheadFirst, aheadMost = 16, 64
	// aheadSlack is how far an inode number may be from where it is expected: other inodes stand between.
	aheadSlack = 16
	// aheadWait bounds a fetch: one by one it may go on where another replica is needed.
	aheadWait = 2 * time.Second
	// aheadRemovals is for how many more fetches a removal makes children be locked as removals need them.
	aheadRemovals = 4
)

// ahead is what a directory's node knows of it.
type ahead struct {
	mu         sync.Mutex
	byPosition sequences
	byIno      sequences
	removals   int
	busy       chan struct{} // closed when the fetch under way ends
}

// sequences follow the misses in one order, the last used first: several tasks may share the work, each at a place of its own.
type sequences [4]sequence

type sequence struct {
	from, next uint64 // what was missed or fetched last: [from, next); the next one is expected behind it
	run        int    // misses in a row that were where they were expected
}

// miss notes one at that place. It reports whether what is there is fetched already, or about to be.
func (q *sequences) miss(at, slack uint64) (fetched bool) {
	i := slices.IndexFunc(q[:], func(s sequence) bool { return at >= s.from && at <= s.next+slack && s.next > 0 })
	s := sequence{from: at, next: at + 1}
	switch {
	case i < 0:
		i = len(q) - 1 // gone
	case at < q[i].next:
		return true
	default:
		s.run = q[i].run + 1
	}
	copy(q[1:], q[:i])
	q[0] = s
	return false
}

// count is how many children are to be fetched for the last miss; 0: none but the one that is missed.
func (q *sequences) count() int {
	if q[0].run < aheadRuns {
		return 0
	}
	return min(aheadFirst<<min(q[0].run-aheadRuns, 8), aheadMost)
}

// aheadOf is the directory's, made if need be.
func (n *node) aheadOf() *ahead {
	if a := n.ahead.Load(); a != nil {
		return a
	}
	n.ahead.CompareAndSwap(nil, new(ahead))
	return n.ahead.Load()
}

// removed notes that a name of the directory was removed.
func (a *ahead) removed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.removals = aheadRemovals
}

// childAtHand reports whether nothing has to be asked for to use an inode in that mode.
func (ss *session) childAtHand(ino uint64, mode lockserver.Mode) bool {
	if ss.be.Clerk.Held(lockserver.LockID(ino)) < mode {
		return false
	}
	t := &ss.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	return n != nil && n.in.Load() != nil
}

// fetchAhead is told of a name whose inode is not at hand. Nothing is locked. It fetches the inode and others with it if that goes on
// where the misses before were, and nothing otherwise.
func (ss *session) fetchAhead(ctx context.Context, dir uint64, name string, mode lockserver.Mode) error {
	if ss.nodes.limit < 2*aheadMost {
		return nil // a cache so small would lose them before they are used
	}
	var batch []DirEntry
	var index uint64
	var a *ahead
	err := ss.do1(ctx, shared(dir), func(n *node) error {
		t := ss.newTx()
		defer t.done()
		d, err := ss.openDir(ctx, t, n)
		if err != nil {
			return err
		}
		e, err := d.Lookup(name)
		if err != nil {
			return err
		}
		a, index = n.aheadOf(), ss.minIndex(n.id())
		batch, err = a.choose(d, e)
		return err
	})
	if errors.Is(err, errors.KindNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	err = a.once(ctx, len(batch) > 0, func() error {
		wctx, cancel := context.WithTimeout(ctx, aheadWait)
		defer cancel()
		return ss.warmInodes(wctx, batch, max(mode, a.mode()), index)
	})
	if isSessionEnd(err) || ctx.Err() != nil {
		return err
	}
	return nil // what could not be fetched is told to who needs it
}

// choose notes a miss and returns what to fetch.
func (a *ahead) choose(d *layout.Dir, e layout.Entry) (batch []DirEntry, err error) {
	listed, numbered := a.miss(d, e)
	if listed == 0 {
		for i := range numbered {
			batch = append(batch, DirEntry{Ino: Ino(e.Ino + uint64(i))})
		}
		return batch, nil
	}
	next := e.Cookie + 1
	err = d.Iterate(e.Cookie-1, func(e layout.Entry) bool {
		batch = append(batch, DirEntry{Name: e.Name, Ino: Ino(e.Ino)})
		next = e.Cookie + 1
		return len(batch) < listed
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := &a.byPosition[0]; s.from == e.Cookie {
		s.next = next
	}
	return batch, err
}

// miss tells how many children are to be fetched from this one on: as they are listed (they are in the directory for certain), or as they are numbered.
func (a *ahead) miss(d *layout.Dir, e layout.Entry) (listed, numbered int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fetched := a.byPosition.miss(e.Cookie, d.BucketWidth()/4)
	if fetched = a.byIno.miss(e.Ino, aheadSlack) || fetched; fetched {
		return 0, 0
	}
	if listed = a.byPosition.count(); listed > 0 {
		return listed, 0
	}
	if numbered = a.byIno.count(); numbered > 0 {
		a.byIno[0].next = e.Ino + uint64(numbered)
	}
	return 0, numbered
}

// mode is that in which children are locked ahead.
func (a *ahead) mode() lockserver.Mode {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.removals == 0 {
		return lockserver.Shared
	}
	a.removals--
	return lockserver.Exclusive
}

// once calls fetch, if there is anything to be fetched, or waits for the one under way, which most likely fetches what is missed.
func (a *ahead) once(ctx context.Context, some bool, fetch func() error) error {
	a.mu.Lock()
	if busy := a.busy; busy != nil {
		a.mu.Unlock()
		select {
		case <-busy:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !some {
		a.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	a.busy = done
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.busy = nil
		close(done)
	}()
	return fetch()
}
