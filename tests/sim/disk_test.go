package sim

import (
	"errors"
	"math/rand/v2"
	"sync"

	"dfs/internal/simdisk"
)

var errDisk = errors.New("sim: term and vote, the map or a manifest could not be written")

// disk is a machine's disk (internal/simdisk has the fault model), and what its faults mean to the process that uses it: one whose
// disk failed must end, and says nothing more.
type disk struct {
	*simdisk.Disk

	mu      sync.Mutex // taken while the disk's own is held, so never held when that is used
	doomed  bool       // an operation has failed that no process can do without
	ending  bool       // one has failed
	excuse  bool       // the process may end itself: its disk failed or hung
	onOff   func()     // called once when the power fails, as the next two with locks held
	onEnd   func()     // called once when an operation fails
	onFatal func()     // called when it cannot note what it must
}

func newDisk(rng *rand.Rand) *disk {
	p := simdisk.NewPower(rng)
	d := &disk{Disk: simdisk.New(p)}
	p.Fault = d.fault
	return d
}

func (d *disk) fault(k simdisk.Kind, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == simdisk.ErrPower {
		if d.onOff != nil {
			d.onOff()
		}
		return
	}
	if !d.ending && d.onEnd != nil {
		d.onEnd()
	}
	d.ending = true
	if k == simdisk.Commit && d.onFatal != nil {
		d.doomed = true
		d.onFatal()
	}
}

// Off is raftstore.Power's.
func (d *disk) Off() bool {
	off := d.Disk.Off()
	d.mu.Lock()
	defer d.mu.Unlock()
	return off || d.ending
}

// goesOn forgets an error after which the process did not end.
func (d *disk) goesOn() bool {
	off := d.Disk.Off()
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.ending && !off && !d.doomed
	d.ending = d.doomed
	return was
}

// excused says that the process may end itself from now on.
func (d *disk) excused() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.excuse = true
}

// restart gives it to the next process; lost: the power was lost between.
func (d *disk) restart(lost bool) {
	if lost {
		d.Lose(simdisk.Torn)
	}
	d.Restore()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ending, d.doomed, d.excuse = false, false, false
	d.onOff, d.onEnd, d.onFatal = nil, nil, nil
}
