package raftstore

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
)

// fsm is what raft sees of the applier.
type fsm struct{ n *Node }

var _ raft.BatchingFSM = fsm{}

// ApplyBatch applies committed entries in order.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		out[i] = f.n.applier.apply(l)
	}
	return out
}

// Apply applies one committed entry.
func (f fsm) Apply(l *raft.Log) any { return f.n.applier.apply(l) }

// Snapshot begins a checkpoint of the device.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	a := f.n.applier
	if a.dead.Load() != nil || f.n.isClosing() { // a close ends a copy in its midst
		return nil, errStopped
	}
	a.mu.RLock()
	state := a.state.Encode()
	a.mu.RUnlock()
	index, finish, err := a.dev.Checkpoint(state)
	if err != nil {
		err = errors.New(errors.KindOf(err), "cannot begin a checkpoint: %w", err)
		go a.die(err)
		return nil, err
	}
	m := &manifest{Applied: index, State: state, Sources: f.n.sources()}
	return &checkpoint{applier: a, manifest: m, finish: sync.OnceValue(finish)}, nil
}

// checkpoint is a snapshot: the device's own durable content, and a manifest that says so.
type checkpoint struct {
	applier  *applier
	manifest *manifest
	finish   func() error
}

// finished makes the checkpoint durable. Its failure is final, but where a copy from another replica, or a newer checkpoint,
// has come between: it is just not made then.
func (c *checkpoint) finished() error {
	err := c.finish()
	overtaken := errors.Is(err, errors.KindInvalid) || c.applier.progress.copying.Load() && errors.Is(err, errors.KindUnavailable)
	if err != nil && !overtaken {
		err = errors.New(errors.KindOf(err), "the checkpoint at log index %d failed: %w", c.manifest.Applied, err)
		go c.applier.die(err)
	}
	return err
}

// Persist makes the device durable, then writes the manifest.
func (c *checkpoint) Persist(sink raft.SnapshotSink) error {
	if err := c.finished(); err != nil {
		return err
	}
	if _, err := sink.Write(c.manifest.encode()); err != nil {
		return err
	}
	return nil // raft closes the sink: that is the switch
}

// Release ends a checkpoint that raft did not want to keep, too.
func (c *checkpoint) Release() { _ = c.finished() }

// Restore makes this replica what the manifest says.
func (f fsm) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(io.LimitReader(r, manifestBytesMax+1))
	if err != nil {
		return errors.New(errors.KindIO, "cannot read the snapshot's manifest: %w", err)
	}
	m, err := decodeManifest(b)
	if err != nil {
		return err
	}
	f.n.stores.noteSnapshot() // its sink was closed before
	if err := f.n.stores.agreeWithSnapshot(); err != nil {
		f.n.applier.die(err)
		return err
	}
	return f.n.catchUp(m)
}
