package sim

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/simdisk"
)

// schedule puts faults in, by seed, one after another; many last while the next ones come.
type schedule struct {
	w     *world
	rng   *rand.Rand
	end   chan struct{} // closed when all must be well again
	ill   map[*node]bool
	rots  *node // the one node whose disk rots: what is damaged can be fetched from the others
	extra int   // nodes added
}

// well chooses a node to make ill; mostly only while no other is.
func (s *schedule) well() *node {
	if s.anyIll() && s.rng.IntN(8) > 0 {
		return nil
	}
	var list []*node
	for _, n := range s.w.members() {
		if !s.isIll(n) {
			list = append(list, n)
		}
	}
	if len(list) == 0 {
		return nil
	}
	n := list[s.rng.IntN(len(list))]
	if l, _ := s.w.leader(); l != nil && !s.isIll(l) && s.rng.IntN(3) == 0 {
		n = l
	}
	s.sicken(n)
	return n
}

func (s *schedule) anyIll() bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return len(s.ill) > 0
}

func (s *schedule) isIll(n *node) bool {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.ill[n]
}

func (s *schedule) sicken(n *node) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.ill[n] = true
}

func (s *schedule) cured(n *node) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	delete(s.ill, n)
}

// between draws a duration, short ones more often.
func (s *schedule) between(lo, hi time.Duration) time.Duration {
	f := s.rng.Float64()
	return lo + time.Duration(f*f*float64(hi-lo))
}

// later runs f after d, or when all must be well.
func (s *schedule) later(d time.Duration, f func()) {
	s.w.repairs.Add(1)
	go func() {
		defer s.w.repairs.Done()
		select {
		case <-time.After(d):
		case <-s.end:
		}
		f()
	}()
}

// machines are all that talk.
func (s *schedule) machines() []string {
	var out []string
	for _, n := range s.w.members() {
		out = append(out, n.id)
	}
	for _, m := range s.w.mounts {
		out = append(out, m.name)
	}
	return out
}

func (s *schedule) two() (a, b string) {
	all := s.machines()
	i := s.rng.IntN(len(all))
	j := s.rng.IntN(len(all) - 1)
	if j >= i {
		j++
	}
	if s.rng.IntN(2) == 0 { // rather one of the nodes
		j = s.rng.IntN(len(s.w.members()))
		if i == j {
			i = len(all) - 1
		}
	}
	return all[i], all[j]
}

// run goes on for d, with a fault every `every` or so.
func (s *schedule) run(d, every time.Duration) {
	until := time.Now().Add(d)
	for time.Now().Before(until) && s.w.ok() {
		time.Sleep(time.Duration(float64(every) * s.rng.ExpFloat64()))
		s.one()
	}
}

// one puts one fault in.
func (s *schedule) one() {
	w := s.w
	switch k := s.rng.IntN(100); {
	case k < 20:
		s.reset()
	case k < 32:
		s.slow()
	case k < 46:
		s.cutLink()
	case k < 54:
		s.crashNode(true)
	case k < 57:
		s.crashNode(false)
	case k < 62:
		s.crashMount()
	case k < 69:
		s.pauseNode()
	case k < 75:
		s.pauseMount()
	case k < 81:
		s.isolate()
	case k < 84:
		s.clock()
	case k < 87:
		s.failDisk()
	case k < 91:
		s.rot()
	case k < 93:
		s.leaderless()
	case k < 94:
		s.blackout()
	case k < 96:
		s.replaceNode()
	case k < 98:
		go w.compareNow()
	default:
		s.checkpoint()
	}
}

// reset breaks the connections between two machines: a part of what is under way is lost, and sent again by who cares.
func (s *schedule) reset() {
	a, b := s.two()
	if n := s.w.net.reset(a, b); n > 0 {
		s.w.fault("connection broken", "%d between %s and %s", n, a, b)
	}
}

// slow makes a link slow for a while.
func (s *schedule) slow() {
	a, b := s.two()
	delay, d := s.between(time.Millisecond, 400*time.Millisecond), s.between(100*time.Millisecond, 5*time.Second)
	old := s.w.net.slow(a, b, delay)
	s.w.fault("link slow", "%s to %s takes %v for %v", a, b, delay, d)
	s.later(d, func() { s.w.net.slow(a, b, min(old, 500*time.Microsecond)) })
}

// cutLink cuts one direction, or both.
func (s *schedule) cutLink() {
	a, b := s.two()
	d := s.between(50*time.Millisecond, 12*time.Second)
	both := s.rng.IntN(3) == 0
	s.w.net.cut(a, b, true)
	kind := "one-way cut"
	if both {
		s.w.net.cut(b, a, true)
		kind = "two-way cut"
	}
	s.w.fault(kind, "%s to %s for %v", a, b, d)
	s.later(d, func() {
		s.w.net.cut(a, b, false)
		if both {
			s.w.net.cut(b, a, false)
		}
	})
}

