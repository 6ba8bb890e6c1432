package fs

import (
	"context"
	"maps"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

// Orphans. An inode whose last name went while it is open somewhere, or whose blocks
// are being freed in steps, stands in the orphan list of the writer that did it, from that very record on.
//
//   - An unlinked inode is freed by the last server that closes it; its slot is cleared by the list's owner, in
//     the same record if that is the one who frees it, else when it next looks and finds the inode gone.
//   - A truncation in steps carries FlagTruncating; whoever next wants to change the file's data finishes it first.
//   - The list of a writer that ended is adopted under LockOrphans+writer, by any server.
type orphans struct {
	mu    sync.Mutex
	pages uint64
	slots map[layout.Orphan]orphanSlot
	free  []orphanSlot
}

type orphanSlot struct {
	page uint64
	slot int
}

// txOrphan is a change of the own list that a tx makes.
type txOrphan struct {
	o     layout.Orphan
	clear bool
	at    orphanSlot
	page  bool // it makes the page
	skip  bool
}

func (o *orphans) init() { o.slots = map[layout.Orphan]orphanSlot{} }

// addOrphan puts the inode on this writer's list with the operation.
func (t *tx) addOrphan(ino uint64, kind layout.OrphanKind) {
	t.orph = append(t.orph, txOrphan{o: layout.Orphan{Ino: ino, Kind: kind}})
}

// clearOrphan takes it off, if it stands on this writer's list.
func (t *tx) clearOrphan(ino uint64, kind layout.OrphanKind) {
	t.orph = append(t.orph, txOrphan{o: layout.Orphan{Ino: ino, Kind: kind}, clear: true})
}

// assign chooses the slots and adds their changes to the record; it returns how many pages it makes.
// The caller holds commitMu.
func (o *orphans) assign(t *tx) (pages int64) {
	if len(t.orph) == 0 {
		return 0
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	writer := uint64(t.ss.be.Clerk.Session().Writer)
	for i := range t.orph {
		c := &t.orph[i]
		at, have := o.slots[c.o]
		if c.skip = have != c.clear; c.skip {
			continue
		}
		if c.clear {
			c.at = at
			t.op.Ranges = append(t.op.Ranges, layout.OrphanSet(writer, at.page, at.slot, layout.Orphan{}))
			continue
		}
		if len(o.free) == 0 {
			c.page = true
			pages++
			header := layout.NewOrphanPage(writer)
			t.op.Ranges = append(t.op.Ranges, wal.Range{Addr: layout.OrphanAddr(writer, o.pages), Data: header[:32]})
			for s := layout.OrphanSlots - 1; s >= 0; s-- {
				o.free = append(o.free, orphanSlot{o.pages, s})
			}
			o.pages++
		}
		c.at = o.free[len(o.free)-1]
		o.free = o.free[:len(o.free)-1]
		t.op.Ranges = append(t.op.Ranges, layout.OrphanSet(writer, c.at.page, c.at.slot, c.o))
	}
	return pages
}

// unassign undoes assign after the log refused the record (which it does for good only).
func (o *orphans) unassign(t *tx) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range t.orph {
		if !c.skip && !c.clear {
			o.free = append(o.free, c.at)
		}
	}
}

// committed notes what assign chose.
func (o *orphans) committed(t *tx, _ wal.Gen) {
	if len(t.orph) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range t.orph {
		switch {
		case c.skip:
		case c.clear:
			delete(o.slots, c.o)
			o.free = append(o.free, c.at)
		default:
			o.slots[c.o] = c.at
		}
	}
}

func (o *orphans) list() []layout.Orphan {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]layout.Orphan, 0, len(o.slots))
	for k := range o.slots {
		out = append(out, k)
	}
	return out
}

// freeWholeBlocks is up to how many blocks an inode is freed in one record; a larger one goes in steps.
const freeWholeBlocks = 65536

