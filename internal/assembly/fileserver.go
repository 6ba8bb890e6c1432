// Package assembly puts the parts of dfs together: a node (node.go) and a file
// server (this file). It holds no logic of its own but the order in which things are built, started and
// stopped; the dfs command and the tests use it alike.
package assembly

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"dfs/blockstore/blockrpc"
	"dfs/fs"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/lockserver/lockrpc"
	"dfs/wal"
)

// reopenPause is the pause between attempts to open a new session after one was lost.
const reopenPause = 500 * time.Millisecond

// closeWait bounds the end of a session that nobody waits for any more.
const closeWait = 20 * time.Second

// FileServerOptions says how a file server works.
type FileServerOptions struct {
	// Name tells people whose session it is: host and mount point.
	Name string
	// TTL is the lease asked for; 0: the service's default (10 s).
	TTL time.Duration
	// FS are the file server's own settings; Invalidator, SessionEnded and Logger are set here.
	FS fs.Options
	// PendingBytesMax bounds dirty data; 0: the log's default.
	PendingBytesMax int64
	// SessionFile, if set, remembers the session on disk, so that after a crash the next process with
	// this file ends it at once. One file for each mount point.
	SessionFile string
	// Clock tells CLOCK_BOOTTIME; nil is the kernel's. (Tests set their own.)
	Clock func() time.Duration

	Logger *slog.Logger
}

// FileServer is an fs.Server with its session, which it renews when it was lost.
type FileServer struct {
	*fs.Server
	cluster *cluster.Cluster
	opt     FileServerOptions
	inval   lateInvalidator

	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup
	lost chan error

	file *sessionFile // nil: none

	mu  sync.Mutex
	now *backend

	leaving sync.WaitGroup // sessions that are over; their number rises in heal alone
}

// backend is what one session consists of.
type backend struct {
	holder *holder
	clerk  *lockserver.SessionClerk
	store  *blockrpc.Client
	log    *wal.Writer
	end    func() // abandon, but in tests
}

// holder is the file server as one session's clerk sees it: what that clerk still does when the session is over must not
// reach the session after it.
type holder struct {
	server
	over atomic.Bool
}

// server is what a clerk calls: fs.Server.
type server interface {
	lockserver.Holder
	lockserver.RevokePreparer
}

var _ server = (*fs.Server)(nil)

// PrepareRevoke passes on what a live session's clerk says.
func (h *holder) PrepareRevoke(id lockserver.LockID, to lockserver.Mode) {
	if !h.over.Load() {
		h.server.PrepareRevoke(id, to)
	}
}

// Revoke passes on what a live session's clerk asks.
func (h *holder) Revoke(id lockserver.LockID, to lockserver.Mode) (index uint64, open bool, err error) {
	if h.over.Load() {
		return 0, false, errors.New(errors.KindSessionEnded, "revoke of %d: its session is over", id)
	}
	return h.server.Revoke(id, to)
}

// LeaseExpired passes on that a live session's lease ran out.
func (h *holder) LeaseExpired() {
	if !h.over.Load() {
		h.server.LeaseExpired()
	}
}

// SessionEnded passes on that this session, and not a later one, has ended.
func (h *holder) SessionEnded(cause error) {
	if !h.over.Load() {
		h.server.SessionEnded(cause)
	}
}

// OpenFileServer opens a session with the cluster and a file server on it. ctx bounds the opening.
// The cluster stays the caller's to close, after the FileServer.
func OpenFileServer(ctx context.Context, cl *cluster.Cluster, opt FileServerOptions) (*FileServer, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	f := &FileServer{cluster: cl, opt: opt, lost: make(chan error, 1)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	o := opt.FS
	o.Logger = opt.Logger
	o.Invalidator = &f.inval
	o.RootUID, o.RootGID = uint32(os.Geteuid()), uint32(os.Getegid())
	o.SessionEnded = func(cause error) {
		select {
		case f.lost <- cause:
		default:
		}
	}
	var err error
	if f.Server, err = fs.New(o); err != nil {
		return nil, err
	}
	if opt.SessionFile != "" {
		if f.file, err = takeSessionFile(ctx, opt.SessionFile, cl, opt.Logger); err != nil {
			opt.Logger.Warn("after a crash this file server's lease must run out", "error", err)
		}
	}
	if err := f.attach(ctx); err != nil {
		f.stop()
		if f.file != nil {
			f.file.close(false)
		}
		return nil, err
	}
	f.wg.Go(f.heal)
	return f, nil
}

// SetInvalidator tells the file server of the kernel that caches its answers.
func (f *FileServer) SetInvalidator(i fs.Invalidator) { f.inval.set(i) }

// Stats tells what the log holds back now.
func (f *FileServer) Stats() wal.Stats {
	return f.current().log.Stats()
}

// Clerk is the present session's side of the lock service.
func (f *FileServer) Clerk() lockserver.Clerk { return f.current().clerk }

func (f *FileServer) current() *backend {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// attach opens a session and gives it to the file server.
func (f *FileServer) attach(ctx context.Context) error {
	h := &holder{server: f.Server}
	clerk, err := lockrpc.Open(ctx, f.cluster, lockrpc.Options{Name: f.opt.Name, TTL: f.opt.TTL, Holder: h, Clock: f.opt.Clock, Logger: f.opt.Logger})
	if err != nil {
		return err
	}
	store, err := blockrpc.NewClient(f.cluster, clerk.Session(), clerk.Epoch(), blockrpc.ClientOptions{Log: f.opt.Logger})
	if err != nil {
		return err
	}
	clerk.SetOnEpoch(store.SetEpoch)
	log, err := wal.NewWriter(store, wal.Options{PendingBytesMax: f.opt.PendingBytesMax})
	if err != nil {
		return err
	}
	if f.file != nil {
		if err := f.file.write(f.cluster.ID(), clerk.Session()); err != nil {
			f.opt.Logger.Warn("the session could not be remembered; after a crash its lease must run out", "error", err)
		}
	}
	be := &backend{holder: h, clerk: clerk, store: store, log: log}
	be.end = be.abandon
	f.mu.Lock()
	f.now = be
	f.mu.Unlock()
	if err := f.Attach(ctx, fs.Backend{Store: store, Clerk: clerk, Log: log}); err != nil {
		f.leave(be)
		return err
	}
	return nil
}

// heal opens a new session whenever the last one was lost.
func (f *FileServer) heal() {
	h := healer{lost: f.lost, live: f.Live, leave: func() { f.leave(f.current()) }, attach: f.attach, log: f.opt.Logger}
	h.run(f.ctx)
}

// healer replaces sessions that were lost. leave gives the present one up and does not wait for anything, attach opens the next.
type healer struct {
	lost   <-chan error
	live   func() bool
	leave  func()
	attach func(ctx context.Context) error
	log    *slog.Logger
}

func (h *healer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case cause := <-h.lost:
			if h.live() { // said of a session that was lost while it was being opened: another has come since
				continue
			}
			h.log.Error("the session with the cluster was lost: what was not flushed is lost and told to its users; opening a new one", "cause", cause)
		}
		h.leave()
		if !h.reopen(ctx) {
			return
		}
	}
}

