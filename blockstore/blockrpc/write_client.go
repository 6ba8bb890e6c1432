package blockrpc

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc"

	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
)

// stalePatience is how long a refused epoch is not tried again, unless a newer one is told.
const stalePatience = time.Second

// runWrites sends the records and calls their done functions until the client is closed.
func (c *Client) runWrites() {
	var b backoff
	for {
		switch c.w.next() {
		case workStop:
			return
		case workFail:
			for {
				r, err, ok := c.w.failNext()
				if !ok {
					break
				}
				r.done(0, err)
			}
			continue
		}
		acked, err := c.writeOnce()
		if acked {
			b.reset()
		}
		switch kind := errors.KindOf(err); {
		case c.ctx.Err() != nil:
		case finalForWriter(kind):
			c.opts.Log.Error("the writer can write no more", "writer", c.session.Writer, "err", err)
			c.w.fail(err)
		case kind == errors.KindStaleEpoch:
			c.w.waitEpoch(stalePatience)
		default:
			_ = b.sleep(c.ctx) // the loop looks at the context
		}
	}
}

// finalForWriter: the session is over, or its next record can never be applied,
// and so none after it.
func finalForWriter(k errors.Kind) bool {
	switch k {
	case errors.KindDeadWriter, errors.KindWrongToken, errors.KindNoReserve, errors.KindInvalid, errors.KindTooNew:
		return true
	}
	return false
}

// writeOnce finds the leader and sends records to it until that ends, with an
// error always. acked tells whether any was acknowledged.
func (c *Client) writeOnce() (acked bool, err error) {
	c.w.waitEpoch(0)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	lctx, lcancel := context.WithTimeout(ctx, c.opts.AttemptTimeout)
	conn, l, err := c.cluster.Leader(lctx)
	lcancel()
	if err != nil {
		c.opts.Log.Warn("no leader to write to; the records are kept", "writer", c.session.Writer, "err", err)
		return false, errors.New(errors.KindUnavailable, "%w", err)
	}
	st := &clientStream{addr: l.Address, cancel: cancel}
	c.w.begin(st)
	defer c.w.end(st)
	acked, err = c.streamTo(ctx, conn, st)
	switch errors.KindOf(err) {
	case errors.KindStaleEpoch:
		c.w.refused(st.epoch)
	case errors.KindInterrupted: // by SetEpoch, the watch, or Close
	default:
		c.cluster.Failed(st.addr, err)
	}
	return acked, err
}

// streamTo sends records on a new stream and takes in its answers.
func (c *Client) streamTo(ctx context.Context, conn *grpc.ClientConn, st *clientStream) (acked bool, err error) {
	stream, err := blockpb.NewBlockStoreClient(conn).Write(ctx)
	if err != nil {
		return false, err
	}
	c.wg.Add(2)
	go func() {
		defer c.wg.Done()
		c.send(stream, st)
	}()
	go func() {
		defer c.wg.Done()
		c.watch(ctx, st)
	}()
	for {
		in, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				err = errors.New(errors.KindUnavailable, "the node at %s ended the stream of records", st.addr)
			}
			return acked, err
		}
		for _, a := range in.Acks {
			r, ok := c.w.acked(a.Seq, a.Index)
			if !ok {
				return acked, errors.New(errors.KindUnavailable, "the node at %s acknowledged record %d out of turn", st.addr, a.Seq)
			}
			acked = true
			r.done(a.Index, nil)
			c.w.released(&r)
		}
	}
}

// send sends the records from the first not acknowledged on, and what comes.
func (c *Client) send(stream grpc.BidiStreamingClient[blockpb.WriteRequest, blockpb.WriteResponse], st *clientStream) {
	for first := true; ; first = false {
		seq, record, ok := c.w.take(st)
		if !ok {
			return
		}
		req := &blockpb.WriteRequest{Seq: seq, Record: record}
		if first {
			req.Writer, req.Token, req.Epoch = uint64(c.session.Writer), c.session.Token[:], uint64(st.epoch)
		}
		if stream.Send(req) != nil {
			return // Recv tells why
		}
	}
}

// watch asks around when the leader answers nothing, and gives the stream up
// when another leads: a leader that is cut off or stopped says nothing.
func (c *Client) watch(ctx context.Context, st *clientStream) {
	t := time.NewTicker(c.opts.StallTimeout / 2)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if !c.w.stalled(c.opts.StallTimeout) {
			continue
		}
		if err := c.cluster.Refresh(ctx); err != nil {
			continue
		}
		lctx, cancel := context.WithTimeout(ctx, c.opts.StallTimeout)
		_, l, err := c.cluster.Leader(lctx)
		cancel()
		if err == nil && l.Address != st.addr {
			c.opts.Log.Warn("the leader does not answer and another leads", "writer", c.session.Writer, "silent", st.addr, "leader", l.Address)
			st.cancel()
			return
		}
	}
}
