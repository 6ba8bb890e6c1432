package fs

import (
	"context"
	stderrors "errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

var (
	_ FileSystem        = (*Server)(nil)
	_ KernelIO          = (*Server)(nil)
	_ lockserver.Holder = (*Server)(nil)
	_ KernelVoider      = (*Server)(nil)
)

// Backend is what a Server works on for one session: a store and a clerk bound to the
// same lockserver session, and a log whose sink is that store.
type Backend struct {
	Store blockstore.Store
	Clerk lockserver.Clerk
	Log   wal.Log
}

// Server is a file server. It implements FileSystem for its users and
// lockserver.Holder for its clerk.
//
// Every operation follows one template:
//
//	do          get the session (wait for one, bounded); again under the next one if it ended before anything was committed
//	admit       wait until the log takes more bytes, with nothing pinned
//	look        names that decide which inodes are concerned, under locks that are let go again
//	lock        all locks, in order; re-check what was looked up, start again if it changed
//	check       arguments, permissions, limits
//	change      in a tx: copies of inodes and directory blocks, data; an error drops the tx
//	commit      reserve space, hand the operation to the log, swap the copies into the caches
//	answer      the lease is looked at now; unlock; reply
type Server struct {
	opts Options
	log  *slog.Logger

	mu      sync.Mutex
	ss      *session      // nil before the first Attach
	changed chan struct{} // closed and replaced when ss changes or its session ends
	closed  bool

	cur atomic.Pointer[session] // ss while it is alive

	handles handleTable
	known   knownTable
}

// session is what a Server keeps for one Backend. Its caches die with it.
type session struct {
	s    *Server
	be   Backend
	ctx  context.Context // ends with the session
	end  context.CancelCauseFunc
	lost atomic.Bool // SessionEnded was called
	// active counts the operations that may hold frames of the cache: its memory goes when they are done.
	active atomic.Int64
	cache  *cache
	nodes  nodeTable
	space  space
	orph   orphans
	// treeMu is the ilock of LockRename.
	treeMu ilock

	// commitMu makes the order of Log.Commit that of space accounting and orphan slots.
	commitMu sync.Mutex

	bg      sync.WaitGroup
	bgMu    sync.Mutex
	bgDone  bool
	raSlots chan struct{} // bounds read-ahead under way
}

// New makes a Server without a session; Attach gives it one.
func New(opts Options) (*Server, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, log: opts.Logger, changed: make(chan struct{})}
	s.handles.init()
	return s, nil
}

// Attach makes the Server work on be: the first time, and again after SessionEnded with a new
// session. It makes the file system if the store holds none. The clerk's Holder must be this Server.
func (s *Server) Attach(ctx context.Context, be Backend) error {
	ss := &session{s: s, be: be, raSlots: make(chan struct{}, 8)}
	ss.ctx, ss.end = context.WithCancelCause(context.Background())
	ss.cache = newCache(s.opts.CacheBlocks, be.Log.Durable)
	ss.nodes.nodes, ss.nodes.limit = map[uint64]*node{}, s.opts.CacheInodes
	ss.orph.init()
	ss.space.inodeTurn = make(chan struct{}, 1)

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.New(errors.KindUnavailable, "the file server is closed")
	}
	if s.cur.Load() != nil {
		s.mu.Unlock()
		return errors.New(errors.KindInvalid, "the file server has a live session already")
	}
	old := s.ss
	s.ss = ss
	s.mu.Unlock()
	if old != nil {
		old.stop()
		go old.bury()
	}
	if err := ss.format(ctx); err != nil {
		ss.end(err)
		return err
	}
	s.mu.Lock()
	if ss.ctx.Err() == nil && !s.closed {
		s.cur.Store(ss)
	}
	s.signalLocked()
	s.mu.Unlock()
	if s.opts.OrphanInterval > 0 {
		ss.spawn(ss.sweepOrphans)
	}
	return nil
}

// Live tells whether the Server has a session that has not ended.
func (s *Server) Live() bool { return s.cur.Load() != nil }

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) signalLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// enter counts an operation in; false: the session has ended. leave counts it out.
func (ss *session) enter() bool {
	ss.active.Add(1)
	if ss.ctx.Err() != nil {
		ss.active.Add(-1)
		return false
	}
	return true
}

