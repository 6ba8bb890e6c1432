package fs

import (
	"context"
	"syscall"
	"time"

	"dfs/fs/layout"
	"dfs/internal/errors"
)

// A thin client's changes are done once. The client has a session: an inode without a name that holds a table of what became of its last
// requests (layout.ClientSlot). Whoever serves it:
//
//  1. pins the session's lock exclusive for the time of the request, before any other lock: so what another server still does for
//     this client is finished and flushed, or fenced;
//  2. looks the request's number up: done already, it is answered with what is noted;
//  3. does it. Each commit looks, with the session's inode locked, whether the generation and the lock are still those under which the request began,
//     and the commit that completes the request notes it in the same record.
//
// The generation rises whenever the client comes to a node. A request that was held up anywhere, in a socket or in a process that was
// stopped, is of an older one then, and does nothing any more.

// clientKeep is how long a session that is open nowhere is kept for its client to come back.
const clientKeep = 2 * time.Minute

// clientTouch is how old the mark of a session's last use may be.
const clientTouch = 10 * time.Second

// Request names a changing request of a thin client.
type Request struct {
	Session    Ino
	Who        [16]byte // from the client's secret name
	Generation uint64
	Slot       uint32 // below layout.ClientSlots; one request of a slot is under way at a time
	Number     uint64 // rises within its slot
}

// Outcome is what is noted of a request that was done.
type Outcome struct {
	Ino Ino    // that was made or opened; 0: none
	At  uint64 // where a write began, or how many bytes were copied
}

// Sessions are what a file server keeps for thin clients.
type Sessions interface {
	// OpenSession opens the client's session on this server, a new one if the old is 0, gone or another client's,
	// under a new generation, which is durable then. The session lives while the handle is open somewhere.
	OpenSession(ctx context.Context, who [16]byte, old Ino) (ino Ino, generation uint64, h Handle, err error)
	// CloseSession frees a session for good.
	CloseSession(ctx context.Context, who [16]byte, old Ino) error
	// Once runs f, which does the request with the context that it is given and makes it durable, unless it was done before: then it
	// tells what was noted. KindUnavailable: the outcome is to be asked again, in a new generation.
	Once(ctx context.Context, r Request, f func(ctx context.Context) error) (done *Outcome, err error)
}

var _ Sessions = (*Server)(nil)

// completion is what a commit notes of the request that it is part of.
type completion struct {
	state layout.ClientState // ClientNone: nothing
	ino   uint64
	at    uint64
	done  uint64
}

// completes marks the tx as the one that does the request, if it is done for one, as a whole.
func (t *tx) completes(c completion) {
	c.state = layout.ClientDone
	t.completion = c
}

// once is a request under way.
type once struct {
	r     Request
	ss    *session
	n     *node // of the client's session, pinned
	found layout.ClientSlot
}

type onceKey struct{}

func onceOf(ctx context.Context) *once {
	q, _ := ctx.Value(onceKey{}).(*once)
	return q
}

// Once implements Sessions.
func (s *Server) Once(ctx context.Context, r Request, f func(ctx context.Context) error) (done *Outcome, err error) {
	if r.Slot >= layout.ClientSlots || r.Number == 0 {
		return nil, errors.New(errors.KindInvalid, "request %d of slot %d: there are %d slots, and numbers begin at 1", r.Number, r.Slot, layout.ClientSlots)
	}
	err = s.do(ctx, func(ss *session) error {
		q := &once{r: r, ss: ss, n: ss.node(uint64(r.Session))}
		defer ss.put(q.n)
		admitted, err := ss.pinOne(ctx, q.n, exclusive(uint64(r.Session)))
		if err != nil {
			return err
		}
		defer ss.unpin(pin{n: q.n, admitted: admitted})
		if err := q.look(ctx); err != nil {
			return err
		}
		if q.found.State == layout.ClientDone && q.found.Number == r.Number {
			done = &Outcome{Ino: Ino(q.found.Ino), At: q.found.At}
			return ss.flushNode(ctx, q.n)
		}
		err = f(context.WithValue(ctx, onceKey{}, q))
		if ss.ctx.Err() != nil {
			return errors.New(errors.KindUnavailable, "the file server's session with the cluster ended: what became of the request is to be asked again (%v)", err)
		}
		return err
	})
	return done, err
}

// look reads the table and refuses what is not of the client's present generation.
func (q *once) look(ctx context.Context) error {
	if err := q.ss.lockLocal(ctx, q.n, false); err != nil {
		return err
	}
	defer q.n.lk.unlock(false)
	in, err := q.ss.load(ctx, q.n)
	if errors.Is(err, errors.KindStale) {
		return q.void("it is gone")
	}
	if err != nil {
		return err
	}
	q.found, err = q.check(in)
	return err
}

// check finds the request's slot in the session's inode. KindUnavailable if the request is void.
func (q *once) check(in *layout.Inode) (slot layout.ClientSlot, err error) {
	if in == nil || in.Flags&layout.FlagClient == 0 {
		return slot, q.void("it is gone")
	}
	h, err := layout.DecodeClientHead(q.n.ino, in.Inline)
	if err != nil {
		return slot, err
	}
	if h.Who != q.r.Who {
		return slot, errors.New(errors.KindAccess, "the session of a request is another client's")
	}
	if h.Generation != q.r.Generation {
		return slot, q.void("the client has come to a node again since")
	}
	slot, err = layout.ClientGet(q.n.ino, in.Inline, int(q.r.Slot))
	if err == nil && slot.Number > q.r.Number {
		return slot, q.void("a later request of its slot was done")
	}
	return slot, err
}

