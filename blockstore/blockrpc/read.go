package blockrpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

const (
	// leaderWaitMillis is how long the leader may wait until it has applied what a read asks for.
	leaderWaitMillis = 2000
	// lagMemory is how long a replica that lagged is passed over for indexes that it lacked.
	lagMemory = 100 * time.Millisecond
	// A replica that left a read without an answer in time (it may be copying from another one) is passed over for
	// this long, twice as long each time until it answers a read.
	silenceMin = 500 * time.Millisecond
	silenceMax = 10 * time.Second
)

// readHistory is what past reads tell the next ones.
type readHistory struct {
	mu      sync.Mutex
	usual   time.Duration // moving average of answered reads
	lag     map[string]lagNote
	silence map[string]time.Duration // of replicas that were silent: how long they are passed over
}

// lagNote: until then, the replica is thought not to have applied index.
type lagNote struct {
	index uint64
	until time.Time
}

func (h *readHistory) took(addr string, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.usual += (d - h.usual) / 8
	delete(h.silence, addr)
}

// noteSilence notes that the replica did not answer in time.
func (h *readHistory) noteSilence(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.silence == nil {
		h.silence = make(map[string]time.Duration)
	}
	h.silence[addr] = min(max(2*h.silence[addr], silenceMin), silenceMax)
	h.noteLocked(addr, lagNote{0, time.Now().Add(h.silence[addr])})
}

// hedge is how long to wait for an answer before another node is asked.
func (h *readHistory) hedge(o *ClientOptions) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(max(4*h.usual, o.HedgeMin), o.HedgeMax)
}

func (h *readHistory) lags(addr string, minIndex uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	note, ok := h.lag[addr]
	return ok && minIndex >= note.index && time.Now().Before(note.until)
}

func (h *readHistory) noteLag(addr string, minIndex uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noteLocked(addr, lagNote{minIndex, time.Now().Add(lagMemory)})
}

func (h *readHistory) noteLocked(addr string, n lagNote) {
	if h.lag == nil {
		h.lag = make(map[string]lagNote)
	}
	h.lag[addr] = n
}

// Read implements blockstore.Reader. More blocks than ReadBlocksMax are read in
// several steps, each as of its own index, and the least of these is returned.
func (c *Client) Read(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, uint64, error) {
	total := uint64(0)
	for _, sp := range spans {
		if err := checkSpan(sp, 1<<40); err != nil {
			return nil, 0, err
		}
		total += sp.Count
	}
	if len(spans) == 0 {
		return nil, 0, errors.New(errors.KindInvalid, "a read without spans")
	}
	if total <= blockstore.ReadBlocksMax {
		return c.readStep(ctx, spans, minIndex)
	}
	return c.readSteps(ctx, spans, minIndex)
}

// readSteps reads what is too much for one question.
func (c *Client) readSteps(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, uint64, error) {
	results := make([]blockstore.ReadResult, len(spans))
	index := uint64(0)
	for i, sp := range spans {
		res := &results[i]
		res.Data = make([]byte, 0, sp.Count*wal.BlockSize)
		res.Present = make([]byte, (sp.Count+7)/8)
		for off := uint64(0); off < sp.Count; off += blockstore.ReadBlocksMax { // a multiple of 8: bitmaps join at bytes
			part := wal.Span{VDisk: sp.VDisk, Block: sp.Block + off, Count: min(sp.Count-off, blockstore.ReadBlocksMax)}
			got, at, err := c.readStep(ctx, []wal.Span{part}, minIndex)
			if err != nil {
				return nil, 0, err
			}
			res.Data = append(res.Data, got[0].Data...)
			copy(res.Present[off/8:], got[0].Present)
			if index == 0 || at < index {
				index = at
			}
		}
	}
	return results, index, nil
}

// readStep asks one question.
func (c *Client) readStep(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, uint64, error) {
	req := make([]*blockpb.Span, len(spans))
	for i, sp := range spans {
		req[i] = &blockpb.Span{Vdisk: sp.VDisk, Block: sp.Block, Count: sp.Count}
	}
	resp, err := anyReplica(ctx, c, "reading blocks", minIndex, func(ctx context.Context, cc *grpc.ClientConn, wait uint32) (*blockpb.ReadResponse, error) {
		resp, err := blockpb.NewBlockStoreClient(cc).Read(ctx, &blockpb.ReadRequest{Spans: req, MinIndex: minIndex, WaitMillis: wait})
		if err != nil {
			return nil, err
		}
		return resp, checkRead(resp, spans, minIndex)
	})
	if err != nil {
		return nil, 0, err
	}
	out := make([]blockstore.ReadResult, len(spans))
	for i := range out {
		out[i] = blockstore.ReadResult{Data: resp.Data[i], Present: resp.Present[i]}
	}
	return out, resp.Index, nil
}