func (ss *session) leave() { ss.active.Add(-1) }

// bury gives the cache's memory back when the last operation of a session that ended has left.
func (ss *session) bury() {
	for ss.active.Load() > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	ss.cache.close()
}

// stop waits for the background work of a session that ended.
func (ss *session) stop() {
	ss.end(errors.Of(errors.KindSessionEnded))
	ss.bgMu.Lock()
	ss.bgDone = true
	ss.bgMu.Unlock()
	ss.bg.Wait()
}

// spawn runs f in the background until the session ends.
func (ss *session) spawn(f func(ctx context.Context)) {
	ss.bgMu.Lock()
	defer ss.bgMu.Unlock()
	if ss.bgDone {
		return
	}
	ss.bg.Add(1)
	go func() {
		defer ss.bg.Done()
		f(ss.ctx)
	}()
}

// Close flushes everything, gives unused space back and stops background work. The clerk (which revokes what it
// holds through this Server) is the caller's to close, after that.
func (s *Server) Close(ctx context.Context) error {
	ss := s.cur.Load()
	if ss == nil {
		s.mu.Lock()
		s.closed = true
		s.signalLocked()
		s.mu.Unlock()
		return nil
	}
	ss.handlesClosed(ctx)
	err := ss.be.Log.Flush(ctx, 0)
	ss.space.mu.Lock()
	unused := ss.space.blocks
	ss.space.blocks = 0
	ss.space.mu.Unlock()
	if unused > 0 && err == nil {
		if uerr := ss.be.Store.Unreserve(ctx, uint64(unused)); uerr != nil {
			s.log.Warn("giving reserved space back", "blocks", unused, "err", uerr)
		}
	}
	ss.bgMu.Lock()
	ss.bgDone = true
	ss.bgMu.Unlock()
	s.mu.Lock()
	s.closed = true
	s.cur.CompareAndSwap(ss, nil)
	s.signalLocked()
	s.mu.Unlock()
	ss.end(errors.New(errors.KindUnavailable, "the file server is closed"))
	ss.bg.Wait()
	go ss.bury()
	return err
}

// session returns the live session, waiting for one for at most QuorumWait.
func (s *Server) session(ctx context.Context) (*session, error) {
	if ss := s.cur.Load(); ss != nil {
		return ss, nil
	}
	bctx, cancel := s.bound(ctx)
	defer cancel()
	for {
		s.mu.Lock()
		closed, changed := s.closed, s.changed
		s.mu.Unlock()
		if ss := s.cur.Load(); ss != nil {
			return ss, nil
		}
		if closed {
			return nil, errors.New(errors.KindIO, "the file server is closed")
		}
		select {
		case <-changed:
		case <-bctx.Done():
			return nil, s.waited(ctx, bctx.Err(), "waiting for a session with the cluster")
		}
	}
}

// do runs an operation under the live session, and again under the next one if the
// session ended before the operation committed anything (KindSessionEnded).
func (s *Server) do(ctx context.Context, f func(*session) error) error {
	for {
		ss, err := s.session(ctx)
		if err != nil {
			return err
		}
		if !ss.enter() {
			s.cur.CompareAndSwap(ss, nil)
			continue
		}
		err = f(ss)
		if tellsState(err) {
			// A refusal is an answer, too. The locks are given back by now; but while the session lives nobody else
			// had them when this one looked.
			if aerr := ss.answer(ctx, false); aerr != nil {
				err = aerr
			}
		}
		ss.leave()
		if err == nil || !isSessionEnd(err) {
			return err
		}
		if err := s.awaitEnd(ctx, ss); err != nil {
			return err
		}
	}
}

// tellsState recognizes the errors that say what a file or a directory is like: as right as the locks that they were read
// under. None is returned by an operation that has changed something.
func tellsState(err error) bool {
	if err == nil {
		return false
	}
	switch errors.KindOf(err) {
	case errors.KindNotExist, errors.KindExist, errors.KindNotDir, errors.KindIsDir, errors.KindNotEmpty, errors.KindPermission, errors.KindAccess,
		errors.KindInvalid, errors.KindTooManyLinks, errors.KindLoop, errors.KindNoAttr, errors.KindRange, errors.KindNoDevice, errors.KindStale, errors.KindTextBusy:
		return true
	}
	return false
}

