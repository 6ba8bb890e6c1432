package fs

import (
	"context"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// space is the session's reservation of blocks and its stock of inode numbers.
//
// Invariant: blocks <= what the state machine has reserved for this writer, less
// what its pending records will use. A record uses max(0, the sum of its operations' deltas), and
// one generation is one record, so gen and genSum give back what a sum that fell
// does not use after all.
type space struct {
	mu     sync.Mutex
	blocks int64
	gen    wal.Gen
	genSum int64
	// refilling: a Reserve in the background is under way.
	refilling bool
	// scarceUntil: the store was full a moment ago, so only what is needed is asked for.
	scarceUntil time.Time

	inodes      []blockstore.InodeRange
	inodeRefill bool
	inodeTurn   chan struct{} // holds one token: who has it takes inode numbers for all in the foreground
}

// scarceFor is how long a full store is remembered.
const scarceFor = 2 * time.Second

// reserve takes n blocks out of the reservation, asking for more as needed. KindNoSpace.
func (ss *session) reserve(ctx context.Context, n int64) error {
	if n <= 0 {
		return nil
	}
	sp, batch := &ss.space, int64(ss.s.opts.ReserveBatch)
	if sp.take(n) {
		ss.refillSpace(batch)
		return nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	if !ss.space.isScarce() {
		if err := ss.be.Store.Reserve(bctx, uint64(n+batch)); err == nil {
			sp.give(batch)
			return nil
		} else if !errors.Is(err, errors.KindNoSpace) {
			return ss.waited(ctx, err, "reserving space")
		}
	}
	// Before an ENOSPC: what is pending may free blocks, and of what is reserved here only the missing part is asked for.
	if err := ss.be.Log.Flush(bctx, 0); err != nil {
		return ss.waited(ctx, err, "flushing before the store is called full")
	}
	sp.mu.Lock()
	sp.scarceUntil = time.Now().Add(scarceFor)
	have := min(sp.blocks, n)
	sp.blocks -= have
	sp.mu.Unlock()
	if have == n {
		return nil
	}
	if err := ss.be.Store.Reserve(bctx, uint64(n-have)); err != nil {
		sp.give(have)
		if errors.Is(err, errors.KindNoSpace) {
			return errors.New(errors.KindNoSpace, "the block store is full: remove files or add capacity")
		}
		return ss.waited(ctx, err, "reserving space")
	}
	return nil
}

func (sp *space) take(n int64) bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.blocks < n {
		return false
	}
	sp.blocks -= n
	return true
}

func (sp *space) give(n int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.blocks += n
}

func (sp *space) isScarce() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return time.Now().Before(sp.scarceUntil)
}

// account settles an operation of delta, committed in gen, for which `taken` blocks were
// taken. The caller holds commitMu, so generations come in order.
func (sp *space) account(gen wal.Gen, delta, taken int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if gen != sp.gen {
		sp.gen, sp.genSum = gen, 0
	}
	before := max(0, sp.genSum)
	sp.genSum += delta
	sp.blocks += taken - (max(0, sp.genSum) - before)
	if delta < 0 {
		sp.scarceUntil = time.Time{}
	}
}

// refillSpace reserves in the background when the stock runs low.
func (ss *session) refillSpace(batch int64) {
	sp := &ss.space
	sp.mu.Lock()
	low := sp.blocks < batch/2 && !sp.refilling && !time.Now().Before(sp.scarceUntil)
	if low {
		sp.refilling = true
	}
	sp.mu.Unlock()
	if !low {
		return
	}
	ss.spawn(func(ctx context.Context) {
		err := ss.be.Store.Reserve(ctx, uint64(batch))
		sp.mu.Lock()
		defer sp.mu.Unlock()
		sp.refilling = false
		if err == nil {
			sp.blocks += batch
		} else if errors.Is(err, errors.KindNoSpace) {
			sp.scarceUntil = time.Now().Add(scarceFor)
		}
	})
}

