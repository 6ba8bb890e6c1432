package fileconn

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// Changes are done once: each has a number in one of the slots of the client's session, which the file servers keep, and is
// sent again under the same number when a node fails (see filepb.Once).

// slotsMax is the number of changes of one client that are under way at a time, as the file servers have it.
const slotsMax = 64

// onceKey is the metadata that names a changing request.
const onceKey = "dfs-once-bin"

// closeSessionWait bounds the end of the session at Close.
const closeSessionWait = time.Second

// session is the client's session with the file servers.
type session struct {
	mu     sync.Mutex
	number uint64 // of the session; 0: none yet

	free chan *slot
}

// slot numbers its requests.
type slot struct {
	index uint32
	last  uint64
}

func (s *session) init() {
	s.free = make(chan *slot, slotsMax)
	for i := range uint32(slotsMax) {
		s.free <- &slot{index: i}
	}
}

// take takes a slot for one change; it goes back into free.
func (s *session) take(ctx context.Context) (*slot, error) {
	select {
	case sl := <-s.free:
		sl.last++
		return sl, nil
	case <-ctx.Done():
		return nil, errors.New(errors.KindOf(ctx.Err()), "waiting for one of %d changes under way to end: %w", slotsMax, ctx.Err())
	}
}

// Session is the number of the client's session, 0 before its first change.
func (c *Conn) Session() uint64 { return c.session.get() }

func (s *session) get() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.number
}

// generation opens the client's session on the node of a, once.
func (c *Conn) generation(ctx context.Context, a *Attachment) (*filepb.SessionResponse, error) {
	if err := a.turn.Enter(ctx); err != nil {
		return nil, err
	}
	defer a.turn.Leave()
	if a.session != nil {
		return a.session, nil
	}
	r, err := a.Files.OpenSession(ctx, &filepb.SessionRequest{Client: c.id, Session: c.session.get()})
	if err != nil {
		return nil, err
	}
	c.session.mu.Lock()
	c.session.number = r.GetSession()
	c.session.mu.Unlock()
	a.session = r
	return r, nil
}

// Change runs f, which changes something, on a live attachment, and again on another node if that fails: f's call is made
// with the context that f is given, by which the nodes see to it that the change is done once. Where they have forgotten
// the client meanwhile, the outcome is unknown, and that is told (KindIO).
func (c *Conn) Change(ctx context.Context, what string, f func(ctx context.Context, a *Attachment) error) error {
	sl, err := c.session.take(ctx)
	if err != nil {
		return err
	}
	defer func() { c.session.free <- sl }()
	began := uint64(0) // the session under which it was sent first
	return c.call(ctx, what, func() bool { return began != 0 }, func(ctx context.Context, a *Attachment) error {
		s, err := c.generation(ctx, a)
		if err != nil {
			return err
		}
		if began != 0 && began != s.GetSession() {
			return errors.New(errors.KindIO, "%s: a node failed before it answered, and no other node knows of it: whether it was done is unknown: look, then decide", what)
		}
		began = s.GetSession()
		name, err := proto.Marshal(&filepb.Once{Client: c.id, Session: s.GetSession(), Generation: s.GetGeneration(), Slot: sl.index, Number: sl.last})
		if err != nil {
			return errors.New(errors.KindInvalid, "%s: %w", what, err)
		}
		return f(metadata.AppendToOutgoingContext(ctx, onceKey, string(name)), a)
	})
}

// closeSession ends the client's session, if a node is at hand: else the nodes forget it after a while.
func (c *Conn) closeSession() {
	a, _ := c.Live()
	if a == nil || c.session.get() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeSessionWait)
	defer cancel()
	_, _ = a.Files.CloseSession(ctx, &filepb.SessionRequest{Client: c.id, Session: c.session.get()})
}