// isSessionEnd recognizes the errors that mean that the session is over.
func isSessionEnd(err error) bool {
	switch errors.KindOf(err) {
	case errors.KindSessionEnded, errors.KindDeadWriter, errors.KindWrongToken:
		return true
	}
	return false
}

// awaitEnd waits until SessionEnded was called for ss.
func (s *Server) awaitEnd(ctx context.Context, ss *session) error {
	bctx, cancel := s.bound(ctx)
	defer cancel()
	select {
	case <-ss.ctx.Done():
		return nil
	case <-bctx.Done():
		return s.waited(ctx, bctx.Err(), "waiting for the session to end")
	}
}

// bound limits a wait for the cluster to QuorumWait.
func (s *Server) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.opts.QuorumWait < 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, s.opts.QuorumWait)
}

func (ss *session) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return ss.s.bound(ctx)
}

// waited turns the error of a bounded wait into what the caller of the operation sees: EIO
// where the bound was reached rather than the caller's own context.
func (s *Server) waited(ctx context.Context, err error, what string) error {
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && (stderrors.Is(err, context.DeadlineExceeded) || errors.Is(err, errors.KindTimeout) || errors.Is(err, errors.KindUnavailable)) {
		return errors.New(errors.KindIO, "%s: no answer from the cluster within %v: check that a majority of its nodes runs: %w", what, s.opts.QuorumWait, err)
	}
	return err
}

func (ss *session) waited(ctx context.Context, err error, what string) error {
	return ss.s.waited(ctx, err, what)
}

// answer looks at the lease when an answer is made; the locks are still held. An
// operation that has committed passes that, and gets EIO if the session is over.
func (ss *session) answer(ctx context.Context, committed bool) error {
	if ss.be.Clerk.LeaseLeft() > 0 {
		return nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	for {
		err := ss.be.Clerk.WaitLease(bctx)
		if err == nil {
			if ss.be.Clerk.LeaseLeft() > 0 {
				return nil
			}
			continue
		}
		if committed && isSessionEnd(err) {
			return errors.New(errors.KindIO, "the session with the cluster ended before the change was durable: it may be lost")
		}
		return ss.waited(ctx, err, "waiting for the lease")
	}
}

// admit waits until the log takes that many bytes more. Nothing may be pinned.
func (ss *session) admit(ctx context.Context, bytes int) error {
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	if err := ss.be.Log.Admit(bctx, bytes); err != nil {
		return ss.waited(ctx, err, "waiting for dirty data to be written")
	}
	if ss.cache.overfull() {
		return ss.waited(ctx, ss.be.Log.Flush(bctx, 0), "writing dirty data")
	}
	return nil
}

// flush makes everything up to gen durable.
func (ss *session) flush(ctx context.Context, gen wal.Gen) error {
	if gen != 0 && gen <= ss.be.Log.Durable() {
		return nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	err := ss.be.Log.Flush(bctx, gen)
	if isSessionEndErr(err) {
		return errors.New(errors.KindIO, "the session with the cluster ended: data written before may be lost: %w", err)
	}
	return ss.waited(ctx, err, "flushing")
}

func isSessionEndErr(err error) bool { return err != nil && isSessionEnd(err) }

// SyncAll makes everything before it durable.
func (s *Server) SyncAll(ctx context.Context) error {
	return s.do(ctx, func(ss *session) error { return ss.flush(ctx, 0) })
}

// LeaseLeft is how long kernel caches stay right by themselves.
func (s *Server) LeaseLeft() time.Duration {
	if ss := s.cur.Load(); ss != nil {
		return max(0, ss.be.Clerk.LeaseLeft())
	}
	return 0
}

// flushNode makes an inode's last change durable.
func (ss *session) flushNode(ctx context.Context, n *node) error {
	return ss.flush(ctx, wal.Gen(n.lastGen.Load()))
}
