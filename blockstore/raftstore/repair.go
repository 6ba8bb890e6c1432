package raftstore

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// repairs counts bad blocks and what became of them, and lets one goroutine repair a block.
type repairs struct {
	found    atomic.Uint64
	repaired atomic.Uint64
	failed   atomic.Uint64
	scrubbed atomic.Uint64 // chunks
	rounds   atomic.Uint64
	lastEnd  atomic.Int64 // Unix seconds of the last whole round

	mu   sync.Mutex
	busy map[wal.Addr]chan struct{}
}

const repairTimeout = 10 * time.Second // of one request

// repairAll puts good content in place of bad blocks, or returns the first failure.
func (n *Node) repairAll(ctx context.Context, bad []blockstore.BadBlock) error {
	for _, b := range bad {
		if err := n.repair(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// repair repairs one block, or waits for whoever does.
func (n *Node) repair(ctx context.Context, b blockstore.BadBlock) error {
	r := &n.repairs
	r.mu.Lock()
	if other := r.busy[b.Addr]; other != nil {
		r.mu.Unlock()
		select {
		case <-other:
			return nil // the caller reads again
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if r.busy == nil {
		r.busy = make(map[wal.Addr]chan struct{})
	}
	mine := make(chan struct{})
	r.busy[b.Addr] = mine
	r.mu.Unlock()
	err := n.repairFromPeers(ctx, b)
	r.mu.Lock()
	delete(r.busy, b.Addr)
	r.mu.Unlock()
	close(mine)
	return err
}

// repairFromPeers takes the block from the first replica that has a good copy and has applied the last change of its chunk
// here (be it behind otherwise, as an idle leader's followers always are), else what most replicas made of a torn one.
func (n *Node) repairFromPeers(ctx context.Context, b blockstore.BadBlock) error {
	n.repairs.found.Add(1)
	n.log.Warn("found a damaged block", "vdisk", b.VDisk, "block", b.Block, "suspect", b.Suspect, "lastIndex", b.LastIndex)
	var last error
	actx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	for a := range n.askPeers(actx, func(ctx context.Context, addr string) (PeerBlock, error) {
		return n.opts.Peers.FetchBlock(ctx, addr, b.Addr, b.LastIndex)
	}) {
		p, err := a.block, a.err
		if err == nil && p.Present && len(p.Data) != wal.BlockSize || err == nil && p.Applied < b.LastIndex {
			err = errors.New(errors.KindCorrupt, "replica %s sent a block of %d bytes as of %d", a.addr, len(p.Data), p.Applied)
		}
		if err == nil {
			return n.putRepair(b, p, a.addr)
		}
		last = err
	}
	if n.agreeOnSuspect(ctx, b) {
		return nil
	}
	n.repairs.failed.Add(1)
	if last == nil {
		last = errors.New(errors.KindUnavailable, "there is no other replica")
	}
	return errors.New(errors.KindCorrupt, "block %d of vdisk %d is damaged on node %s, and no replica gave a good copy: %w", b.Block, b.VDisk, n.opts.ID, last)
}

// peerAnswer is what one replica said.
type peerAnswer struct {
	addr  string
	block PeerBlock
	err   error
}

// askPeers asks all other replicas at once, so that one that hangs holds nobody up, and yields the answers as they come. What is
// under way when the loop ends is called off.
func (n *Node) askPeers(ctx context.Context, ask func(context.Context, string) (PeerBlock, error)) iter.Seq[peerAnswer] {
	return func(yield func(peerAnswer) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		peers := n.peerAddresses()
		answers := make(chan peerAnswer, len(peers))
		for _, addr := range peers {
			go func() {
				block, err := ask(ctx, addr)
				answers <- peerAnswer{addr, block, err}
			}()
		}
		for range peers {
			if !yield(<-answers) {
				return
			}
		}
	}
}

func (n *Node) putRepair(b blockstore.BadBlock, p PeerBlock, from string) error {
	data := p.Data
	if !p.Present {
		data = nil
	}
	done, err := n.applier.dev.Repair(b, data, p.Present)
	if err != nil {
		go n.applier.die(errors.New(errors.KindOf(err), "the device failed in a repair: %w", err))
		return err
	}
	if done {
		n.repairs.repaired.Add(1)
		n.log.Info("repaired a damaged block", "vdisk", b.VDisk, "block", b.Block, "from", from)
	}
	return nil
}

// agreeOnSuspect puts in the place of a bad block what redo made of it on a majority of the members, if it is the very same
// on all of these. It is right then: what was written since the last checkpoint stood in the log and was written again, and what
// was not, no crash has touched. Only a disk that rots besides makes redo's content another than that, and none makes
// it the same on two. So a block that a loss of power tore on every replica needs a majority, as everything else does.
// Where the disk of this replica rotted, its checksum is left, be the block changed in part since: one replica's content that fits it is
// the block, without a majority.
func (n *Node) agreeOnSuspect(ctx context.Context, b blockstore.BadBlock) bool {
	var present [1]byte
	mine := make([]byte, wal.BlockSize)
	bad, err := n.applier.dev.Read(wal.Span{VDisk: b.VDisk, Block: b.Block, Count: 1}, mine, present[:])
	if err != nil || len(bad) != 1 || bad[0].LastIndex != b.LastIndex {
		return false
	}
	members := 1 + len(n.peerAddresses())
	votes := map[string]int{}
	vote := func(data []byte) bool {
		votes[string(data)]++
		return 2*votes[string(data)] > members && n.putRepair(b, PeerBlock{Data: data, Present: true}, "agreement of a majority") == nil
	}
	if bad[0].Suspect && vote(mine) {
		return true
	}
	from, ok := n.opts.Peers.(SuspectFetcher)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	for a := range n.askPeers(ctx, func(ctx context.Context, addr string) (PeerBlock, error) {
		return from.FetchSuspect(ctx, addr, b.Addr, b.LastIndex)
	}) {
		p := a.block
		if a.err != nil || p.Copying || !p.Present || p.Applied < b.LastIndex || len(p.Data) != wal.BlockSize {
			continue
		}
		if n.applier.dev.Fits(bad[0], p.Data) {
			return n.putRepair(b, p, a.addr) == nil
		}
		if vote(p.Data) {
			n.log.Warn("accepted the redone content of a block that was torn on every replica", "vdisk", b.VDisk, "block", b.Block)
			return true
		}
	}
	return false
}

// ScrubProgress tells how a scrub goes.
type ScrubProgress struct {
	Chunks   uint64 // walked
	Bad      uint64 // blocks found damaged
	Repaired uint64
	Failed   uint64             // blocks that no replica had a good copy of
	At       blockstore.ChunkID // the last chunk walked
}

const scrubChunks = 4 // checked at a time

// Scrub checks every block of this replica once, as fast as the disk allows, and repairs what is
// damaged; progress (may be nil) is called now and then.
func (n *Node) Scrub(ctx context.Context, progress func(ScrubProgress)) (ScrubProgress, error) {
	return n.scrub(ctx, 0, progress)
}

// scrub is Scrub at a pace of at most bytesPerSecond (0: any).
func (n *Node) scrub(ctx context.Context, bytesPerSecond int64, progress func(ScrubProgress)) (ScrubProgress, error) {
	var sum ScrubProgress
	var after *blockstore.ChunkID
	for {
		if err := n.waitReadable(ctx, 0); err != nil {
			return sum, err
		}
		bad, next, err := n.applier.dev.ScrubNext(after, scrubChunks)
		if err != nil {
			return sum, errors.New(errors.KindOf(err), "the scrub cannot read the device: %w", err)
		}
		for _, b := range bad {
			sum.Bad++
			if err := n.repair(ctx, b); err != nil {
				sum.Failed++
				n.log.Error("a damaged block could not be repaired", "err", err)
			} else {
				sum.Repaired++
			}
		}
		if next == nil {
			n.repairs.rounds.Add(1)
			n.repairs.lastEnd.Store(time.Now().Unix())
			return sum, nil
		}
		after, sum.At = next, *next
		sum.Chunks += scrubChunks
		n.repairs.scrubbed.Add(scrubChunks)
		if progress != nil {
			progress(sum)
		}
		var pause <-chan time.Time
		if bytesPerSecond > 0 {
			pause = time.After(time.Duration(scrubChunks*256*wal.BlockSize) * time.Second / time.Duration(bytesPerSecond))
		} else {
			ready := make(chan time.Time)
			close(ready)
			pause = ready
		}
		select {
		case <-pause:
		case <-ctx.Done():
			return sum, ctx.Err()
		}
	}
}

// scrubLoop first repairs what redo found damaged at the start, then walks everything, slowly, again and again.
func (n *Node) scrubLoop() {
	ctx, cancel := n.runCtx()
	defer cancel()
	p := &n.applier.progress
	if p.wait(ctx, n.closing, p.settled) != nil {
		return
	}
	n.clearCopyMark()
	n.repairSuspects(ctx)
	if n.limits.ScrubPause < 0 {
		return
	}
	pause := min(10*time.Minute, n.limits.ScrubPause)
	for {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		sum, err := n.scrub(ctx, n.limits.ScrubBytesPerSecond, nil)
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the background scrub stopped; it starts again later", "err", err)
		}
		if sum.Bad > 0 {
			n.log.Warn("the background scrub found damage", "bad", sum.Bad, "repaired", sum.Repaired, "failed", sum.Failed)
		}
		pause = n.limits.ScrubPause
	}
}

// suspectLister is what a device may offer to tell which blocks redo found damaged.
type suspectLister interface {
	Suspects(max int) ([]blockstore.BadBlock, error)
}

const suspectsPerRound = 1024

// repairSuspects repairs the blocks that redo found damaged at the start. One
// that cannot be repaired now is met again by a read or by the scrubber.
func (n *Node) repairSuspects(ctx context.Context) {
	dev, ok := n.applier.dev.(suspectLister)
	if !ok {
		return
	}
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		bad, err := dev.Suspects(suspectsPerRound)
		if err != nil || len(bad) == 0 {
			return
		}
		failed := 0
		for _, b := range bad {
			if n.repair(ctx, b) != nil {
				failed++
			}
		}
		if failed == 0 {
			continue
		}
		if len(n.peerAddresses()) == 0 {
			n.log.Error("blocks are damaged and there is no other replica", "blocks", failed)
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
