package raftstore

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Catch-up makes this replica's device what a manifest says, by pulling from a replica that has applied at least as
// much the chunks that differ. Steps, each of which may be repeated after a crash:
//
//  1. note, durably, that a copy is under way (catchup.json: copying)
//  2. list the source's chunks, and for each page put those whose last index differs from ours and drop what it has not
//  3. note the floor: the greatest index that a source had applied when it answered
//  4. ResetTo(manifest): from here on raft feeds the entries behind the manifest
//  5. note that the copy is done; reads are served once the floor is applied, and then the note goes
//
// The copy is fuzzy: chunks hold bytes of entries up to the floor, which redo writes again. Two chunks of one last index
// hold the same bytes, because all replicas applied the same log.

// Progress tells how far a copy is. The counts begin anew with each source.
type Progress struct {
	Active       bool
	Source       string // address of the replica copied from
	Manifest     uint64 // the index copied for
	ChunksListed uint64 // of the source, so far
	ChunksDone   uint64 // of those: the same already, or fetched
	ChunksPulled uint64
	Bytes        uint64 // fetched
	Since        time.Time
	LastError    string // why the last source was given up
}

type copyState struct {
	mu   sync.Mutex
	p    Progress  // guarded by mu
	mark *copyMark // guarded by mu: what the note says, nil if there is none
}

func (c *copyState) update(f func(p *Progress)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.p)
}

// CatchUp tells of the copy that is under way, or of the last one.
func (n *Node) CatchUp() Progress {
	n.copying.mu.Lock()
	defer n.copying.mu.Unlock()
	return n.copying.p
}

// clearCopyMark removes the note once the floor of a finished copy is applied.
func (n *Node) clearCopyMark() {
	n.copying.mu.Lock()
	mark := n.copying.mark
	n.copying.mu.Unlock()
	if mark == nil || mark.Copying || n.Applied() < mark.Floor {
		return
	}
	if err := n.commitFile(func() error { return os.Remove(filepath.Join(n.opts.Dir, copyMarkFile)) }); err != nil {
		n.log.Warn("cannot remove the note of a finished copy", "err", err)
		return
	}
	n.copying.mu.Lock()
	n.copying.mark = nil
	n.copying.mu.Unlock()
}

// incomplete tells whether the device itself says that a copy was cut short.
func incomplete(dev blockstore.Device) bool {
	d, ok := dev.(interface{ Incomplete() bool })
	return ok && d.Incomplete()
}

// catchUp returns when this replica is what m says, or the node closes or has died. It runs on the FSM goroutine,
// and tries source after source for as long as it takes: raft would start anew otherwise.
func (n *Node) catchUp(m *manifest) error {
	a := n.applier
	n.copying.mu.Lock()
	unfinished := n.copying.mark != nil && n.copying.mark.Copying
	n.copying.mu.Unlock()
	if m.Applied <= a.progress.applied.Load() && !unfinished && !incomplete(a.dev) {
		return nil
	}
	state, err := blockstore.DecodeState(m.State)
	if err != nil {
		return errors.New(errors.KindOf(err), "the state machine in a snapshot's manifest cannot be read: %w", err)
	}
	a.progress.copying.Store(true)
	a.recent.disturb()
	if err := n.setCopyMark(&copyMark{Copying: true}); err != nil {
		return n.deadCopy(err)
	}
	n.copying.update(func(p *Progress) { *p = Progress{Active: true, Manifest: m.Applied, Since: time.Now()} })
	defer n.copying.update(func(p *Progress) { p.Active = false })
	floor, err := n.pullFromAny(m)
	if err != nil {
		return err
	}
	return n.finishCopy(m, state, floor)
}

