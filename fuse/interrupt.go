package fuse

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// killPoll is how often a waiting, interrupted request looks whether its caller
// is being killed.
const killPoll = 100 * time.Millisecond

// request is the context of one FUSE request. It is done when the caller is
// being killed (SIGKILL pending), or, for a blocking lock request, at any interrupt.
// Other interrupts are ignored: programs with interval timers get FUSE_INTERRUPT all the
// time, and a stat that fails with EINTR breaks them.
//
// Nothing is started for a request that never waits: the watcher begins with
// the first call of Done.
type request struct {
	context.Context // values and no deadline
	cancel          <-chan struct{}
	pid             uint32
	anySignal       bool // a blocking lock request

	mu       sync.Mutex
	done     chan struct{}
	finished chan struct{}
	err      error
}

// Done implements context.Context.
func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done, r.finished = make(chan struct{}), make(chan struct{})
		go r.watch(r.finished)
	}
	return r.done
}

// Err implements context.Context.
func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// finish ends the watcher; the request is answered.
func (r *request) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished != nil {
		close(r.finished)
		r.finished = nil
	}
}

func (r *request) watch(finished <-chan struct{}) {
	select {
	case <-finished:
		return
	case <-r.cancel:
	}
	tick := time.NewTicker(killPoll)
	defer tick.Stop()
	for !r.anySignal && !beingKilled(r.pid) {
		select {
		case <-finished:
			return
		case <-tick.C:
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = context.Canceled
	close(r.done)
}

// beingKilled reports whether thread pid has SIGKILL pending, or is gone.
func beingKilled(pid uint32) bool {
	if pid == 0 {
		return false
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return os.IsNotExist(err)
	}
	for line := range splitLines(string(status)) {
		if mask, ok := strings.CutPrefix(line, "SigPnd:"); ok {
			if hasSigkill(mask) {
				return true
			}
		}
		if mask, ok := strings.CutPrefix(line, "ShdPnd:"); ok {
			return hasSigkill(mask)
		}
	}
	return false
}

func hasSigkill(mask string) bool {
	bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	return err == nil && bits&(1<<8) != 0
}

func splitLines(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(s) {
			if !yield(strings.TrimRight(line, "\n")) {
				return
			}
		}
	}
}
