package fileconn

import (
	"context"
	"sync"
	"syscall"
	"time"

	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// CloseWait bounds what Close of an Open waits for a node's answer.
const CloseWait = 10 * time.Second

// reopenFlags are the flags that a file keeps when it is opened again: not those that say how it was found or made (0x400000 is O_TMPFILE's own).
const reopenFlags = ^uint32(syscall.O_CREAT | syscall.O_EXCL | syscall.O_TRUNC | syscall.O_DIRECTORY | 0x400000)

// Open is an open file or directory. It survives the failure of the node it was opened on; not so the locks set
// through it: while one is held, what is done through it on another node fails with KindIO.
type Open struct {
	c      *Conn
	ino    uint64
	flags  uint32 // as opened, less those that say how it is found or made
	dir    bool
	caller *filepb.Caller
	turn   Gate // held while it is opened again

	mu      sync.Mutex
	numbers map[string]uint64 // on the nodes, by the incarnation of the file service that gave it
	locks   map[lockOwner]string
	closed  error // what every call gets after Close
}

// lockOwner holds a lock; the table gives the incarnation that it was set on.
type lockOwner struct {
	owner uint64
	flock bool
}

// NewOpen makes an Open that is open nowhere yet: On or Made opens it. The file is opened with these O_* flags for caller.
func (c *Conn) NewOpen(ino uint64, flags uint32, dir bool, caller *filepb.Caller) *Open {
	return &Open{c: c, ino: ino, flags: flags & reopenFlags, dir: dir, caller: caller, turn: NewGate(), numbers: map[string]uint64{}}
}

// Ino is the inode number, 0 before Made.
func (o *Open) Ino() uint64 { return o.ino }

// Flags are the O_* flags that it keeps.
func (o *Open) Flags() uint32 { return o.flags }

// Made notes the answer of node a to a call that made the file and opened it.
func (o *Open) Made(a *Attachment, r *filepb.OpenResponse) {
	o.ino = r.GetAttr().GetIno()
	o.setNumber(a, r.GetNumber())
}

func (o *Open) setNumber(a *Attachment, n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.numbers[a.Incarnation] = n
	if o.closed == nil {
		o.c.mu.Lock()
		defer o.c.mu.Unlock()
		o.c.opens[o] = struct{}{}
	}
}

// forget drops the number n, which the node of a does not know any more.
func (o *Open) forget(a *Attachment, n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.numbers[a.Incarnation] == n {
		delete(o.numbers, a.Incarnation)
		o.locks = nil
	}
}

// number is the file's number on the node of a, 0 if it is not open there.
func (o *Open) number(a *Attachment) (uint64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return 0, o.closed
	}
	for _, on := range o.locks {
		if on != a.Incarnation {
			return 0, errors.New(errors.KindIO, "the file lock held through this descriptor was lost with the node that held it: close it")
		}
	}
	return o.numbers[a.Incarnation], nil
}

// Alive is what Close was told, nil before it.
func (o *Open) Alive() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