// newInode takes a fresh inode number. A number that is not used in the end is
// given back with keepInode.
func (ss *session) newInode(ctx context.Context) (uint64, error) {
	sp := &ss.space
	for {
		ino, left := sp.nextInode()
		if left < ss.s.opts.InodeBatch/2 {
			ss.refillInodes(ctx, ino == 0)
		}
		if ino != 0 {
			return ino, nil
		}
		if err := ss.takeInodes(ctx); err != nil {
			return 0, err
		}
	}
}

func (sp *space) nextInode() (ino, left uint64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for _, r := range sp.inodes {
		left += r.Count
	}
	if left == 0 {
		return 0, 0
	}
	r := &sp.inodes[0]
	ino = r.First
	r.First++
	if r.Count--; r.Count == 0 {
		sp.inodes = sp.inodes[1:]
	}
	return ino, left - 1
}

// keepInode puts an unused number back.
func (ss *session) keepInode(ino uint64) {
	sp := &ss.space
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if len(sp.inodes) > 0 && sp.inodes[0].First == ino+1 {
		sp.inodes[0].First--
		sp.inodes[0].Count++
		return
	}
	sp.inodes = append([]blockstore.InodeRange{{First: ino, Count: 1}}, sp.inodes...)
}

func (ss *session) refillInodes(_ context.Context, foreground bool) {
	sp := &ss.space
	sp.mu.Lock()
	start := !sp.inodeRefill && !foreground
	if start {
		sp.inodeRefill = true
	}
	sp.mu.Unlock()
	if start {
		ss.spawn(func(ctx context.Context) {
			if err := ss.fetchInodes(ctx); err != nil {
				ss.s.log.Warn("taking inode numbers in advance", "err", err)
			}
			sp.mu.Lock()
			sp.inodeRefill = false
			sp.mu.Unlock()
		})
	}
}

// takeInodes is the foreground refill; one caller does it for all.
func (ss *session) takeInodes(ctx context.Context) error {
	sp := &ss.space
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	select {
	case sp.inodeTurn <- struct{}{}:
		defer func() { <-sp.inodeTurn }()
	case <-bctx.Done():
		return ss.waited(ctx, bctx.Err(), "taking inode numbers")
	}
	sp.mu.Lock()
	have := len(sp.inodes) > 0
	sp.mu.Unlock()
	if have {
		return nil
	}
	return ss.waited(ctx, ss.fetchInodes(bctx), "taking inode numbers")
}

func (ss *session) fetchInodes(ctx context.Context) error {
	r, err := ss.be.Store.TakeInodes(ctx, ss.s.opts.InodeBatch)
	if err != nil {
		return err
	}
	ss.be.Clerk.OwnInodes(r)
	ss.space.mu.Lock()
	defer ss.space.mu.Unlock()
	ss.space.inodes = append(ss.space.inodes, r)
	return nil
}

// StatFS tells sizes from the store's count.
func (s *Server) StatFS(ctx context.Context) (StatFS, error) {
	var out StatFS
	err := s.do(ctx, func(ss *session) error {
		bctx, cancel := ss.bound(ctx)
		defer cancel()
		sp, err := ss.be.Store.Space(bctx)
		if err != nil {
			return ss.waited(ctx, err, "asking for the space")
		}
		used := min(sp.CapacityBlocks, sp.UsedBlocks)
		free := sp.CapacityBlocks - used
		// What writers reserved is not free to others; what this one reserved is.
		ss.space.mu.Lock()
		own := uint64(max(0, ss.space.blocks))
		ss.space.mu.Unlock()
		avail := free - min(free, sp.ReservedBlocks-min(sp.ReservedBlocks, own))
		out = StatFS{Blocks: sp.CapacityBlocks, Free: free, Avail: avail, Files: sp.CapacityBlocks, FilesFree: avail}
		return nil
	})
	return out, err
}