// reopen opens a session, trying until ctx ends.
func (h *healer) reopen(ctx context.Context) bool {
	for {
		err := h.attach(ctx)
		if err == nil {
			h.log.Info("a new session is open")
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		h.log.Warn("no new session yet", "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(reopenPause):
		}
	}
}

// leave abandons a session that is over, in the background: its clerk may be in the midst of dropping what the kernel has, which waits for
// requests that wait for the next session.
func (f *FileServer) leave(b *backend) {
	b.holder.over.Store(true)
	f.leaving.Go(b.end)
}

// abandon ends what is left of a session that is over.
func (b *backend) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = b.closeClerk(ctx) // it is over already
	b.store.Close()
	_ = b.log.Close()
}

// closeClerk closes the clerk. Its locks are given up through flushes, which wait as long as the log is open: with ctx that ends, too.
func (b *backend) closeClerk(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = b.log.Close() })
	defer stop()
	return b.clerk.Close(ctx)
}

// Close flushes, gives back what is held and ends the session. The error says what could not
// be flushed within ctx.
func (f *FileServer) Close(ctx context.Context) error {
	f.stop()
	f.wg.Wait()
	err := f.Server.Close(ctx)
	now := f.current() // heal has ended, so it is the last one
	closing, cancel := context.WithTimeout(ctx, closeWait)
	defer cancel()
	if cerr := now.closeClerk(closing); err == nil && cerr != nil && !errors.Is(cerr, errors.KindSessionEnded) {
		err = cerr
	}
	if cerr := now.log.Close(); err == nil {
		err = cerr
	}
	now.store.Close()
	f.awaitLeft(closing)
	if f.file != nil {
		f.file.close(err == nil)
	}
	return err
}

// awaitLeft waits for the ends of sessions that were over before, which may wait for a kernel that does not answer any more.
func (f *FileServer) awaitLeft(ctx context.Context) {
	left := make(chan struct{})
	go func() {
		f.leaving.Wait()
		close(left)
	}()
	select {
	case <-left:
	case <-ctx.Done():
		f.opt.Logger.Warn("a session that was over is not given up in full: the kernel does not answer")
	}
}

// lateInvalidator passes on to an Invalidator that is known only after the file
// server was built; until then there is no kernel that caches anything.
type lateInvalidator struct {
	to atomic.Pointer[fs.Invalidator]
}

var (
	_ fs.Invalidator  = (*lateInvalidator)(nil)
	_ fs.Knower       = (*lateInvalidator)(nil)
	_ fs.DirectMapper = (*lateInvalidator)(nil)
)

func (l *lateInvalidator) set(i fs.Invalidator) { l.to.Store(&i) }

func (l *lateInvalidator) DropData(ino fs.Ino, off, length uint64) {
	if to := l.to.Load(); to != nil {
		(*to).DropData(ino, off, length)
	}
}

func (l *lateInvalidator) Knows(ino fs.Ino) bool {
	to := l.to.Load()
	if to == nil {
		return false
	}
	k, ok := (*to).(fs.Knower)
	return !ok || k.Knows(ino)
}

func (l *lateInvalidator) MapsDirect() bool {
	to := l.to.Load()
	if to == nil {
		return true
	}
	m, ok := (*to).(fs.DirectMapper)
	return !ok || m.MapsDirect()
}

func (l *lateInvalidator) DropAttr(ino fs.Ino) {
	if to := l.to.Load(); to != nil {
		(*to).DropAttr(ino)
	}
}

func (l *lateInvalidator) DropNames(dir fs.Ino) {
	if to := l.to.Load(); to != nil {
		(*to).DropNames(dir)
	}
}
