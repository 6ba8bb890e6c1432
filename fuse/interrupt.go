package fuse

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// request is the context of one FUSE request. It is done when the caller is
// being killed (SIGKILL pending), or, for a blocking lock request, at any interrupt.
// Other interrupts are ignored: programs with interval timers get FUSE_INTERRUPT all the
// time, and a stat that fails with EINTR breaks them.
//
// Nothing is started for a request: the connection's watcher calls poll now and then, for those that wait.
type request struct {
	context.Context // values and no deadline
	cancel          <-chan struct{}
	pid             uint32
	anySignal       bool // a blocking lock request

	mu    sync.Mutex
	done  chan struct{}         // nil until somebody waits
	after map[*afterFunc]func() // what AfterFunc was given
	err   error
}

type afterFunc struct{ _ byte } // not empty: each has an address of its own

// Done implements context.Context.
func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done = make(chan struct{})
	}
	return r.done
}

// Err implements context.Context.
func (r *request) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// AfterFunc has f called on a goroutine of its own once the request is done; package context looks for it, and so
// needs no goroutine for each context derived from this one.
func (r *request) AfterFunc(f func()) (stop func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		go f()
		return func() bool { return false }
	}
	if r.after == nil {
		r.after = map[*afterFunc]func(){}
	}
	key := &afterFunc{}
	r.after[key] = f
	return func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		_, waiting := r.after[key]
		delete(r.after, key)
		return waiting
	}
}

// interrupted reports whether somebody waits for the end of this context and the kernel has sent an interrupt.
func (r *request) interrupted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil || r.err != nil || r.cancel == nil {
		return false
	}
	select {
	case <-r.cancel:
		return true
	default:
		return false
	}
}

// poll ends the context if that is due; dying tells whether a thread is being killed.
func (r *request) poll(dying func(pid uint32) bool) {
	if r.interrupted() && (r.anySignal || dying(r.pid)) {
		r.stop()
	}
}

func (r *request) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = context.Canceled
	if r.done != nil {
		close(r.done)
	}
	for _, f := range r.after {
		go f()
	}
	r.after = nil
}

// beingKilled reports whether thread pid has SIGKILL pending, or is gone.
func beingKilled(pid uint32) bool {
	if pid == 0 {
		return false // of another process namespace: nobody can tell
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return os.IsNotExist(err)
	}
	return killPending(string(status))
}

// killPending looks for SIGKILL in the masks of /proc/PID/status, the thread's and the process's.
func killPending(status string) bool {
	for line := range strings.Lines(status) {
		for _, field := range [2]string{"SigPnd:", "ShdPnd:"} {
			if mask, ok := strings.CutPrefix(line, field); ok && hasSigkill(mask) {
				return true
			}
		}
	}
	return false
}

func hasSigkill(mask string) bool {
	bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	return err == nil && bits&(1<<8) != 0
}