// isolate cuts a node from all, or from the other nodes alone, or from the file servers alone.
func (s *schedule) isolate() {
	n := s.well()
	if n == nil {
		return
	}
	d := s.between(300*time.Millisecond, 15*time.Second)
	way := s.rng.IntN(3)
	var from []string
	for _, o := range s.w.members() {
		if o != n && way != 2 {
			from = append(from, o.id)
		}
	}
	for _, m := range s.w.mounts {
		if way != 1 {
			from = append(from, m.name)
		}
	}
	s.w.fault("node cut off", "%s from %v for %v", n.id, from, d)
	cut := func(c bool) {
		for _, f := range from {
			s.w.net.cut(n.id, f, c)
			s.w.net.cut(f, n.id, c)
		}
	}
	cut(true)
	s.later(d, func() { cut(false); s.cured(n) })
}

// restart starts a node again and again until it is there: the power may fail while it recovers.
func (w *world) restart(n *node, again int) {
	for w.ok() {
		if again > 0 {
			n.disk.FailWithin(60)
			again--
		}
		armed := n.disk.Armed()
		err := n.start()
		if err == nil && armed { // it may fail while it redoes what is in its log
			time.Sleep(time.Second)
			if n.disk.FailIn(0); n.isDown() && !n.isGone() {
				continue
			}
		}
		if err == nil {
			return
		}
		if err != simdisk.ErrPower {
			w.fail("%v", err)
			return
		}
		w.note("%s: the power failed while it recovered", n.id)
		time.Sleep(100 * time.Millisecond)
	}
}

// crashNode lets the power of a node fail, now or within one of its next operations on the disk, or kills its process.
func (s *schedule) crashNode(power bool) {
	n := s.well()
	if n == nil {
		return
	}
	d := s.between(200*time.Millisecond, 8*time.Second)
	kind := "node killed"
	if power {
		kind = "power lost at a node"
	}
	s.w.fault(kind, "%s for %v", n.id, d)
	within := s.rng.IntN(3) * s.rng.IntN(40)
	again := 0
	if s.rng.IntN(6) == 0 {
		again = 1
	}
	if power && within > 0 {
		n.disk.FailIn(within)
	} else {
		n.crash(0, power)
	}
	s.later(d, func() {
		n.disk.FailIn(0)
		if n.isDown() {
			s.w.restart(n, again)
		}
		s.cured(n)
	})
}

// blackout is a loss of power at all nodes.
func (s *schedule) blackout() {
	if s.anyIll() {
		return
	}
	d := s.between(200*time.Millisecond, 4*time.Second)
	s.w.fault("power lost everywhere", "for %v", d)
	for _, n := range s.w.members() {
		s.sicken(n)
		n.crash(0, true)
	}
	for _, n := range s.w.members() {
		s.later(d+time.Duration(s.rng.IntN(300))*time.Millisecond, func() { s.w.restart(n, 0); s.cured(n) })
	}
}

// crashMount kills a file server; another takes its place.
func (s *schedule) crashMount() {
	m := s.w.mounts[s.rng.IntN(len(s.w.mounts))]
	d := s.between(10*time.Millisecond, 8*time.Second)
	if !m.crash() {
		return
	}
	s.w.fault("file server killed", "%s for %v", m.name, d)
	s.later(d, func() { s.w.startMount(m) })
}

// pauseNode stops a node's process: its machine takes bytes, and nobody answers.
func (s *schedule) pauseNode() {
	n := s.well()
	if n == nil {
		return
	}
	d := s.between(100*time.Millisecond, 15*time.Second)
	s.w.fault("node paused", "%s for %v", n.id, d)
	n.host.freeze(true)
	s.later(d, func() { n.host.freeze(false); s.cured(n) })
}

func (s *schedule) pauseMount() {
	m := s.w.mounts[s.rng.IntN(len(s.w.mounts))]
	d := s.between(100*time.Millisecond, 12*time.Second)
	if !m.freeze() {
		return
	}
	s.w.fault("file server paused", "%s for %v", m.name, d)
	_, life, _ := m.now()
	s.later(d, func() {
		if _, l, _ := m.now(); l == life {
			m.thaw()
		}
	})
}