// On is the file's handle on the node of a, where it is opened first if need be.
func (o *Open) On(ctx context.Context, a *Attachment) (*filepb.Handle, error) {
	n, err := o.number(a)
	if err == nil && n == 0 {
		n, err = o.reopen(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	return &filepb.Handle{Client: o.c.id, Number: n}, nil
}

func (o *Open) reopen(ctx context.Context, a *Attachment) (uint64, error) {
	if err := o.turn.Enter(ctx); err != nil {
		return 0, err
	}
	defer o.turn.Leave()
	if n, err := o.number(a); n != 0 || err != nil {
		return n, err
	}
	return o.open(ctx, a, o.flags, true)
}

// First opens it on the node of a for the first time, with all the flags given.
func (o *Open) First(ctx context.Context, a *Attachment, flags uint32) error {
	_, err := o.open(ctx, a, flags, false)
	return err
}

func (o *Open) open(ctx context.Context, a *Attachment, flags uint32, again bool) (uint64, error) {
	var r *filepb.OpenResponse
	var err error
	if o.dir {
		r, err = a.Files.OpenDir(ctx, &filepb.InodeRequest{Caller: o.caller, Ino: o.ino, Client: o.c.id})
	} else {
		r, err = a.Files.Open(ctx, &filepb.OpenRequest{Caller: o.caller, Ino: o.ino, Flags: flags, Client: o.c.id, Reopen: again})
	}
	if err != nil {
		return 0, err
	}
	o.setNumber(a, r.GetNumber())
	return r.GetNumber(), nil
}

// Call runs one operation that changes nothing on the open file, opening it again first where the node changed; see Conn.Call.
func (o *Open) Call(ctx context.Context, what string, op func(ctx context.Context, a *Attachment, h *filepb.Handle) error) error {
	return o.c.Call(ctx, what, o.through(op))
}

// Change is Call of an operation that changes something; see Conn.Change.
func (o *Open) Change(ctx context.Context, what string, op func(ctx context.Context, a *Attachment, h *filepb.Handle) error) error {
	return o.c.Change(ctx, what, o.through(op))
}

func (o *Open) through(op func(ctx context.Context, a *Attachment, h *filepb.Handle) error) func(ctx context.Context, a *Attachment) error {
	return func(ctx context.Context, a *Attachment) error {
		h, err := o.On(ctx, a)
		if err != nil {
			return err
		}
		if err = op(ctx, a, h); !errors.Is(err, errors.KindStale) {
			return err
		}
		// The node forgot the handle before it did anything: open again, once more.
		o.forget(a, h.GetNumber())
		if h, err = o.On(ctx, a); err != nil {
			return err
		}
		return op(ctx, a, h)
	}
}

// NoteLock notes what became of a lock of owner, set or let go (as a whole) on the node of a.
func (o *Open) NoteLock(a *Attachment, owner uint64, flock, held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !held {
		delete(o.locks, lockOwner{owner, flock})
		return
	}
	if o.locks == nil {
		o.locks = map[lockOwner]string{}
	}
	o.locks[lockOwner{owner, flock}] = a.Incarnation
}

// Close closes the file; every later call gets the error after. On a node that is gone there is nothing to close. The
// result of a first Close is that of the node; flush asks for it beforehand, as close(2) does.
func (o *Open) Close(ctx context.Context, flush bool, after error) error {
	o.mu.Lock()
	closed, numbers := o.closed, o.numbers
	o.closed = after
	o.mu.Unlock()
	o.c.mu.Lock()
	delete(o.c.opens, o)
	o.c.mu.Unlock()
	if closed != nil {
		return closed
	}
	a, err := o.c.Live()
	if a == nil || err != nil || numbers[a.Incarnation] == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), CloseWait)
	defer cancel()
	r := &filepb.HandleRequest{Handle: &filepb.Handle{Client: o.c.id, Number: numbers[a.Incarnation]}}
	if o.dir {
		_, err = a.Files.ReleaseDir(ctx, r)
	} else {
		if flush {
			_, err = a.Files.Flush(ctx, r)
		}
		if _, rerr := a.Files.Release(ctx, r); err == nil {
			err = rerr
		}
	}
	if err != nil && (Lost(err) || errors.Is(err, errors.KindStale)) {
		return nil
	}
	return err
}

// follow waits for the end of attachment a, while it is the one in use, and then opens what is open on another
// node at once: a file without a name lives only as long as somebody has it open.
func (c *Conn) follow(a *Attachment) {
	c.reopenAll(a)
	<-a.dead
	c.mu.Lock()
	idle := c.closed || c.current != nil && c.current != a || len(c.opens) == 0
	c.mu.Unlock()
	if !idle {
		_, _ = c.Get(context.Background()) // bounded by the wait, or by Close; whoever needs a node gets the error
	}
}

// reopenAll opens on the node of a what is open and is not so there.
func (c *Conn) reopenAll(a *Attachment) {
	c.mu.Lock()
	list := make([]*Open, 0, len(c.opens))
	for o := range c.opens {
		list = append(list, o)
	}
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-a.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	for _, o := range list {
		if a.isDead() {
			return
		}
		_, _ = o.On(ctx, a) // the next call through it gets the error
	}
}
