package raftstore

import (
	"context"
	stderrors "errors"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
)

// checkpointState remembers the last checkpoint.
type checkpointState struct {
	turn   chan struct{} // holds one token while one is made
	volume int64         // applied bytes at the last one; belongs to who has the turn
	at     time.Time     // likewise
}

// checkpointFloorBytes is what must have been applied for a checkpoint that only time asks for.
const checkpointFloorBytes = 1 << 20

// checkpointLoop makes checkpoints by bytes, by time and when the device wants one, and keeps small things in order.
func (n *Node) checkpointLoop() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	n.checkpoints.turn <- struct{}{}
	n.checkpoints.at = time.Now()
	<-n.checkpoints.turn
	var standing standing
	for {
		select {
		case <-tick.C:
			n.lookAround(&standing, time.Now())
			if n.applier.progress.settled() {
				n.clearCopyMark()
			}
		case <-n.applier.wanted:
		case <-n.closing:
			return
		}
		if !n.checkpointDue() {
			continue
		}
		if err := n.Checkpoint(context.Background()); err != nil && !n.isClosing() {
			n.log.Warn("no checkpoint was made; trying again", "err", err)
		}
	}
}

func (n *Node) checkpointDue() bool {
	c := &n.checkpoints
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	default:
		return false // one is being made
	}
	bytes := n.applier.volume.Load() - c.volume
	return bytes >= n.limits.CheckpointBytes || bytes > 0 && n.applier.dev.CheckpointWanted() || bytes >= checkpointFloorBytes && time.Since(c.at) >= n.limits.CheckpointInterval
}

// Checkpoint makes the device durable at what is applied now and cuts the log behind it, but for the last
// Limits.TrailingBytes, and on the leader what followers that are behind still need (retain.go).
func (n *Node) Checkpoint(ctx context.Context) error {
	r, err := n.raftNow()
	if err != nil {
		return err
	}
	c := &n.checkpoints
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return errors.New(errors.KindUnavailable, "another checkpoint is being made: %w", ctx.Err())
	case <-n.closing:
		return errStopped
	}
	trailing := n.stores.entries.TrailingFor(n.limits.TrailingBytes)
	if err := n.elections.reload(r, func(c *raft.ReloadableConfig) { c.TrailingLogs = trailing }); err != nil {
		return errors.New(errors.KindInvalid, "cannot set the trailing logs: %w", err)
	}
	volume := n.applier.volume.Load()
	index := n.Applied()
	made := make(chan error, 1)
	go func() { made <- r.Snapshot().Error() }() // ends with raft at the latest
	select {
	case err = <-made:
	case <-ctx.Done():
		err = ctx.Err()
	case <-n.closing: // a replica that has failed makes none, and must not keep Close from ending raft
		err = errStopped
	}
	if err != nil && !stderrors.Is(err, raft.ErrNothingNewToSnapshot) {
		return errors.New(errors.KindUnavailable, "the checkpoint failed: %w", err)
	}
	c.volume, c.at = volume, time.Now()
	if err == nil {
		n.stores.noteSnapshot()
		n.stores.covered.Store(max(n.stores.covered.Load(), index))
	}
	return nil
}
