package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"dfs/blockstore/raftstore"
	"dfs/internal/errors"
)

type (
	member     = *raftstore.Node
	memberInfo = raftstore.Member
)

// asLeader calls f on the node that leads.
func (s *schedule) asLeader(f func(member) error) error {
	_, r := s.w.leader()
	if r == nil {
		return errors.New(errors.KindNotLeader, "no leader now")
	}
	return f(r)
}

// The length of a run: of its faulty part, in virtual time, and how far its faults are apart.
const (
	faultsFor   = 45 * time.Second
	faultsEvery = 260 * time.Millisecond
	// healBy is how long after the last fault every operation must have ended: the wait for a quorum, and a lease.
	healBy = 40 * time.Second
)

// startMount starts a file server, again and again until it is there.
func (w *world) startMount(m *mount) {
	for w.ok() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := m.start(ctx)
		cancel()
		if err == nil {
			return
		}
		w.note("%v", err)
		time.Sleep(100 * time.Millisecond)
	}
}

// run is one seed from beginning to end, in virtual time.
func (w *world) run() {
	defer w.shutDown()
	for _, n := range w.nodes {
		if err := n.start(); err != nil {
			w.fail("%v", err)
			return
		}
	}
	for i := range 2 + w.rng.IntN(2) {
		w.startMount(w.newMount(fmt.Sprint("m", i)))
	}
	if !w.begin() {
		return
	}
	end := make(chan struct{})
	var tasks, watchers sync.WaitGroup
	for _, t := range w.tasks {
		tasks.Go(func() { t.run(end) })
	}
	for _, l := range w.ledgers {
		tasks.Go(func() { l.run(end) })
	}
	stop := make(chan struct{})
	watchers.Go(func() { w.watch(stop) })
	watchers.Go(func() { w.watchLosses(stop) })

	s := &schedule{w: w, rng: rand.New(rand.NewPCG(w.seed, 3)), end: make(chan struct{}), ill: map[*node]bool{}}
	s.rots = w.nodes[s.rng.IntN(3)]
	s.run(faultsFor, faultsEvery)
	close(s.end)
	w.healed()
	for _, n := range w.members() {
		n.disk.Calm()
		if n.replica() == nil {
			w.restart(n, 0)
		}
	}
	w.note("all is well from here on")
	time.Sleep(w.calm())
	close(end)
	w.join(&tasks)
	w.lastLook()
	close(stop)
	watchers.Wait()
	for _, m := range w.mounts {
		if err := m.stop(); err != nil {
			w.note("%s: %v", m.name, err)
		}
	}
	if w.ok() {
		w.checkAtRest()
	}
	w.lasted = w.since()
}

// healed waits until everything that was broken is repaired.
func (w *world) healed() {
	done := make(chan struct{})
	go func() { w.repairs.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		w.fail("two minutes after the last fault not everything is repaired")
		<-done
	}
}

// calm is how long the workload goes on after the last fault.
func (w *world) calm() time.Duration { return 5 * time.Second }

// begin makes what the workload works on.
func (w *world) begin() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, _, _ := w.mounts[0].now()
	if s == nil {
		return false
	}
	sp, err := makeSpace(ctx, s)
	if err != nil {
		w.fail("the first files: %v", err)
		return false
	}
	w.space = sp
	for i, m := range w.mounts {
		s, _, _ := m.now()
		l := w.newLedger(m)
		if err := l.set(ctx, s); err != nil {
			w.fail("the ledger of %s: %v", m.name, err)
			return false
		}
		w.ledgers = append(w.ledgers, l)
		w.tasks = append(w.tasks, &l.task)
		for k := range 2 {
			w.tasks = append(w.tasks, &task{w: w, m: m, rng: rand.New(rand.NewPCG(w.seed, uint64(1000+10*i+k))), pause: 150 * time.Millisecond})
		}
	}
	w.note("the workload begins")
	return true
}

// join waits for the operations under way: none may hang.
func (w *world) join(tasks *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { tasks.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(healBy):
		w.mu.Lock()
		var doing []string
		for _, t := range w.tasks {
			if t.busySince != 0 {
				doing = append(doing, fmt.Sprintf("%s on %s since %v", t.doing, t.m.name, t.busySince))
			}
		}
		w.mu.Unlock()
		w.fail("%v after all was well again there still hang: %v", healBy, doing)
		for _, m := range w.mounts {
			m.crash()
		}
		<-done
	}
}

// lastLook reads everything from every file server, so that the history says what is there in the end.
func (w *world) lastLook() {
	for i, m := range w.mounts {
		s, life, ctx := m.now()
		if s == nil {
			continue
		}
		t := &task{w: w, m: m, rng: rand.New(rand.NewPCG(w.seed, uint64(2000+i)))}
		for _, r := range w.space.regs {
			t.read(ctx, s, m.owner(life), r)
		}
		for _, f := range w.space.appends {
			t.readAll(ctx, s, m.owner(life), f)
		}
		for slot := range namesMax {
			t.lookup(ctx, s, op{kind: opLookup, owner: m.owner(life), obj: "names", slot: slot})
		}
		l := w.ledgers[i]
		l.doubt = true
		if err := l.step(ctx, s, m.owner(life)); err != nil {
			w.fail("%s's ledger at the end: %v", m.name, err)
		}
	}
}

// shutDown ends every process.
func (w *world) shutDown() {
	for _, m := range w.mounts {
		m.thaw()
		m.crash()
		<-m.unwound
	}
	for _, n := range w.nodes {
		n.host.freeze(false)
		n.disk.Resume()
		if w.ok() && !n.gone {
			if err := n.stop(); err != nil {
				w.note("%s: %v", n.id, err)
			}
			continue
		}
		n.crash(0, false)
		<-n.unwound
	}
	time.Sleep(2 * time.Minute) // what still runs ends by its own bounds
}
