package lockserver

import (
	"context"
	"fmt"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// ServerStream is the server's end of one stream. Recv and Send may each be
// called by one goroutine; both end with an error when the stream has ended.
type ServerStream interface {
	Recv() (*ClientMsg, error)
	Send(*ServerMsg) error
}

// serverStream is one stream within a reign. Guarded by Server.mu, but for the
// constant fields.
type serverStream struct {
	r      *reign
	number uint64
	writer blockstore.WriterID
	token  blockstore.Token
	wake   chan struct{}
	over   chan struct{} // closed with the stream

	out     ServerMsg // collects what is to be sent next
	renewed bool      // a keep-alive on it was answered
	err     error     // why it is closed; what collected before is sent
}

// closeWait is how long a client is given to read what a closed stream still has for it.
const closeWait = 5 * time.Second

func (st *serverStream) closed() bool { return st.err != nil }

func (st *serverStream) close(err error) {
	if st.err == nil {
		st.err = err
		close(st.over)
	}
	wake(st.wake)
}

// queued wakes the sender, and ends a stream whose client does not read.
func (st *serverStream) queued() {
	if n := len(st.out.Grants) + len(st.out.Revokes) + len(st.out.Files); n > st.r.s.o.QueueMax {
		st.close(errors.New(errors.KindUnavailable, "session %d: %d messages wait to be read: the stream is ended", st.writer, n))
	}
	wake(st.wake)
}

// Serve serves one stream until it ends, and returns why. ctx ends with the
// stream; what still runs of Serve then stops with it. KindSessionEnded,
// KindDeadWriter and KindWrongToken are final for the session.
func (s *Server) Serve(ctx context.Context, stream ServerStream) error {
	s.mu.Lock()
	full := s.streams >= s.o.StreamsMax
	if !full {
		s.streams++
	}
	s.mu.Unlock()
	if full {
		return errors.New(errors.KindUnavailable, "the lock service has %d streams open, its limit: try again later", s.o.StreamsMax)
	}
	defer func() {
		s.mu.Lock()
		s.streams--
		s.mu.Unlock()
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, welcome, err := s.admit(ctx, stream)
	if err != nil {
		return err
	}
	defer s.detach(st)
	if err := stream.Send(welcome); err != nil {
		return err
	}
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				err = s.handle(ctx, st, m)
			}
			if err != nil {
				s.mu.Lock()
				st.close(err)
				s.mu.Unlock()
				return
			}
		}
	}()
	sent := make(chan error, 1)
	go func() { sent <- s.send(ctx, st, stream) }()
	select {
	case err := <-sent:
		return err
	case <-st.over:
	}
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case err := <-sent:
		return err
	case <-t.C: // the client does not read: Send ends with the stream
		return errors.New(errors.KindUnavailable, "session %d does not read what it is sent: its stream is ended", st.writer)
	}
}

