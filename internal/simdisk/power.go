package simdisk

import (
	"errors"
	"math/rand/v2"
	"sync"
	"syscall"
)

// ErrPower is what an operation fails with where the power is off.
var ErrPower = errors.New("simdisk: the power failed")

// Power is the supply of one disk or several: it counts their operations, and says what befalls them. Safe for concurrent use.
type Power struct {
	// Fault, if set before the disks are used, is called at each operation that the power fails in (err is ErrPower) or that fails with EIO.
	// It must not block, nor use a disk: the lock of all of them is held.
	Fault func(k Kind, err error)

	mu     sync.Mutex // of its disks and their files, too
	rng    *rand.Rand
	off    bool
	offIn  int           // the power fails within that operation from now; 0: it does not
	lost   chan struct{} // closed when the power fails
	spared int           // so many operations from now on do not fail with EIO,
	errs   int           // so many after them do
	hit    bool          // a fault that was asked for has come
	site   Kind          // in such an operation
	hung   chan struct{} // closed when the disks do not hang any more; nil: they do not
}

// NewPower returns a supply that is on, and draws from rng; nil does where nothing is to be drawn: Torn losses, FailWithin, Rot,
// and a Commit that the power fails in.
func NewPower(rng *rand.Rand) *Power {
	return &Power{rng: rng, lost: make(chan struct{})}
}

// FailIn lets the power fail within the n-th operation from now; 0: it stays on.
func (p *Power) FailIn(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offIn = n
}

// FailWithin is FailIn with a number from 1 to most, which it draws.
func (p *Power) FailWithin(most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offIn = 1 + p.rng.IntN(most)
}

// Armed tells whether the power is about to fail.
func (p *Power) Armed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.offIn > 0
}

// ErrorsIn lets the n-th operation from now, and those after it until they are count, fail with EIO.
func (p *Power) ErrorsIn(n, count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spared, p.errs = n-1, count
}

// Cut takes the power away between two operations: nothing more is done. Fault is not called.
func (p *Power) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail()
	p.resume()
}

// fail switches off. mu is held.
func (p *Power) fail() {
	if !p.off {
		p.off = true
		close(p.lost)
	}
}

// Off tells that the power failed: raftstore.Power's.
func (p *Power) Off() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.off
}

// Lost is closed when the power fails; after a Restore it is another.
func (p *Power) Lost() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Hit tells whether a fault that FailIn, FailWithin or ErrorsIn asked for has come since the last Restore, and in what.
func (p *Power) Hit() (site Kind, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.site, p.hit
}

// Calm takes back all that was asked for and has not come, and ends a hang.
func (p *Power) Calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.offIn, p.spared, p.errs = 0, 0, 0
	p.resume()
}

// Restore gives the power back; nothing is to come any more.
func (p *Power) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		p.off, p.lost = false, make(chan struct{})
	}
	p.offIn, p.spared, p.errs, p.hit = 0, 0, 0, false
}

// Hang lets writes, syncs and commits wait until Resume, Calm or Cut.
func (p *Power) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hung == nil {
		p.hung = make(chan struct{})
	}
}

// Resume ends a hang.
func (p *Power) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resume()
}

func (p *Power) resume() {
	if p.hung != nil {
		close(p.hung)
		p.hung = nil
	}
}

// wait waits while the disks hang. mu is not held.
func (p *Power) wait() {
	p.mu.Lock()
	c := p.hung
	p.mu.Unlock()
	if c != nil {
		<-c
	}
}

// step counts an operation; within: it begins, but the power fails before its end. mu is held.
func (p *Power) step(k Kind) (within bool, err error) {
	switch {
	case p.off:
		return false, ErrPower
	case p.errs > 0 && p.spared > 0:
		p.spared--
	case p.errs > 0:
		p.errs--
		p.fault(k, syscall.EIO)
		return false, syscall.EIO
	}
	if p.offIn > 0 {
		if p.offIn--; p.offIn == 0 {
			p.fail()
			p.fault(k, ErrPower)
			return true, ErrPower
		}
	}
	return false, nil
}

func (p *Power) fault(k Kind, err error) {
	p.hit, p.site = true, k
	if p.Fault != nil {
		p.Fault(k, err)
	}
}
