package lockserver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Options of a Server; zero fields take the defaults.
type Options struct {
	// TTL is the lease of a session that asks for none: default 10s. What is
	// asked for is kept within TTLMin (default 1s) and TTLMax (default 2min).
	TTL, TTLMin, TTLMax time.Duration
	// ProveEvery is the least time between the starts of two proofs of leadership, each of which
	// serves all keep-alives that arrived before it: default 1s.
	ProveEvery time.Duration
	// StreamsMax bounds the streams open at once: default 16384, as many as there may be writers.
	StreamsMax int
	// QueueMax bounds the grants, revokes and answers that wait to be sent on
	// one stream; beyond it the stream is ended. Default 1<<18.
	QueueMax int
	// Table bounds the lock table.
	Table TableOptions
	// Logger; nil discards.
	Logger *slog.Logger
}

// Validate fills in the defaults and refuses what cannot work (KindInvalid).
func (o *Options) Validate() error {
	setDefault(&o.TTL, 10*time.Second)
	setDefault(&o.TTLMin, time.Second)
	setDefault(&o.TTLMax, 2*time.Minute)
	setDefault(&o.ProveEvery, min(time.Second, o.TTLMin))
	setDefault(&o.StreamsMax, 1<<14)
	setDefault(&o.QueueMax, 1<<18)
	o.Table.setDefaults()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.TTLMin <= 0 || o.TTL < o.TTLMin || o.TTLMax < o.TTL || o.ProveEvery < 0 || o.ProveEvery > o.TTLMin {
		return errors.New(errors.KindInvalid, "lock server options: need 0 < TTLMin (%v) <= TTL (%v) <= TTLMax (%v) and 0 <= ProveEvery (%v) <= TTLMin", o.TTLMin, o.TTL, o.TTLMax, o.ProveEvery)
	}
	return nil
}

func (o *Options) lease(asked time.Duration) time.Duration {
	if asked <= 0 {
		return o.TTL
	}
	return min(max(asked, o.TTLMin), o.TTLMax)
}

// Server is the lock service of one node: it serves while this node leads,
// and only from when its epoch has begun in the log. Everything it knows dies with
// the reign.
//
// Lock order: mu, then whatever Proposer.View takes. Nothing is proposed, sent or
// waited for with mu held.
type Server struct {
	p blockstore.Proposer
	o Options

	mu      sync.Mutex
	reign   *reign // nil: not leading, or the epoch has not begun
	streams int
}

// NewServer makes a Server; Run starts it.
func NewServer(p blockstore.Proposer, o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	return &Server{p: p, o: o}, nil
}

// Run follows the leadership of this node until ctx ends, and returns when
// everything it started has stopped.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ruling := &ruling{s: s}
	defer ruling.end()
	changes := s.p.WatchLeadership(ctx)
	for {
		select {
		case l, open := <-changes:
			if !open {
				return ctx.Err()
			}
			ruling.follow(ctx, l)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ruling is the reign under way, if any.
type ruling struct {
	s      *Server
	term   uint64 // 0: none
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (u *ruling) follow(ctx context.Context, l blockstore.Leadership) {
	if l.Self && l.Term == u.term {
		return
	}
	u.end()
	if l.Self {
		ctx, u.cancel = context.WithCancel(ctx)
		u.term = l.Term
		u.wg.Go(func() { u.s.rule(ctx, blockstore.Epoch(l.Term)) })
	}
}

// end drops everything in memory at once, then waits for what still runs.
func (u *ruling) end() {
	if u.term == 0 {
		return
	}
	u.cancel()
	u.s.drop()
	u.wg.Wait()
	u.term = 0
}

// drop forgets the reign at once: nothing of it is answered any more.
func (s *Server) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.reign
	if r == nil {
		return
	}
	s.reign = nil
	for _, st := range r.streams {
		st.close(errNotLeader())
	}
}

func errNotLeader() error {
	return errors.New(errors.KindNotLeader, "this node does not lead, or its reign has not begun yet: ask the leader, or again shortly")
}

// rule is one reign: (1) BeginEpoch is committed; (2) the writers are taken
// from the state; (3) the table is opened to streams, and grants nothing until
// each writer has told its claims or is fenced; (4) timers run until ctx ends.
func (s *Server) rule(ctx context.Context, epoch blockstore.Epoch) {
	log := s.o.Logger.With("epoch", epoch)
	begin, ok := s.begin(ctx, epoch)
	if !ok {
		return
	}
	r := &reign{s: s, epoch: epoch, ctx: ctx, log: log, streams: map[blockstore.WriterID]*serverStream{}, pending: map[*serverStream]keepAlive{},
		wakeProver: make(chan struct{}, 1), wakeTimer: make(chan struct{}, 1)}
	s.mu.Lock()
	if ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	r.table = NewTable(s.o.Table, epoch, begin)
	current := r.refresh(time.Now(), true)
	if current {
		s.reign = r
	}
	awaited := r.table.Awaited()
	s.mu.Unlock()
	if !current {
		log.Warn("a newer epoch has begun: this node no longer leads")
		return
	}
	log.Info("the lock service's reign begins", "index", begin, "writers awaited", awaited)
	var wg sync.WaitGroup
	wg.Go(r.prover)
	wg.Go(r.timer)
	wg.Wait()
	r.fences.Wait()
}

func (s *Server) begin(ctx context.Context, epoch blockstore.Epoch) (index uint64, ok bool) {
	for {
		res, err := s.p.Propose(ctx, blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: epoch})
		switch {
		case err == nil && res.Err == nil:
			return res.Index, true
		case err == nil:
			s.o.Logger.Warn("the epoch was refused", "epoch", epoch, "error", res.Err)
			return 0, false
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return 0, false
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// EndSession ends a session early, for an operator: it is renewed no more, waited out,
// then fenced. It returns when that has begun.
func (s *Server) EndSession(id blockstore.WriterID, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reign == nil {
		return errNotLeader()
	}
	if !s.reign.table.Has(id) {
		return errors.New(errors.KindDeadWriter, "no session %d is live", id)
	}
	s.reign.table.End(id, why)
	s.reign.flush()
	return nil
}

// Stats is what the server shows of itself.
type Stats struct {
	Leading      bool
	Epoch        blockstore.Epoch
	Streams      int
	Sessions     int
	Awaited      int // sessions from before this reign that nothing is granted without
	Locks        int // entries of the table, remembered ones included
	Waiting      int // locks that somebody waits for
	FileInodes   int // inodes with file locks
	OldestRevoke time.Duration
}

// Stats tells the size of the table.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Streams: s.streams}
	if r := s.reign; r != nil {
		st.Leading, st.Epoch = true, r.epoch
		st.Sessions, st.Awaited, st.Locks = len(r.table.sessions), r.table.awaited, len(r.table.locks)
		st.Waiting, st.FileInodes = len(r.table.waiting), len(r.table.files)
		st.OldestRevoke = r.table.oldestRevoke(time.Now())
	}
	return st
}