func (q *once) void(why string) error {
	return errors.New(errors.KindUnavailable, "request %d of slot %d of the thin client's session %d is void: %s", q.r.Number, q.r.Slot, q.n.ino, why)
}

// enter is called by each commit of the request, before it: it locks the session's inode, which is the last lock of all, refuses a request
// that is void by now, and notes in the tx what that completes. leave must follow.
func (q *once) enter(ctx context.Context, t *tx) error {
	if t.ss != q.ss {
		return q.void("the file server has another session with the cluster")
	}
	if err := t.ss.lockLocal(ctx, q.n, true); err != nil {
		return err
	}
	in := q.n.in.Load()
	slot, err := q.check(in)
	if err == nil && slot.Number == q.r.Number && slot.State == layout.ClientDone {
		err = q.void("it was done meanwhile")
	}
	if err != nil {
		q.leave()
		return err
	}
	if c := t.completion; c.state != layout.ClientNone {
		e := t.edit(q.n)
		e.Inline = layout.ClientSet(e.Inline, int(q.r.Slot), layout.ClientSlot{Number: q.r.Number, State: c.state, Ino: c.ino, At: c.at, Done: c.done})
		if now := t.ss.now(); now.Sec-e.Mtime.Sec > int64(clientTouch/time.Second) {
			e.Mtime = now
		}
	}
	return nil
}

func (q *once) leave() { q.n.lk.unlock(true) }

// complete notes in a record of its own that the request is done, if there is one.
func (ss *session) complete(ctx context.Context) error {
	if onceOf(ctx) == nil {
		return nil
	}
	t := ss.newTx()
	defer t.done()
	t.completes(completion{})
	return t.commit(ctx)
}

// keepsClient reports whether in is the session of a thin client that may still come back.
func (ss *session) keepsClient(in *layout.Inode) bool {
	return in.Flags&layout.FlagClient != 0 && time.Duration(ss.now().Sec-in.Mtime.Sec)*time.Second < clientKeep+clientTouch
}

// OpenSession implements Sessions.
func (s *Server) OpenSession(ctx context.Context, who [16]byte, old Ino) (ino Ino, generation uint64, h Handle, err error) {
	err = s.do(ctx, func(ss *session) error {
		if err := ss.admit(ctx, admitSmall); err != nil {
			return err
		}
		var n *node
		err := errors.Of(errors.KindStale)
		if old != 0 {
			n, generation, err = ss.resumeClient(ctx, who, uint64(old))
		}
		if errors.Is(err, errors.KindStale) {
			n, generation, err = ss.newClient(ctx, who)
		}
		if err != nil {
			return err
		}
		ino = Ino(n.ino)
		h = s.handles.add(ss, n.ino, syscall.O_RDWR, false, false).id
		defer ss.put(n)
		return ss.flushNode(ctx, n)
	})
	if err != nil && h != 0 {
		_ = s.Release(ctx, h)
		h = 0
	}
	return ino, generation, h, err
}

// resumeClient begins a new generation of a session. KindStale if it is no session of this client. The node is referenced.
func (ss *session) resumeClient(ctx context.Context, who [16]byte, ino uint64) (*node, uint64, error) {
	var generation uint64
	err := ss.do1(ctx, exclusive(ino), func(n *node) error {
		in, err := ss.load(ctx, n)
		if err != nil {
			return err
		}
		head, err := clientHead(in, who)
		if err != nil {
			return err
		}
		head.Generation++
		generation = head.Generation
		t := ss.newTx()
		defer t.done()
		e := t.edit(n)
		e.Inline, e.Mtime = layout.ClientSetHead(e.Inline, head), ss.now()
		return t.commit(ctx)
	})
	if err != nil {
		return nil, 0, err
	}
	return ss.node(ino), generation, nil
}

// clientHead is the head of a session of this client. KindStale if in is none.
func clientHead(in *layout.Inode, who [16]byte) (head layout.ClientHead, err error) {
	if in.Flags&layout.FlagClient == 0 {
		return head, staleInode(in.Ino)
	}
	if head, err = layout.DecodeClientHead(in.Ino, in.Inline); err == nil && head.Who != who {
		err = staleInode(in.Ino)
	}
	return head, err
}

// newClient makes a session. The node is referenced.
func (ss *session) newClient(ctx context.Context, who [16]byte) (*node, uint64, error) {
	ino, err := ss.newInode(ctx)
	if err != nil {
		return nil, 0, err
	}
	err = ss.do1(ctx, exclusive(ino), func(n *node) error {
		now := ss.now()
		t := ss.newTx()
		defer t.done()
		t.create(n, &layout.Inode{Ino: ino, Mode: syscall.S_IFREG, Flags: layout.FlagInline | layout.FlagOrphan | layout.FlagClient,
			Size: layout.ClientTableSize, Inline: layout.NewClientTable(layout.ClientHead{Who: who, Generation: 1}),
			Atime: now, Mtime: now, Ctime: now, Btime: now})
		t.addOrphan(ino, layout.OrphanUnlinked)
		return t.commit(ctx)
	})
	if err != nil {
		ss.keepInode(ino)
		return nil, 0, err
	}
	return ss.node(ino), 1, nil
}

// CloseSession implements Sessions.
func (s *Server) CloseSession(ctx context.Context, who [16]byte, old Ino) error {
	return s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, exclusive(uint64(old)), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err == nil {
				_, err = clientHead(in, who)
			}
			if err != nil {
				return err
			}
			t := ss.newTx()
			defer t.done()
			t.free(n)
			t.clearOrphan(n.ino, layout.OrphanUnlinked)
			return t.commit(ctx)
		})
	})
}