// checkRead refuses an answer that does not fit its question.
func checkRead(resp *blockpb.ReadResponse, spans []blockstore.ReadSpan, minIndex uint64) error {
	ok := len(resp.Data) == len(spans) && len(resp.Present) == len(spans) && resp.Index >= minIndex
	for i := 0; ok && i < len(spans); i++ {
		ok = uint64(len(resp.Data[i])) == spans[i].Count*wal.BlockSize && uint64(len(resp.Present[i])) >= (spans[i].Count+7)/8
	}
	if !ok {
		return errors.New(errors.KindCorrupt, "the answer to a read of %d spans at index %d does not fit it (index %d)", len(spans), minIndex, resp.Index)
	}
	return nil
}

// Presence implements blockstore.Reader.
func (c *Client) Presence(ctx context.Context, span blockstore.ReadSpan, minIndex uint64) ([]byte, uint64, error) {
	if err := checkSpan(span, presenceBlocksMax); err != nil {
		return nil, 0, err
	}
	req := &blockpb.Span{Vdisk: span.VDisk, Block: span.Block, Count: span.Count}
	resp, err := anyReplica(ctx, c, "asking for the presence of blocks", minIndex, func(ctx context.Context, cc *grpc.ClientConn, wait uint32) (*blockpb.PresenceResponse, error) {
		resp, err := blockpb.NewBlockStoreClient(cc).Presence(ctx, &blockpb.PresenceRequest{Span: req, MinIndex: minIndex, WaitMillis: wait})
		if err == nil && (uint64(len(resp.Present)) < (span.Count+7)/8 || resp.Index < minIndex) {
			err = errors.New(errors.KindCorrupt, "the answer about %d blocks at index %d does not fit the question", span.Count, minIndex)
		}
		return resp, err
	})
	if err != nil {
		return nil, 0, err
	}
	return resp.Present, resp.Index, nil
}

// SkipAbsent implements blockstore.Reader.
func (c *Client) SkipAbsent(ctx context.Context, vdisk, block, minIndex uint64) (uint64, error) {
	resp, err := anyReplica(ctx, c, "asking for the next present block", minIndex, func(ctx context.Context, cc *grpc.ClientConn, wait uint32) (*blockpb.SkipAbsentResponse, error) {
		resp, err := blockpb.NewBlockStoreClient(cc).SkipAbsent(ctx, &blockpb.SkipAbsentRequest{Vdisk: vdisk, Block: block, MinIndex: minIndex, WaitMillis: wait})
		if err == nil && (resp.Block < block || resp.Index < minIndex) {
			err = errors.New(errors.KindCorrupt, "the answer about the first present block from %d on at index %d does not fit the question", block, minIndex)
		}
		return resp, err
	})
	if err != nil {
		return 0, err
	}
	return resp.Block, nil
}

// question is one call to one node; waitMillis is how long it may wait for its index.
type question[T any] func(ctx context.Context, cc *grpc.ClientConn, waitMillis uint32) (T, error)

// anyReplica asks the nearest replica, then the leader, then the others: the
// next as soon as one fails or takes too long. The first answer wins; when all
// have failed it begins anew, until ctx ends.
func anyReplica[T any](ctx context.Context, c *Client, what string, minIndex uint64, ask question[T]) (T, error) {
	ctx, cancel := c.until(ctx)
	defer cancel()
	var b backoff
	var none T
	for {
		out, err := askRound(ctx, c, minIndex, ask)
		if err == nil {
			return out, nil
		}
		if ctx.Err() == nil && finalForReader(errors.KindOf(err)) {
			return none, err
		}
		if ctx.Err() != nil || b.sleep(ctx) != nil {
			return none, c.gaveUp(ctx, what, err)
		}
	}
}

// finalForReader: the question itself is wrong.
func finalForReader(k errors.Kind) bool {
	return k == errors.KindInvalid || k == errors.KindForeign || k == errors.KindNotImpl
}

