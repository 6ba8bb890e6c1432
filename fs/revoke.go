package fs

import (
	"context"
	"time"

	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

var _ lockserver.RevokePreparer = (*Server)(nil)

// Giving a lock up. Nothing here takes a lock of the cluster or an ilock. Steps:
//
//  1. PrepareRevoke, while pins are still given out: from now on names of the directory are answered uncacheable, and the ranges whose pages
//     are filled or changed are noted. Operations that wait for a pin and that the mode held allows are admitted without one, because the kernel's
//     invalidation waits for them. Drop the kernel's pages or names; of what other requests that wait hold, see dropPages.
//  2. Revoke, when no pin is left: such operations are still admitted. Drop the ranges noted; what was written back is part of the inode.
//  3. Close the gate, let the admitted finish, drop what they touched since, admitting only writes of the same pages and truncations (until one is
//     answered the kernel writes nothing back); until nothing did.
//  4. Flush up to the inode's last generation.
//  5. Drop the kernel's attributes, then the cached blocks and the inode.
//  6. Return: the clerk releases, with the index and whether the inode is open here.

// revokeRounds bounds how often step 2 goes round while reads keep coming.
const revokeRounds = 3

// PrepareRevoke does step 1.
func (s *Server) PrepareRevoke(id lockserver.LockID, to lockserver.Mode) {
	ss := s.cur.Load()
	if ss == nil || id.Fixed() {
		return
	}
	n := ss.node(uint64(id))
	defer ss.put(n)
	n.rv.noting.Store(true)
	n.rv.prepared.Store(1 + uint32(to))
	s.noteHandOver(n, to)
	n.rv.beginServing()
	ss.flushEarly(n)
	ss.dropKernel(n, to)
}

// Revoke does steps 2 to 6.
func (s *Server) Revoke(id lockserver.LockID, to lockserver.Mode) (index uint64, open bool, err error) {
	s.mu.Lock()
	ss := s.ss
	s.mu.Unlock()
	if ss == nil || ss.lost.Load() {
		return 0, false, errors.New(errors.KindSessionEnded, "revoke of %d: no session", id)
	}
	if id.Fixed() {
		// What was done under a fixed lock has records of its own: all of them.
		if err := ss.revokeFlush(0); err != nil {
			return 0, false, err
		}
		return ss.lastIndex(), false, nil
	}
	n := ss.node(uint64(id))
	defer ss.put(n)
	ss.revokeServing(n, to)
	if gen := n.lastGen.Load(); gen != 0 {
		if err := ss.revokeFlush(wal.Gen(gen)); err != nil {
			return 0, false, err
		}
	}
	ss.revokeCaches(n, to)
	open = s.inUse(n.ino)
	return ss.revokeIndex(n), open, nil
}

// revokeServing does steps 2 and 3.
func (ss *session) revokeServing(n *node, to lockserver.Mode) {
	rv := &n.rv
	rv.noting.Store(true)
	rv.beginServing()
	if p := rv.prepared.Load(); p == 0 || p > 1+uint32(to) {
		ss.dropKernel(n, to) // a revoke to None may overtake one to Shared between its two steps: what that left goes now
	}
	for range revokeRounds {
		ranges := rv.takeServed()
		if len(ranges) == 0 {
			break
		}
		ss.dropRanges(n, to, ranges)
	}
	for round := 0; ; round++ {
		if drained := rv.closeGate(); drained != nil {
			<-drained // operations under way; each is bounded in time
		}
		ranges := rv.openFor()
		if len(ranges) == 0 {
			if to == lockserver.None {
				rv.forgetFills()
			}
			return
		}
		ss.dropRanges(n, to, ranges)
		if round > 64 {
			time.Sleep(time.Millisecond) // a reader in a tight loop; let it get ahead
		}
	}
}

// dropKernel drops the kernel's pages, or names, where the mode left needs it. Under a Shared lock clean pages and
// names stay right; pages go only if they may turn dirty without a word.
func (ss *session) dropKernel(n *node, to lockserver.Mode) {
	inv := ss.s.opts.Invalidator
	if inv == nil {
		return
	}
	if n.kernelPages.Load() && (to == lockserver.None || ss.s.handles.mayDirty(n.ino)) {
		n.rv.fillGrace()
		ss.dropPages(n, wholeFile, 0)
		n.kernelPages.Store(false)
	}
	if n.kernelNames.Load() && to == lockserver.None {
		inv.DropNames(Ino(n.ino))
		n.kernelNames.Store(false)
	}
}

func (ss *session) dropRanges(n *node, to lockserver.Mode, ranges []span) {
	inv := ss.s.opts.Invalidator
	if inv == nil || to != lockserver.None && !ss.s.handles.mayDirty(n.ino) {
		return
	}
	for _, r := range ranges {
		ss.dropPages(n, r, 0)
	}
}

// revokeCaches does step 5.
func (ss *session) revokeCaches(n *node, to lockserver.Mode) {
	if to == lockserver.None {
		if inv := ss.s.opts.Invalidator; inv != nil && n.kernelAttr.Load() {
			inv.DropAttr(Ino(n.ino))
		}
		n.kernelAttr.Store(false)
		n.kernelPages.Store(false)
		n.kernelNames.Store(false)
		n.in.Store(nil)
		n.intent.Store(n.wrote.Swap(false))
		n.pres.reset()
		ss.cache.drop(n.ino, 0, ^uint64(0))
	}
	n.rv.held.Store(uint32(to))
	n.rv.noting.Store(false)
	n.rv.prepared.Store(0)
}

// revokeIndex is an index not below that of the last record that touched n.
func (ss *session) revokeIndex(n *node) uint64 {
	if n.lastGen.Load() != 0 {
		return ss.lastIndex()
	}
	ss.nodes.mu.Lock()
	defer ss.nodes.mu.Unlock()
	return ss.nodes.floor
}

func (ss *session) lastIndex() uint64 { return max(ss.be.Store.LastIndex(), ss.be.Log.LastIndex()) }

// flushEarly has what is dirty of n on its way while the kernel's caches are dropped.
func (ss *session) flushEarly(n *node) {
	if gen := wal.Gen(n.lastGen.Load()); gen > ss.be.Log.Durable() {
		ss.spawn(func(ctx context.Context) { _ = ss.be.Log.Flush(ctx, gen) })
	}
}

// revokeFlush flushes until it is done or the session is over, or the log was closed because the file server's Close had
// no more time. It waits for the log alone.
func (ss *session) revokeFlush(gen wal.Gen) error {
	for {
		err := ss.be.Log.Flush(context.WithoutCancel(ss.ctx), gen)
		if err == nil || isSessionEnd(err) || ss.lost.Load() || errors.Is(err, errors.KindUnavailable) && ss.s.isClosed() {
			return err
		}
		ss.s.log.Warn("flushing for a revoke; trying again", "err", err)
		time.Sleep(100 * time.Millisecond)
	}
}

// beginServing lets operations in that the mode held allows; those that wait for a pin are told.
func (rv *revocation) beginServing() {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	rv.serving, rv.only = true, nil
	rv.tellLocked()
}

func (rv *revocation) tellLocked() {
	for w := range rv.waiters {
		if rv.admits(w) {
			w.again = true
			w.cancel()
		}
	}
}

// closeGate admits nothing more; the channel, if any, is closed when the admitted have finished.
func (rv *revocation) closeGate() <-chan struct{} {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	rv.serving, rv.only = false, nil
	if rv.admitted == 0 {
		return nil
	}
	rv.drained = make(chan struct{})
	return rv.drained
}

// openFor takes the ranges served since and opens the gate again for writes that touch them, while they are dropped: the
// kernel writes dirty pages back, and may hold one locked for a request that would wait for us. None: the gate stays closed.
func (rv *revocation) openFor() []span {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	ranges := rv.served
	rv.served = nil
	if len(ranges) > 0 {
		rv.serving, rv.only = true, ranges
		rv.tellLocked()
	}
	return ranges
}

func (rv *revocation) takeServed() []span {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	s := rv.served
	rv.served = nil
	return s
}

// LeaseExpired is called when the lease ran out: every operation looks at the lease when it answers, so there is nothing to do but to say so.
func (s *Server) LeaseExpired() {
	s.log.Warn("the lease ran out; operations wait until it is renewed")
}

// SessionEnded drops the session: what was not durable is lost and reported once by every descriptor of such a file,
// descriptors with a file lock fail from now on, the kernel's caches are void.
func (s *Server) SessionEnded(cause error) {
	s.mu.Lock()
	ss := s.ss
	if ss == nil || !ss.lost.CompareAndSwap(false, true) {
		s.mu.Unlock()
		return
	}
	ss.end(errors.New(errors.KindSessionEnded, "the session with the cluster ended: %w", orUnknown(cause)))
	s.cur.CompareAndSwap(ss, nil)
	s.signalLocked()
	s.mu.Unlock()
	lost := ss.lostInodes()
	s.handles.each(func(h *handle) { h.sessionLost(ss, lost[h.ino]) })
	s.log.Error("the session with the cluster was ended: its caches are void, unsaved changes are lost", "cause", cause, "files", len(lost))
	ss.tellLost(lost)
	ss.voidKernel()
	if f := s.opts.SessionEnded; f != nil {
		go f(cause)
	}
}

func orUnknown(err error) error {
	if err == nil {
		return errors.Of(errors.KindSessionEnded)
	}
	return err
}

// VoidKernel implements KernelVoider.
func (s *Server) VoidKernel() {
	if ss := s.cur.Load(); ss != nil {
		ss.voidKernel()
	}
}

// voidKernel drops what the kernel has of this session, in the background: it may wait for requests that wait for the next session.
// Attributes never wait, and no read(2) is answered from pages without them: they go first.
func (ss *session) voidKernel() {
	inv := ss.s.opts.Invalidator
	if inv == nil {
		return
	}
	t := &ss.nodes
	t.mu.Lock()
	nodes := make([]*node, 0, len(t.nodes))
	for _, n := range t.nodes {
		nodes = append(nodes, n)
	}
	t.mu.Unlock()
	go func() {
		for _, n := range nodes {
			inv.DropAttr(Ino(n.ino))
		}
		for _, n := range nodes {
			if n.kernelPages.Load() {
				inv.DropData(Ino(n.ino), 0, 0)
			}
			if n.kernelNames.Load() {
				inv.DropNames(Ino(n.ino))
			}
		}
	}()
}

// sessionLost marks a descriptor whose session ended.
func (h *handle) sessionLost(ss *session, dirty bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if dirty {
		h.lost = errors.New(errors.KindIO, "data written to this file before the session with the cluster ended is lost: write it again")
	}
	if len(h.owners) > 0 {
		h.broken = true
	}
	if h.n != nil {
		h.at = h.n.at.Load()
	}
	h.ss, h.n = nil, nil
}
