package device

import "dfs/internal/errors"

// Meta returns the index of the last finished checkpoint (0: none) and what was kept with it. Do not change meta.
func (d *Device) Meta() (index uint64, meta []byte) {
	d.mapMu.Lock()
	defer d.mapMu.Unlock()
	return d.index, d.meta
}

// quarantineFull is how many bytes of given-up windows are a reason for a checkpoint: it makes them spares to write over, or gives them back to the host.
const quarantineFull = 128 << 20

// CheckpointWanted tells that so much was given up, or that the double-write area has grown so large, that a checkpoint should be made.
func (d *Device) CheckpointWanted() bool {
	return d.double.bytes.Load() >= d.double.keep || d.quarantine.Load() >= quarantineFull
}

// Checkpoint begins to make everything applied so far durable, together with
// meta, which is kept as it is. finish does it and may run beside Applies, in any goroutine; it must be called at
// most once, and a checkpoint that is begun before supersedes it. KindBusy, harmless, while another's finish runs.
// After any other error the device is dead.
//
// finish: (1) fdatasync of every data and checksum file written since, (2) one transaction with the
// changes of the map up to the index, the index and meta, (3) release of the windows that nothing names any more, emptied or
// kept as spares, and of what the double-write area takes beyond its measure. A failed sync is not tried again.
func (d *Device) Checkpoint(meta []byte) (index uint64, finish func() error, err error) {
	if err := d.enterComplete(); err != nil {
		return 0, nil, err
	}
	defer d.leave()
	if !d.commitMu.TryLock() {
		return 0, nil, errors.New(errors.KindBusy, "device %s: a checkpoint is being finished", d.dir)
	}
	defer d.commitMu.Unlock()
	if err := d.writeAll(); err != nil { // so that the sync finds it on the disk
		return 0, nil, err
	}
	round := d.freeze()
	index = d.applied.Load()
	st := mapState{index: index, meta: meta, deviceID: d.deviceID}
	return index, func() error { return d.finish(round, st) }, nil
}

// freeze sets aside the changes of the map so far, to be committed. Those of a checkpoint that was begun and not
// finished go with them. commitMu is held.
func (d *Device) freeze() (round uint64) {
	d.double.nextRound(d.frozen == nil)
	d.mapMu.Lock()
	defer d.mapMu.Unlock()
	if d.frozen == nil {
		d.frozen = d.delta
	} else {
		for id, e := range d.delta.entries {
			d.frozen.set(id, e)
		}
	}
	d.delta = newDelta()
	d.freeing, d.freed = append(d.freeing, d.freed...), nil
	d.round++
	return d.round
}

func (d *Device) finish(round uint64, st mapState) error {
	if err := d.enterComplete(); err != nil {
		return err
	}
	defer d.leave()
	d.commitMu.Lock()
	defer d.commitMu.Unlock()
	d.mapMu.Lock()
	stale := d.frozen == nil || round != d.round
	d.mapMu.Unlock()
	if stale || d.incomplete.Load() {
		return errors.New(errors.KindInvalid, "device %s: the checkpoint at %d was finished already, or given up for a newer one", d.dir, st.index)
	}
	return d.commit(st)
}

// commit makes the files and the frozen changes durable with st, and releases windows. commitMu is held.
func (d *Device) commit(st mapState) error {
	if err := d.files.sync(); err != nil {
		return d.fail("checkpoint", err)
	}
	if err := d.store.commit(d.frozen, st); err != nil {
		return d.fail("checkpoint", err)
	}
	d.mapMu.Lock()
	d.frozen = nil
	d.index, d.meta = st.index, st.meta
	free := d.freeing
	d.freeing = nil
	d.mapMu.Unlock()
	var bytes int64
	for _, w := range free {
		bytes += int64(w.class().blocks()) * blockSize
	}
	if err := d.releaseWindows(free); err != nil {
		return d.fail("checkpoint", err)
	}
	d.quarantine.Add(-bytes)
	if err := d.double.giveBack(); err != nil {
		return d.fail("checkpoint", err)
	}
	return nil
}