// outcome is how one question of a round ended.
type outcome[T any] struct {
	place int // among those asked
	val   T
	err   error
}

// askRound asks each candidate at most once.
func askRound[T any](ctx context.Context, c *Client, minIndex uint64, ask question[T]) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.AttemptTimeout)
	defer cancel()
	cand := c.candidates(minIndex)
	results := make(chan outcome[T], len(cand))
	answered := make([]bool, len(cand))
	asked, open := 0, 0
	hedge := c.rd.hedge(&c.opts)
	timer := time.NewTimer(hedge)
	defer timer.Stop()
	next := func() {
		if asked == len(cand) {
			return
		}
		place, t := asked, cand[asked]
		asked, open = asked+1, open+1
		timer.Reset(hedge)
		go func() {
			val, err := askOne(ctx, c, t, minIndex, ask)
			results <- outcome[T]{place, val, err}
		}()
	}
	next()
	var failed error
	var none T
	for open > 0 {
		select {
		case r := <-results:
			open--
			answered[r.place] = true
			if r.err == nil {
				c.demote(cand[:r.place], answered)
				return r.val, nil
			}
			if failed == nil || finalForReader(errors.KindOf(failed)) {
				failed = r.err
			}
			next()
		case <-timer.C:
			next()
		case <-ctx.Done():
			if failed == nil {
				failed = errors.New(errors.KindTimeout, "no node answered: %w", ctx.Err())
			}
			return none, failed
		}
	}
	return none, failed
}

// candidate is a node to be asked; the zero candidate stands for the leader,
// whoever that is when its turn comes.
type candidate struct {
	cluster.Target
	waitMillis uint32
}

// candidates lists whom to ask: the nearest, the leader (if it is not the
// nearest), the others; the leader first where the nearest is known to lag.
func (c *Client) candidates(minIndex uint64) []candidate {
	near := c.cluster.ByNearness()
	leader := c.cluster.KnownLeader()
	out := make([]candidate, 0, len(near)+1)
	for i, t := range near {
		leads := t.Address == leader
		if i == 0 && leads {
			out = append(out, candidate{t, leaderWaitMillis})
			continue
		}
		if !leads && !c.rd.lags(t.Address, minIndex) {
			out = append(out, candidate{t, 0})
		}
		if i == 0 {
			out = append(out, candidate{}) // the leader, whoever it is
		}
	}
	if len(out) == 0 {
		out = append(out, candidate{})
	}
	return out
}

// askOne asks one candidate and notes what the answer tells about it.
func askOne[T any](ctx context.Context, c *Client, t candidate, minIndex uint64, ask question[T]) (val T, err error) {
	if t.Conn != nil {
		return askNode(ctx, c, t.Conn, t.Address, t.waitMillis, minIndex, ask)
	}
	for range 2 { // the second time after one that was thought to lead has named who does
		cc, l, lerr := c.cluster.Leader(ctx)
		if lerr != nil {
			return val, lerr
		}
		val, err = askNode(ctx, c, cc, l.Address, leaderWaitMillis, minIndex, ask)
		if !errors.Is(err, errors.KindNotLeader) {
			break
		}
	}
	return val, err
}

// askNode asks the node at addr.
func askNode[T any](ctx context.Context, c *Client, conn *grpc.ClientConn, addr string, wait uint32, minIndex uint64, ask question[T]) (val T, err error) {
	start := time.Now()
	val, err = ask(ctx, conn, wait)
	switch {
	case err == nil:
		c.rd.took(addr, time.Since(start))
	case ctx.Err() != nil: // the round is over: not the node's fault
	case errors.Is(err, errors.KindNotReached) && wait == 0:
		c.rd.noteLag(addr, minIndex)
	case errors.Is(err, errors.KindNotReached): // a leader that does not get on may be none
		c.cluster.InvalidateLeader(addr)
	default:
		c.cluster.Failed(addr, err)
	}
	return val, err
}

// demote tells the cluster of nodes that were asked earlier than the one that
// answered and are silent still: the next reads go elsewhere until they answer.
func (c *Client) demote(earlier []candidate, answered []bool) {
	for i, t := range earlier {
		if !answered[i] && t.Conn != nil {
			c.rd.noteSilence(t.Address)
			c.cluster.Failed(t.Address, errors.New(errors.KindTimeout, "a read got no answer in time"))
		}
	}
}
