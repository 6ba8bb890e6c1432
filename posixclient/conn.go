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
const attachWait = 3 * time.Second

// retryPause is the pause between two rounds over all nodes.
const retryPause = 200 * time.Millisecond

// conn is the client's connection to the file service of one node at a time;
// when that node fails, the next call goes to another.
type conn struct {
	addrs []string
	id    []byte // this client's secret name
	wait  time.Duration

	mu      sync.Mutex
	current *attachment
	next    int // index of the address to try next
	closed  bool
}

// attachment is a live Attach stream to one node. Handles belong to it.
type attachment struct {
	addr  string
	cc    *grpc.ClientConn
	files filepb.FilesClient
	node  string
	stop  context.CancelFunc
	dead  chan struct{} // closed when the stream broke
}

func newConn(addrs []string, wait time.Duration) *conn {
	c := &conn{addrs: addrs, id: make([]byte, 16), wait: wait}
	_, _ = rand.Read(c.id) // never fails: crypto/rand
	return c
}

// get returns a live attachment, searching a node until ctx ends or the client's wait is over (KindUnavailable).
func (c *conn) get(ctx context.Context) (*attachment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New(errors.KindBadHandle, "the client is closed")
	}
	if c.current != nil {
		select {
		case <-c.current.dead:
			c.current.close()
			c.current = nil
		default:
			return c.current, nil
		}
	}
	if c.wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.wait)
		defer cancel()
	}
	var last error
	for {
		for range c.addrs {
			addr := c.addrs[c.next%len(c.addrs)]
			a, err := c.attach(ctx, addr)
			if err == nil {
				c.current = a
				return a, nil
			}
			last = err
			c.next++
		}
		select {
		case <-ctx.Done():
			return nil, errors.New(errors.KindUnavailable, "no file service of the nodes %v answers (the last said: %w); check that they run and that a majority of them is up (dfs status)", c.addrs, last)
		case <-time.After(retryPause):
		}
	}
}

func (c *conn) attach(ctx context.Context, addr string) (*attachment, error) {
	cc, err := grpc.NewClient(addr, cluster.DialOptions(nil, nil)...)
	if err != nil {
		return nil, errors.New(errors.KindInvalid, "address %s: %w", addr, err)
	}
	life, stop := context.WithCancel(context.Background())
	a := &attachment{addr: addr, cc: cc, files: filepb.NewFilesClient(cc), stop: stop, dead: make(chan struct{})}
	first := make(chan error, 1)
	go func() {
		defer close(a.dead)
		stream, err := a.files.Attach(life, &filepb.AttachRequest{Client: c.id})
		if err != nil {
			first <- err
			return
		}
		answer, err := stream.Recv()
		a.node = answer.GetNode()
		first <- err
		for err == nil {
			_, err = stream.Recv()
		}
	}()
	timer := time.NewTimer(attachWait)
	defer timer.Stop()
	select {
	case err = <-first:
	case <-timer.C:
		err = errors.New(errors.KindTimeout, "%s did not answer within %s", addr, attachWait)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		a.close()
		return nil, err
	}
	return a, nil
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
		c.next++
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

// lost reports whether err says that the node, not the file system, failed.
func lost(err error) bool {
	switch errors.KindOf(err) {
	case errors.KindUnavailable, errors.KindNotLeader, errors.KindSessionEnded, errors.KindDeadWriter:
		return true
	}
	return false
}

// call runs f on a live attachment. An idempotent call is repeated on another
// node when one fails; another's outcome is then unknown, and that is told
// (KindIO), never silently repeated.
func (c *conn) call(ctx context.Context, idempotent bool, what string, f func(ctx context.Context, a *attachment) error) error {
	for {
		a, err := c.get(ctx)
		if err != nil {
			return err
		}
		err = f(ctx, a)
		if err == nil || !lost(err) || ctx.Err() != nil {
			return err
		}
		c.failed(a)
		if !idempotent {
			return errors.New(errors.KindIO, "%s: node %s failed before it answered, so whether it was done is unknown: look, then decide (%w)", what, a.addr, err)
		}
	}
}