// clock lets a file server's clocks jump: that of leases ahead (its machine was suspended), that of the day anywhere.
func (s *schedule) clock() {
	m := s.w.mounts[s.rng.IntN(len(s.w.mounts))]
	if s.rng.IntN(2) == 0 {
		d := s.between(10*time.Millisecond, 20*time.Second)
		s.w.fault("lease clock jumps", "%s by %v", m.name, d)
		m.skip.Add(int64(d))
		return
	}
	d := s.between(0, 10*time.Hour) - s.between(0, 10*time.Hour)
	s.w.fault("clock of day jumps", "%s by %v", m.name, d)
	m.day.Add(int64(d))
}

// failDisk lets the next operations of a node's disk fail: its process must end, and is started again.
func (s *schedule) failDisk() {
	n := s.well()
	if n == nil {
		return
	}
	d := s.between(500*time.Millisecond, 5*time.Second)
	s.w.fault("disk error", "%s, a new process after %v", n.id, d)
	n.disk.excused()
	n.disk.ErrorsIn(1, 1+s.rng.IntN(3))
	s.later(d, func() {
		n.disk.ErrorsIn(1, 0)
		s.cured(n)
	})
}

// rot turns bits over on the one disk that rots.
func (s *schedule) rot() {
	if s.rots.gone {
		return
	}
	if what, ok := s.rots.disk.Rot(); ok {
		s.w.fault("bit rot", "%s: %s", s.rots.id, what)
	}
}

// leaderless hands leadership to another.
func (s *schedule) leaderless() {
	if n, r := s.w.leader(); n != nil {
		s.w.fault("leadership handed over", "by %s", n.id)
		go func() { _ = r.TransferLeadership(context.Background(), "") }()
	}
}

// checkpoint makes one, and cuts the log behind it.
func (s *schedule) checkpoint() {
	all := s.w.members()
	n := all[s.rng.IntN(len(all))]
	if r := n.replica(); r != nil {
		s.w.note("checkpoint of %s", n.id)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = r.Checkpoint(ctx)
		}()
	}
}

// replaceNode adds a node with an empty disk, and takes one out when that is a voter.
func (s *schedule) replaceNode() {
	if s.anyIll() || s.extra >= 2 {
		return
	}
	old := s.w.members()[s.rng.IntN(3)]
	id := string(rune('d' + s.extra))
	s.extra++
	s.sicken(old)
	s.w.fault("node replaced", "%s by %s", old.id, id)
	n := s.w.newNode(id)
	s.sicken(n)
	for _, o := range s.w.members() {
		if o != n {
			n.join = append(n.join, addrOf(o.id))
		}
	}
	if err := n.start(); err != nil {
		s.w.fail("%v", err)
		return
	}
	s.w.repairs.Add(1)
	go func() {
		defer s.w.repairs.Done()
		s.swap(n, old)
		s.cured(n)
		s.cured(old)
	}()
}

// whole repairs every member but old, whose copies may be the only good ones: what is rotten on one of two and torn on the other is lost.
func (s *schedule) whole(ctx context.Context, old *node) error {
	for _, n := range s.w.members() {
		if n == old {
			continue
		}
		r := n.replica()
		if r == nil {
			return errors.New(errors.KindUnavailable, "%s does not run", n.id)
		}
		if sum, err := r.Scrub(ctx, nil); err != nil || sum.Failed > 0 {
			return errors.New(errors.KindUnavailable, "%s is not whole: %+v %v", n.id, sum, err)
		}
	}
	return nil
}

// swap makes n a voter, then removes old. It goes on until both are done: the leader may change.
func (s *schedule) swap(n, old *node) {
	steps := []func(context.Context) error{
		func(ctx context.Context) error {
			return s.asLeader(func(r member) error { return r.AddNonvoter(ctx, blockstore.NodeID(n.id), addrOf(n.id)) })
		},
		func(ctx context.Context) error {
			return s.asLeader(func(r member) error { return r.Promote(ctx, blockstore.NodeID(n.id)) })
		},
		func(ctx context.Context) error { return s.whole(ctx, old) },
		func(ctx context.Context) error {
			return s.asLeader(func(r member) error {
				if !slices.ContainsFunc(r.Members(), func(m memberInfo) bool { return string(m.ID) == old.id }) {
					return nil
				}
				return r.Remove(ctx, blockstore.NodeID(old.id))
			})
		},
	}
	for _, step := range steps {
		for s.w.ok() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			err := step(ctx)
			cancel()
			if err == nil {
				break
			}
			s.w.note("replacing %s by %s: %v", old.id, n.id, err)
			time.Sleep(300 * time.Millisecond)
		}
	}
	s.w.mu.Lock()
	old.gone = true
	s.w.mu.Unlock()
	s.w.note("%s is a member, %s is not", n.id, old.id)
	old.crash(0, false)
}