// admit takes the hello, opens or checks the writer, attaches it to the
// reign's epoch in the log, and makes the stream the session's only one.
func (s *Server) admit(ctx context.Context, stream ServerStream) (*serverStream, *ServerMsg, error) {
	h, err := hello(ctx, stream)
	if err != nil {
		return nil, nil, err
	}
	received := time.Now()
	s.mu.Lock()
	r := s.reign
	s.mu.Unlock()
	if r == nil {
		return nil, nil, errNotLeader()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	writer, err := s.writerOf(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	if err := s.propose(ctx, blockstore.Command{Kind: blockstore.CmdAttachWriter, Writer: writer, Token: h.Token, Epoch: r.epoch}); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reign != r {
		return nil, nil, errNotLeader()
	}
	var info blockstore.WriterInfo
	var live bool
	s.p.View(func(state *blockstore.State, _ uint64) { info, live = state.Writer(writer) })
	if !live {
		return nil, nil, errors.New(errors.KindDeadWriter, "writer %d is not live: open a new session", writer)
	}
	ttl := s.o.lease(time.Duration(info.TTLMilli) * time.Millisecond)
	r.table.Expect(received, writer, ttl, false)
	r.table.SetRanges(writer, info.Inodes)
	r.lastStream++
	if err := r.table.Attach(received, writer, r.lastStream); err != nil {
		return nil, nil, err
	}
	if old := r.streams[writer]; old != nil {
		old.close(errors.New(errors.KindUnavailable, "session %d has opened a newer stream", writer))
	}
	st := &serverStream{r: r, number: r.lastStream, writer: writer, token: h.Token, wake: make(chan struct{}, 1), over: make(chan struct{})}
	st.out.Epoch = r.epoch
	r.streams[writer] = st
	r.flush()
	return st, &ServerMsg{Epoch: r.epoch, Welcome: &Welcome{Writer: writer, TTL: ttl}}, nil
}

// hello waits for a stream's first message, not for ever.
func hello(ctx context.Context, stream ServerStream) (*Hello, error) {
	type result struct {
		m   *ClientMsg
		err error
	}
	got := make(chan result, 1)
	go func() {
		m, err := stream.Recv()
		got <- result{m, err}
	}()
	t := time.NewTimer(10 * time.Second)
	defer t.Stop()
	select {
	case g := <-got:
		if g.err != nil {
			return nil, g.err
		}
		h := g.m.Hello
		if h == nil || h.Token == (blockstore.Token{}) || len(h.Name) > nameBytesMax {
			return nil, errors.New(errors.KindInvalid, "the stream does not begin with a proper hello: the client is defective")
		}
		return h, nil
	case <-t.C:
		return nil, errors.New(errors.KindTimeout, "no hello came on the stream within 10s")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// writerOf opens a writer or checks the one named. The state is the reign's:
// everything committed before it has been applied, so a writer that is not there is dead.
func (s *Server) writerOf(ctx context.Context, h *Hello) (blockstore.WriterID, error) {
	if h.Writer != 0 {
		var err error
		s.p.View(func(st *blockstore.State, _ uint64) {
			err = st.Authenticate(blockstore.Session{Writer: h.Writer, Token: h.Token})
		})
		return h.Writer, err
	}
	res, err := s.p.Propose(ctx, blockstore.Command{Kind: blockstore.CmdOpenWriter, Token: h.Token, Name: h.Name,
		TTLMilli: uint64(s.o.lease(h.TTL).Milliseconds())})
	if err == nil {
		err = res.Err
	}
	return res.Writer, err
}

func (s *Server) propose(ctx context.Context, cmd blockstore.Command) error {
	res, err := s.p.Propose(ctx, cmd)
	if err == nil {
		err = res.Err
	}
	return err
}

func (s *Server) detach(st *serverStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.close(errors.Of(errors.KindUnavailable))
	r := st.r
	if r.streams[st.writer] == st {
		delete(r.streams, st.writer)
	}
	if s.reign == r {
		r.table.Detach(time.Now(), st.writer, st.number)
		r.flush()
	}
}

// handle takes one message of a client.
func (s *Server) handle(ctx context.Context, st *serverStream, m *ClientMsg) error {
	if err := m.validate(); err != nil {
		return err
	}
	if m.Hello != nil {
		return errors.New(errors.KindInvalid, "a second hello on one stream: the client is defective")
	}
	if m.End != nil {
		return s.endSession(ctx, st, m.End)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := st.r
	if s.reign != r || st.closed() {
		return errNotLeader()
	}
	now := time.Now()
	if why := r.suspicious(now, m); why != "" {
		r.table.End(st.writer, fmt.Sprintf("session %d %s: it is ended", st.writer, why))
		r.flush()
		return st.err
	}
	if m.Claims != nil {
		answer, err := r.table.Claims(now, st.writer, st.number, m.Claims)
		if err != nil {
			r.flush()
			return err
		}
		st.out.Claimed = answer
	}
	if m.KeepAlive != 0 {
		r.table.Received(now, st.writer, st.number)
		st.out.Seen = max(st.out.Seen, m.KeepAlive)
		r.pending[st] = keepAlive{max(m.KeepAlive, r.pending[st].seq), now, !st.renewed}
		wake(r.wakeProver)
	}
	r.table.Release(now, st.writer, st.number, m.Releases)
	r.table.Acquire(now, st.writer, st.number, m.Acquires)
	r.table.Files(st.writer, st.number, m.Files)
	r.flush()
	if len(m.Acquires) > 0 {
		wake(r.wakeTimer)
	}
	st.queued()
	return nil
}

// suspicious tells what in a message only a defective or lying client can say:
// an index that was never given to anybody, or a lock of an inode that does not exist.
func (r *reign) suspicious(now time.Time, m *ClientMsg) string {
	newest := uint64(0)
	for i := range m.Releases {
		newest = max(newest, m.Releases[i].Index)
	}
	if m.Claims != nil {
		newest = max(newest, m.Claims.Floor)
	}
	if newest > r.applied {
		r.s.p.View(func(_ *blockstore.State, applied uint64) { r.applied = max(r.applied, applied) })
		if newest > r.applied {
			return fmt.Sprintf("tells of index %d, which has not been applied", newest)
		}
	}
	for _, a := range m.Acquires {
		if uint64(a.ID) < r.nextInode || uint64(a.ID) >= blockstore.InodeMax {
			continue
		}
		r.refresh(now, false) // its range may be new
		if uint64(a.ID) >= r.nextInode {
			return fmt.Sprintf("asks for the lock of inode %d, which has never been given out", a.ID)
		}
	}
	return ""
}

// endSession closes the writer; the session answers nothing any more by its own word.
func (s *Server) endSession(ctx context.Context, st *serverStream, e *End) error {
	cmd := blockstore.Command{Kind: blockstore.CmdCloseWriter, Writer: st.writer, Token: st.token}
	if e.Clean {
		cmd.Count = 1
	}
	res, err := s.p.Propose(ctx, cmd)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return err
	}
	st.r.do(func(now time.Time) { st.r.table.Ended(now, st.writer, res.Index, true) })
	return errors.New(errors.KindSessionEnded, "session %d is closed", st.writer)
}

// send sends what collects for the stream, until it is closed.
func (s *Server) send(ctx context.Context, st *serverStream, stream ServerStream) error {
	for {
		select {
		case <-st.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.mu.Lock()
		m, err := st.out, st.err
		st.out = ServerMsg{Epoch: st.r.epoch}
		s.mu.Unlock()
		if err == nil || errors.Is(err, errors.KindSessionEnded) {
			if err := sendPieces(stream, &m); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// sendPieces sends m in messages of bounded size, in the order of its fields.
func sendPieces(stream ServerStream, m *ServerMsg) error {
	for {
		piece := *m
		piece.Grants, m.Grants = split(m.Grants)
		more := len(m.Grants) > 0
		if more {
			piece.Revokes, piece.Files = nil, nil
		} else {
			piece.Revokes, m.Revokes = split(m.Revokes)
			piece.Files, m.Files = split(m.Files)
			more = len(m.Revokes)+len(m.Files) > 0
		}
		if piece.Claimed != nil || piece.Seen+piece.Renewed > 0 || len(piece.Grants)+len(piece.Revokes)+len(piece.Files) > 0 {
			if err := stream.Send(&piece); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		m.Claimed, m.Seen, m.Renewed = nil, 0, 0
	}
}

func split[T any](items []T) (piece, rest []T) {
	n := min(len(items), messageItemsMax)
	return items[:n:n], items[n:]
}
