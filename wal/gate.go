package wal

import "time"

// promiseFor is how long a promise holds at least; it is void after twice
// that. It is short because an operation that fails never redeems its promise; it only
// keeps callers that are let in together from counting on the same room.
const promiseFor = 50 * time.Millisecond

// gate bounds the bytes that are pending or promised: a queue, first come
// first served. It has no lock of its own.
type gate struct {
	max     int64
	waiters []*admission
	fresh   promises // of the current period of promiseFor
	old     promises // of the one before
	turned  time.Time
}

// promises is a number of promises and their bytes together.
type promises struct{ n, bytes int64 }

type admission struct {
	bytes   int64
	granted bool
	ready   chan struct{} // closed when granted or released
}

func (g *gate) promised() int64 { return g.fresh.bytes + g.old.bytes }

// enter queues a request; admit grants it.
func (g *gate) enter(n int64) *admission {
	a := &admission{bytes: n, ready: make(chan struct{})}
	g.waiters = append(g.waiters, a)
	return a
}

// leave takes back a request that was not granted.
func (g *gate) leave(a *admission) {
	for i, x := range g.waiters {
		if x == a {
			g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
			return
		}
	}
}

// try grants n bytes beside pending ones at once, if nobody waits and they fit.
func (g *gate) try(n, pending int64, now time.Time) bool {
	g.turn(now)
	if len(g.waiters) > 0 || !g.fits(n, pending) {
		return false
	}
	g.promise(n)
	return true
}

// admit grants the requests at the head of the queue that fit beside pending bytes.
func (g *gate) admit(pending int64, now time.Time) {
	g.turn(now)
	for len(g.waiters) > 0 && g.fits(g.waiters[0].bytes, pending) {
		a := g.waiters[0]
		g.promise(a.bytes)
		a.granted = true
		close(a.ready)
		g.waiters[0] = nil
		g.waiters = g.waiters[1:]
	}
}

// turn lets promises run out.
func (g *gate) turn(now time.Time) {
	switch d := now.Sub(g.turned); {
	case d >= 2*promiseFor:
		g.fresh, g.old, g.turned = promises{}, promises{}, now
	case d >= promiseFor:
		g.fresh, g.old, g.turned = promises{}, g.fresh, now
	}
}

// fits reports whether n bytes more stay within the bound; anything fits when
// nothing is pending or promised.
func (g *gate) fits(n, pending int64) bool {
	inUse := pending + g.promised()
	return inUse == 0 || inUse+n <= g.max
}

func (g *gate) promise(n int64) {
	g.fresh.n++
	g.fresh.bytes += n
}

// redeem strikes one promise: an operation was committed, so its true bytes
// are pending now. Which one it was is not known, so it is one of the oldest, at their mean size.
func (g *gate) redeem() {
	p := &g.old
	if p.n == 0 {
		p = &g.fresh
	}
	if p.n > 0 {
		p.bytes -= p.bytes / p.n
		p.n--
	}
	if p.n == 0 {
		p.bytes = 0
	}
}

// release wakes every waiter without a grant.
func (g *gate) release() {
	for _, a := range g.waiters {
		close(a.ready)
	}
	g.waiters = nil
}