// dropInode is called with n locked exclusive, in a tx that took its last link: it frees the inode in this
// record, or makes it an orphan that later is the last step of somebody. later: reap it after the tx.
//
// With keep it is left to the kernel (if there is one) until that forgets it; one that is open is so in any case.
func (t *tx) dropInode(n *node, c *Caller, keep bool) (later bool) {
	in := t.edit(n)
	in.Nlink = 0
	open := t.ss.openAnywhere(n)
	t.known = c != nil && c.Kernel && (keep || open)
	open = open || t.known
	if !open && in.Blocks <= freeWholeBlocks {
		t.free(n)
		t.clearOrphan(n.ino, layout.OrphanUnlinked)
		t.clearOrphan(n.ino, layout.OrphanTruncating)
		return false
	}
	in.Flags |= layout.FlagOrphan
	t.addOrphan(n.ino, layout.OrphanUnlinked)
	return !open
}

func (ss *session) openAnywhere(n *node) bool {
	return ss.s.inUse(n.ino) || ss.be.Clerk.OpenElsewhere(n.id())
}

// reapLater frees an orphan in the background.
func (ss *session) reapLater(ino uint64) {
	ss.spawn(func(ctx context.Context) {
		if err := ss.reap(ctx, ino); err != nil && ctx.Err() == nil {
			ss.s.log.Warn("freeing an unlinked file; it is tried again later", "inode", ino, "err", err)
		}
	})
}

// reap frees inode ino if it has no link and nobody has it open, finishes its truncation if it has one, and
// clears its slots on this writer's list.
func (ss *session) reap(ctx context.Context, ino uint64) error {
	for {
		more, err := ss.reapStep(ctx, ino)
		if err != nil || !more {
			return err
		}
	}
}

// reapStep does one bounded step of reap.
func (ss *session) reapStep(ctx context.Context, ino uint64) (more bool, err error) {
	if err := ss.admit(ctx, admitSmall); err != nil {
		return false, err
	}
	var p pins
	if err := ss.lock(ctx, &p, exclusive(ino)); err != nil {
		return false, err
	}
	defer p.unlock()
	n := p.of(ino)
	t := ss.newTx()
	defer t.done()
	in, err := ss.load(ctx, n)
	switch {
	case errors.Is(err, errors.KindStale):
		t.clearOrphan(ino, layout.OrphanUnlinked)
		t.clearOrphan(ino, layout.OrphanTruncating)
		return false, t.commit(ctx)
	case err != nil:
		return false, err
	case in.Nlink > 0 || in.Flags&layout.FlagOrphan == 0:
		if in.Flags&layout.FlagTruncating != 0 {
			return false, ss.finishTruncate(ctx, n)
		}
		t.clearOrphan(ino, layout.OrphanUnlinked)
		t.clearOrphan(ino, layout.OrphanTruncating)
		return false, t.commit(ctx)
	case ss.openAnywhere(n) || ss.keepsClient(in):
		return false, nil
	}
	if in.Blocks <= freeWholeBlocks {
		t.free(n)
		t.clearOrphan(ino, layout.OrphanUnlinked)
		t.clearOrphan(ino, layout.OrphanTruncating)
		return false, t.commit(ctx)
	}
	if in.Flags&layout.FlagTruncating == 0 {
		e := t.edit(n)
		e.Flags |= layout.FlagTruncating
		e.TrimFrom, e.Size = 0, 0
		if err := t.commit(ctx); err != nil {
			return false, err
		}
	}
	err = ss.finishTruncate(ctx, n)
	return err == nil, err
}