// finishCopy makes the copied content the device's own.
func (n *Node) finishCopy(m *manifest, state *blockstore.State, floor uint64) error {
	a := n.applier
	if err := n.setCopyMark(&copyMark{Copying: true, Floor: floor}); err != nil {
		return n.deadCopy(err)
	}
	if err := a.dev.ResetTo(m.Applied, m.State); err != nil {
		return n.deadCopy(errors.New(errors.KindOf(err), "the device failed at the end of a copy: %w", err))
	}
	if err := n.setCopyMark(&copyMark{Floor: floor}); err != nil {
		return n.deadCopy(err)
	}
	a.mu.Lock()
	a.state = state
	a.mu.Unlock()
	a.progress.setCopyFloor(floor)
	a.progress.setStart(0, 0) // what the device held before is gone
	if a.progress.redoEnds(m.Applied, 0) {
		a.dev.EndRedo()
	}
	a.progress.copying.Store(false)
	a.progress.note(m.Applied, 0)
	n.stores.covered.Store(max(n.stores.covered.Load(), m.Applied))
	n.log.Info("the copy from another replica is complete", "index", m.Applied, "floor", floor)
	return nil
}

func (n *Node) deadCopy(err error) error {
	n.applier.die(err)
	return err
}

// pullFromAny copies from one source after another until one copy is whole, and returns the floor.
func (n *Node) pullFromAny(m *manifest) (floor uint64, err error) {
	ctx, cancel := n.runCtx()
	defer cancel()
	pause := 100 * time.Millisecond
	for {
		for _, source := range n.copySources(m) {
			c := &pull{node: n, source: source, min: m.Applied}
			err := c.run(ctx)
			floor = max(floor, c.applied)
			if err == nil {
				return floor, nil
			}
			if n.isClosing() {
				return 0, errors.New(errors.KindUnavailable, "this node is shutting down")
			}
			if c.local {
				return 0, n.deadCopy(err)
			}
			n.log.Warn("cannot copy from a replica; trying the next", "source", source, "err", err)
			n.copying.update(func(p *Progress) { p.LastError = err.Error() })
		}
		select {
		case <-time.After(pause):
		case <-n.closing:
			return 0, errors.New(errors.KindUnavailable, "this node is shutting down")
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// copySources lists the replicas to try: the members now, then those of the manifest.
func (n *Node) copySources(m *manifest) []string {
	seen := map[string]bool{n.opts.Advertise: true}
	var out []string
	for _, s := range append(n.peerAddresses(), m.Sources...) {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

const (
	pullPage    = 1024
	pullTimeout = 30 * time.Second // of one request
)

// pull is one copy from one source.
type pull struct {
	node    *Node
	source  string
	min     uint64 // the source must have applied this
	applied uint64 // the greatest index the source told
	local   bool   // the error is of this node's device
}

func (c *pull) run(ctx context.Context) error {
	if err := c.askApplied(ctx); err != nil {
		return err
	}
	if c.applied < c.min {
		return errors.New(errors.KindNotReached, "replica %s has applied %d, less than the snapshot's %d", c.source, c.applied, c.min)
	}
	c.node.copying.update(func(p *Progress) {
		*p = Progress{Active: true, Source: c.source, Manifest: c.min, Since: time.Now(), LastError: p.LastError}
	})
	var after *blockstore.ChunkID
	for {
		rctx, cancel := context.WithTimeout(ctx, pullTimeout)
		page, applied, err := c.node.opts.Peers.FetchChunks(rctx, c.source, after, pullPage)
		cancel()
		if err != nil {
			return err
		}
		c.applied = max(c.applied, applied)
		c.node.copying.update(func(p *Progress) { p.ChunksListed += uint64(len(page)) })
		if err := c.page(ctx, after, page); err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		last := page[len(page)-1].ChunkID
		after = &last
	}
	return c.askApplied(ctx)
}

func (c *pull) askApplied(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	applied, err := c.node.opts.Peers.AppliedIndex(ctx, c.source)
	c.applied = max(c.applied, applied)
	return err
}

// page makes the chunks behind `after`, up to the page's last (an empty page: all the rest), the source's.
func (c *pull) page(ctx context.Context, after *blockstore.ChunkID, page []blockstore.ChunkInfo) error {
	mine, err := c.localChunks(after, page)
	if err != nil {
		c.local = true
		return err
	}
	var want []blockstore.ChunkID
	for _, info := range page {
		last, have := mine[info.ChunkID]
		delete(mine, info.ChunkID)
		if !have || last != info.LastIndex {
			want = append(want, info.ChunkID)
		}
	}
	c.node.copying.update(func(p *Progress) { p.ChunksDone += uint64(len(page) - len(want)) })
	for id, last := range mine { // not at the source: gone
		gone := emptyChunk(id)
		gone.LastIndex = max(last, c.min)
		if err := c.put(gone); err != nil {
			return err
		}
	}
	return c.fetch(ctx, want)
}

// localChunks lists this device's chunks in the range that page covers.
func (c *pull) localChunks(after *blockstore.ChunkID, page []blockstore.ChunkInfo) (map[blockstore.ChunkID]uint64, error) {
	mine := make(map[blockstore.ChunkID]uint64)
	for {
		list, err := c.node.applier.dev.Chunks(after, pullPage)
		if err != nil {
			return nil, err
		}
		for i, info := range list {
			if len(page) > 0 && chunkLess(page[len(page)-1].ChunkID, info.ChunkID) {
				return mine, nil
			}
			mine[info.ChunkID] = info.LastIndex
			after = &list[i].ChunkID
		}
		if len(list) < pullPage {
			return mine, nil
		}
	}
}

// fetch gets the chunks, several at a time, and puts them.
func (c *pull) fetch(ctx context.Context, want []blockstore.ChunkID) error {
	if len(want) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan fetched)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	c.startFetching(ctx, &wg, want, out)
	for range want {
		var f fetched
		select {
		case f = <-out:
		case <-ctx.Done():
			return ctx.Err()
		}
		if f.err != nil {
			return f.err
		}
		c.applied = max(c.applied, f.applied)
		if err := c.put(f.chunk); err != nil {
			return err
		}
		c.node.copying.update(func(p *Progress) {
			p.ChunksDone++
			p.ChunksPulled++
			p.Bytes += uint64(len(f.chunk.Data))
		})
	}
	return nil
}

// fetched is a chunk as its source gave it.
type fetched struct {
	chunk   blockstore.ChunkData
	applied uint64
	err     error
}

// startFetching fetches the chunks, several at a time, into out, until ctx ends.
func (c *pull) startFetching(ctx context.Context, wg *sync.WaitGroup, want []blockstore.ChunkID, out chan<- fetched) {
	ids := make(chan blockstore.ChunkID)
	for range min(c.node.limits.CatchUpParallel, len(want)) {
		wg.Go(func() {
			for id := range ids {
				var f fetched
				f.chunk, f.applied, f.err = c.fetchOne(ctx, id)
				select {
				case out <- f:
				case <-ctx.Done():
				}
			}
		})
	}
	wg.Go(func() {
		defer close(ids)
		for _, id := range want {
			select {
			case ids <- id:
			case <-ctx.Done():
				return
			}
		}
	})
}

func (c *pull) fetchOne(ctx context.Context, id blockstore.ChunkID) (blockstore.ChunkData, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	chunk, applied, err := c.node.opts.Peers.FetchChunk(ctx, c.source, id, c.min)
	if err == nil && chunk.ChunkID != id {
		err = errors.New(errors.KindCorrupt, "asked for chunk %v, got %v", id, chunk.ChunkID)
	}
	if err == nil && len(chunk.Data) == 0 {
		last := chunk.LastIndex
		chunk = emptyChunk(id)
		chunk.LastIndex = last
	}
	return chunk, applied, err
}

func (c *pull) put(chunk blockstore.ChunkData) error {
	if err := c.node.applier.dev.PutChunk(chunk); err != nil {
		// What the source sent may be nonsense; anything else is this node's own disk.
		c.local = !errors.Is(err, errors.KindInvalid)
		return errors.New(errors.KindOf(err), "cannot put chunk %v: %w", chunk.ChunkID, err)
	}
	return nil
}

func chunkLess(a, b blockstore.ChunkID) bool {
	return a.VDisk < b.VDisk || a.VDisk == b.VDisk && a.Chunk < b.Chunk
}

// emptyChunk is a chunk without a present block.
func emptyChunk(id blockstore.ChunkID) blockstore.ChunkData {
	blocks := 256
	switch id.Chunk {
	case 0:
		blocks = 16
	case 1:
		blocks = 240
	}
	return blockstore.ChunkData{ChunkInfo: blockstore.ChunkInfo{ChunkID: id}, Present: make([]byte, blocks/8)}
}
