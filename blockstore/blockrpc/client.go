package blockrpc

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
)

// ClientOptions of NewClient; the zero value is good.
type ClientOptions struct {
	// Log gets warnings; nil discards them.
	Log *slog.Logger
	// HedgeMin and HedgeMax bound how long a replica may take over a read before
	// another is asked, too; between them it is four times the usual. 0: 50 ms, 500 ms.
	HedgeMin, HedgeMax time.Duration
	// AttemptTimeout bounds one question to one node; 0 is 5 s. Writes have no such bound.
	AttemptTimeout time.Duration
	// StallTimeout is how long the leader may leave records unanswered before the
	// client asks around for a newer leader; 0 is 2 s.
	StallTimeout time.Duration
}

// Validate fills in defaults and refuses nonsense with KindInvalid.
func (o *ClientOptions) Validate() error {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&o.HedgeMin, 50 * time.Millisecond}, {&o.HedgeMax, 500 * time.Millisecond}, {&o.AttemptTimeout, 5 * time.Second}, {&o.StallTimeout, 2 * time.Second}} {
		if *d.v < 0 {
			return errors.New(errors.KindInvalid, "block store client: negative time %v", *d.v)
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.HedgeMin > o.HedgeMax {
		return errors.New(errors.KindInvalid, "block store client: least hedge time %v is above the greatest, %v", o.HedgeMin, o.HedgeMax)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Client is the block store as one file server uses it, over the connections
// of a cluster. All methods are safe for concurrent use. It runs one goroutine
// while idle.
type Client struct {
	cluster *cluster.Cluster
	session blockstore.Session
	opts    ClientOptions
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	wg      sync.WaitGroup

	w  writeQueue
	rd readHistory

	commands chan struct{} // holds one token: who has it may send a command
	op       uint64        // number of the newest command; belongs to who has the token
}

var _ blockstore.Store = (*Client)(nil)

// NewClient makes the store of a session, which is attached to epoch (0: not
// yet; records wait until SetEpoch). cl stays the caller's to close, after the Client.
func NewClient(cl *cluster.Cluster, session blockstore.Session, epoch blockstore.Epoch, o ClientOptions) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if session.Writer == 0 {
		return nil, errors.New(errors.KindInvalid, "block store client: a session without a writer")
	}
	c := &Client{cluster: cl, session: session, opts: o, commands: make(chan struct{}, 1)}
	c.ctx, c.stop = context.WithCancel(context.Background())
	c.w.init(epoch)
	c.commands <- struct{}{}
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		c.runWrites()
	}()
	return c, nil
}

// SetEpoch tells that the writer is attached to epoch; records that wait for it
// go on, under their old numbers. An epoch not above the newest told is ignored.
func (c *Client) SetEpoch(epoch blockstore.Epoch) {
	if c.w.setEpoch(epoch) {
		c.cluster.InvalidateBefore(uint64(epoch)) // an epoch is its leader's term
	}
}

// Epoch is the newest epoch told.
func (c *Client) Epoch() blockstore.Epoch {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.epoch
}

// Close ends the client. Records that are pending fail with KindUnavailable:
// whether they are durable is unknown.
func (c *Client) Close() {
	c.w.close()
	c.stop()
	c.wg.Wait()
}

// LastIndex is the index of the newest acknowledged record.
func (c *Client) LastIndex() uint64 {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.lastIndex
}

// backoff waits longer and longer between tries, with jitter.
type backoff struct{ wait time.Duration }

func (b *backoff) sleep(ctx context.Context) error {
	const least, greatest = 5 * time.Millisecond, 500 * time.Millisecond
	b.wait = min(max(2*b.wait, least), greatest)
	t := time.NewTimer(b.wait/2 + rand.N(b.wait/2))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *backoff) reset() { b.wait = 0 }

// retriable tells whether the same question may fare better later or elsewhere.
func retriable(err error) bool {
	switch errors.KindOf(err) {
	case errors.KindNotLeader, errors.KindUnavailable, errors.KindTimeout, errors.KindInterrupted, errors.KindNotReached, errors.KindAgain:
		return true
	}
	return false
}

// onLeader calls f with the leader until it succeeds, fails for good, or ctx ends.
func (c *Client) onLeader(ctx context.Context, what string, f func(ctx context.Context, cc *grpc.ClientConn) error) error {
	var b backoff
	for {
		conn, l, err := c.cluster.Leader(ctx)
		if err != nil {
			return errors.New(errors.KindOf(err), "block store: %s: %w", what, err)
		}
		actx, cancel := context.WithTimeout(ctx, c.opts.AttemptTimeout)
		err = f(actx, conn)
		cancel()
		if err == nil || (!retriable(err) && ctx.Err() == nil) {
			return err
		}
		if ctx.Err() != nil || c.ctx.Err() != nil {
			return c.gaveUp(ctx, what, err)
		}
		c.cluster.Failed(l.Address, err)
		if b.sleep(ctx) != nil {
			return c.gaveUp(ctx, what, err)
		}
	}
}

// gaveUp is the error of a call whose time is over; last is what the last try said.
func (c *Client) gaveUp(ctx context.Context, what string, last error) error {
	switch {
	case c.ctx.Err() != nil:
		return errors.New(errors.KindUnavailable, "block store: %s: the client was closed", what)
	case ctx.Err() == context.Canceled:
		return errors.New(errors.KindInterrupted, "block store: %s was interrupted: %w", what, ctx.Err())
	}
	return errors.New(errors.KindTimeout, "block store: %s did not succeed in its time; the last try said: %v. Check that a majority of the nodes runs and is reached from here", what, last)
}