// sweepOrphans looks at once and then every OrphanInterval at this writer's orphans and at retired writers' lists. Such a list
// is adopted at the second look: who had a file open through a server that failed has time to open it through another.
func (ss *session) sweepOrphans(ctx context.Context) {
	tick := time.NewTicker(ss.s.opts.OrphanInterval)
	defer tick.Stop()
	seen := map[blockstore.WriterID]bool{}
	for {
		if err := ss.sweep(ctx, seen); err != nil && ctx.Err() == nil {
			ss.s.log.Warn("looking after orphans; tried again later", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweepOnce is one round of sweepOrphans that adopts every list.
func (ss *session) sweepOnce(ctx context.Context) error { return ss.sweep(ctx, nil) }

// sweep is one round of sweepOrphans. Of the retired writers only those are taken up that the round before has seen, and seen
// are those of this round then; nil: all.
func (ss *session) sweep(ctx context.Context, seen map[blockstore.WriterID]bool) error {
	for _, o := range ss.orph.list() {
		if ss.s.inUse(o.Ino) && !ss.s.unknown(o.Ino) {
			continue
		}
		// Who had it open when the lock was granted may have died since, with nobody left to free it.
		if id := lockserver.LockID(o.Ino); ss.be.Clerk.OpenElsewhere(id) {
			if err := ss.be.Clerk.GiveBack(ctx, id); err != nil {
				return err
			}
		}
		if err := ss.reap(ctx, o.Ino); err != nil {
			return err
		}
	}
	retired, err := ss.be.Store.Retired(ctx)
	if err != nil {
		return err
	}
	before := maps.Clone(seen)
	clear(seen)
	for _, w := range retired {
		if seen != nil && !before[w] {
			seen[w] = true
			continue
		}
		if err := ss.adopt(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// adopt empties the orphan list of a writer that ended, then forgets that writer:
//  1. lock the list, read its pages;
//  2. reap every orphan on it. One that is still open on this server goes over to this writer's own list; one that is
//     open elsewhere too (whoever closes it last frees it, or this sweep);
//  3. trim the pages, flush, ForgetRetired.
func (ss *session) adopt(ctx context.Context, w blockstore.WriterID) error {
	id := lockserver.LockOrphans + lockserver.LockID(w)
	if err := ss.be.Clerk.Acquire(ctx, lockserver.Request{ID: id, Mode: lockserver.Exclusive}); err != nil {
		return err
	}
	pages, err := ss.adoptPages(ctx, w, id)
	ss.be.Clerk.Unpin(id) // before waiting; nothing depends on it any more but work done twice
	if err != nil {
		return err
	}
	if pages > 0 {
		if err := ss.flush(ctx, 0); err != nil {
			return err
		}
	}
	return ss.be.Store.ForgetRetired(ctx, w)
}

func (ss *session) adoptPages(ctx context.Context, w blockstore.WriterID, id lockserver.LockID) (pages uint64, err error) {
	for {
		block, err := ss.fetchBlock(ctx, layout.OrphanAddr(uint64(w), pages), ss.minIndex(id))
		if err != nil {
			return 0, err
		}
		list, err := layout.DecodeOrphans(uint64(w), block)
		if errors.Is(err, errors.KindNotExist) {
			break
		}
		if err != nil {
			return 0, err
		}
		pages++
		for _, o := range list {
			if o.Ino == 0 {
				continue
			}
			if err := ss.inherit(ctx, o); err != nil {
				return 0, err
			}
		}
	}
	if pages == 0 {
		return 0, nil
	}
	t := ss.newTx()
	defer t.done()
	t.trims = append(t.trims, txTrim{span: wal.Span{VDisk: layout.OrphanAddr(uint64(w), 0).VDisk, Block: 0, Count: pages}})
	t.delta -= int64(pages)
	return pages, t.commit(ctx)
}

// inherit puts an orphan of another list on this writer's, unless it needs nothing any more, and reaps it.
func (ss *session) inherit(ctx context.Context, o layout.Orphan) error {
	err := ss.do1(ctx, exclusive(o.Ino), func(n *node) error {
		in, err := ss.load(ctx, n)
		if errors.Is(err, errors.KindStale) {
			return nil
		}
		if err != nil {
			return err
		}
		if in.Flags&(layout.FlagOrphan|layout.FlagTruncating) == 0 {
			return nil
		}
		t := ss.newTx()
		defer t.done()
		t.addOrphan(o.Ino, o.Kind)
		return t.commit(ctx)
	})
	if err != nil {
		return err
	}
	return ss.reap(ctx, o.Ino)
}

// do1 runs f with one inode locked, nothing else held.
func (ss *session) do1(ctx context.Context, u use, f func(n *node) error) error {
	var p pins
	if err := ss.lock(ctx, &p, u); err != nil {
		return err
	}
	defer p.unlock()
	return f(p.of(u.ino))
}
