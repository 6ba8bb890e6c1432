package fuse

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

func newRequest(anySignal bool) (r *request, interrupt func()) {
	cancel := make(chan struct{})
	return &request{Context: context.Background(), cancel: cancel, pid: 1, anySignal: anySignal}, func() { close(cancel) }
}

func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

func TestInterrupts(t *testing.T) {
	alive, dying := func(uint32) bool { return false }, func(uint32) bool { return true }
	r, interrupt := newRequest(false)
	r.Done()
	r.poll(dying)
	if ended(r) {
		t.Error("ended without an interrupt")
	}
	interrupt()
	r.poll(alive)
	if ended(r) || r.Err() != nil {
		t.Error("a signal that does not kill ends a request")
	}
	r.poll(dying)
	if !ended(r) || r.Err() == nil {
		t.Error("the caller is being killed and the request goes on")
	}
	r.poll(dying)

	lock, interrupt := newRequest(true)
	lock.Done()
	interrupt()
	lock.poll(alive)
	if !ended(lock) {
		t.Error("a blocking lock request is not interrupted by a signal")
	}

	idle, interrupt := newRequest(true)
	interrupt()
	idle.poll(dying)
	if idle.Err() != nil {
		t.Error("a request that does not wait is ended")
	}
}

// TestDerivedContexts: contexts with deadlines cost no goroutine each, and end with the request's.
func TestDerivedContexts(t *testing.T) {
	r, interrupt := newRequest(true)
	before := runtime.NumGoroutine()
	var list []context.Context
	for range 100 {
		ctx, cancel := context.WithTimeout(r, time.Minute)
		defer cancel()
		list = append(list, ctx)
	}
	if n := runtime.NumGoroutine(); n > before+5 {
		t.Errorf("%d goroutines for 100 contexts", n-before)
	}
	gone, cancel := context.WithCancel(r)
	cancel()
	if ended(r) || !ended(gone) {
		t.Error("a derived context ends its parent")
	}
	interrupt()
	r.poll(func(uint32) bool { return false })
	for i, ctx := range list {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("context %d goes on", i)
		}
	}
	late, cancel := context.WithCancel(r)
	defer cancel()
	if !ended(late) {
		t.Error("a context made of an ended one goes on")
	}
}

func TestKillPending(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tx\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n": true,
		"SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n":           true,
		"SigPnd:\t0000000000002000\nShdPnd:\t0000000000000001\n":           false,
		"SigPnd:\t\nShdPnd:\tzz\n":                                         false,
		"SigQ:\t0/100\nSigBlk:\t0000000000000100\n":                        false,
		"": false,
	} {
		if got := killPending(status); got != want {
			t.Errorf("%q: %v, want %v", status, got, want)
		}
	}
	if beingKilled(uint32(os.Getpid())) {
		t.Error("this very process is being killed, it seems")
	}
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Fatal(err)
	}
	if !beingKilled(uint32(child.Process.Pid)) {
		t.Error("a process that is gone counts as alive")
	}
	if beingKilled(0) {
		t.Error("a caller of another process namespace is taken for dead")
	}
}
