package posixclient

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// attachWait bounds one attempt to reach one node.
const attachWait = 5 * time.Second

// retryPause is the pause between two rounds over all nodes.
const retryPause = 200 * time.Millisecond

// conn is the client's connection to the file service of one node at a time;
// when that node fails, the next call goes to another.
type conn struct {
	addrs []string
	id    []byte // this client's secret name
	wait  time.Duration
	turn  gate // held by who searches a node

	mu      sync.Mutex
	current *attachment
	next    int // index of the address to try next
	closed  bool
}

// attachment is a live Attach stream to one node.
type attachment struct {
	addr        string
	cc          *grpc.ClientConn
	files       filepb.FilesClient
	incarnation string // of the file service: handles belong to it
	stop        context.CancelFunc
	dead        chan struct{} // closed when the stream broke
}

// gate is a mutex that can be waited for with a context.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

func newConn(addrs []string, wait time.Duration) *conn {
	c := &conn{addrs: addrs, id: make([]byte, 16), wait: wait, turn: newGate()}
	_, _ = rand.Read(c.id) // never fails: crypto/rand
	return c
}

// live returns the attachment in use, nil if there is none.
func (c *conn) live() (*attachment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New(errors.KindBadHandle, "the client is closed")
	}
	if c.current != nil && c.current.isDead() {
		c.current.close()
		c.current = nil
	}
	return c.current, nil
}

// get returns a live attachment, searching a node until ctx ends or the client's wait is over (KindUnavailable).
func (c *conn) get(ctx context.Context) (*attachment, error) {
	if a, err := c.live(); a != nil || err != nil {
		return a, err
	}
	search := ctx
	if c.wait > 0 {
		var cancel context.CancelFunc
		search, cancel = context.WithTimeout(ctx, c.wait)
		defer cancel()
	}
	last := error(nil)
	if err := c.turn.enter(search); err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer c.turn.leave()
	for {
		for range c.addrs {
			if a, err := c.live(); a != nil || err != nil {
				return a, err
			}
			a, err := c.attach(search, c.addr())
			if err == nil {
				return c.use(a)
			}
			if search.Err() != nil {
				return nil, c.unreachable(ctx, firstOf(last, err))
			}
			last = err
		}
		select {
		case <-search.Done():
			return nil, c.unreachable(ctx, last)
		case <-time.After(retryPause):
		}
	}
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// addr is the address to try now; the next call gives the next one.
func (c *conn) addr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr := c.addrs[c.next%len(c.addrs)]
	c.next++
	return addr
}

func (c *conn) use(a *attachment) (*attachment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		a.close()
		return nil, errors.New(errors.KindBadHandle, "the client is closed")
	}
	c.current = a
	return a, nil
}

// unreachable is the error of a search that found no node: of the context, if that ended it.
func (c *conn) unreachable(ctx context.Context, last error) error {
	if err := ctx.Err(); err != nil {
		return errors.New(errors.KindOf(err), "searching a node of %v: %w", c.addrs, err)
	}
	return errors.New(errors.KindUnavailable, "no file service of the nodes %v answers (the last said: %w); check that they run and that a majority of them is up (dfs status)", c.addrs, last)
}

// attach opens the client's session on the node at addr.
func (c *conn) attach(ctx context.Context, addr string) (*attachment, error) {
	cc, err := grpc.NewClient(addr, cluster.DialOptions(nil, nil)...)
	if err != nil {
		return nil, errors.New(errors.KindInvalid, "address %s: %w", addr, err)
	}
	life, stop := context.WithCancel(context.Background())
	a := &attachment{addr: addr, cc: cc, files: filepb.NewFilesClient(cc), stop: stop, dead: make(chan struct{})}
	first := make(chan attached, 1)
	go a.listen(life, c.id, first)
	timer := time.NewTimer(attachWait)
	defer timer.Stop()
	var got attached
	select {
	case got = <-first:
	case <-timer.C:
		got.err = errors.New(errors.KindTimeout, "%s did not answer within %s", addr, attachWait)
	case <-ctx.Done():
		got.err = errors.New(errors.KindOf(ctx.Err()), "%s did not answer in time: %w", addr, ctx.Err())
	}
	if got.err != nil {
		a.close()
		return nil, got.err
	}
	a.incarnation = got.incarnation
	return a, nil
}

// attached is the first answer of an Attach stream.
type attached struct {
	incarnation string
	err         error
}

// listen keeps the Attach stream until it breaks; calls that are under way then end, too.
func (a *attachment) listen(life context.Context, id []byte, first chan<- attached) {
	stream, err := a.files.Attach(life, &filepb.AttachRequest{Client: id})
	if err == nil {
		var answer *filepb.AttachResponse
		answer, err = stream.Recv()
		first <- attached{string(answer.GetIncarnation()), err}
	} else {
		first <- attached{err: err}
	}
	for err == nil {
		_, err = stream.Recv()
	}
	close(a.dead)
	_ = a.cc.Close()
}

func (a *attachment) isDead() bool {
	select {
	case <-a.dead:
		return true
	default:
		return false
	}
}

func (a *attachment) close() {
	a.stop()
	_ = a.cc.Close()
}

// failed gives an attachment up after an error of the connection.
func (c *conn) failed(a *attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == a {
		a.close()
		c.current = nil
	}
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.current != nil {
		c.current.close()
		c.current = nil
	}
}

// lost reports whether err, of a call whose context lives, says that the node, not the file system, failed.
func lost(err error) bool {
	switch errors.KindOf(err) {
	case errors.KindUnavailable, errors.KindNotLeader, errors.KindSessionEnded, errors.KindDeadWriter,
		errors.KindInterrupted: // the connection was given up
		return true
	}
	return false
}

// call runs f on a live attachment. An idempotent call is repeated on another
// node when one fails, for at most the client's wait; another's outcome is then unknown, and that is told
// (KindIO), never silently repeated.
func (c *conn) call(ctx context.Context, idempotent bool, what string, f func(ctx context.Context, a *attachment) error) error {
	started := time.Now()
	for tries := 1; ; tries++ {
		a, err := c.get(ctx)
		if err != nil {
			return err
		}
		err = f(ctx, a)
		switch {
		case err == nil:
			return nil
		case over(ctx, err):
			return ended(ctx, what, idempotent)
		case !lost(err):
			return err
		}
		c.failed(a)
		switch {
		case !idempotent:
			return errors.New(errors.KindIO, "%s: node %s failed before it answered, so whether it was done is unknown: look, then decide (%w)", what, a.addr, err)
		case c.wait > 0 && time.Since(started) > c.wait:
			return errors.New(errors.KindUnavailable, "%s: no node could do it within %s: %w", what, c.wait, err)
		}
		if tries%len(c.addrs) != 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ended(ctx, what, idempotent)
		case <-time.After(retryPause):
		}
	}
}

// over reports whether ctx has ended. gRPC tells of a deadline a moment before the context does.
func over(ctx context.Context, err error) bool {
	if deadline, ok := ctx.Deadline(); ok && errors.Is(err, errors.KindTimeout) && time.Until(deadline) < time.Second {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

// ended is the error of a call whose context ended first.
func ended(ctx context.Context, what string, idempotent bool) error {
	if idempotent {
		return errors.New(errors.KindOf(ctx.Err()), "%s: %w", what, ctx.Err())
	}
	return errors.New(errors.KindOf(ctx.Err()), "%s: whether it was done is unknown: %w", what, ctx.Err())
}
