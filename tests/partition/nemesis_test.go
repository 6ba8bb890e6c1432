package partition

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"dfs/tests/harness"
)

// fault is something that the nemesis does. begin does it to whom r says, and tells how to heal it and what was done.
type fault struct {
	counted string // under which name it is added up
	order   int    // when it is healed
	alone   bool   // it needs the rest of the cluster
	begin   func(w *world, r *rand.Rand) (heal func(), what string)
}

// What is healed first, then, and last: a node starts where the network is whole, a mount where the nodes run.
const (
	orderFirst = iota
	orderNodes
	orderMounts
	orders
)

// cuts are faults of the network.
func cuts() []fault {
	var all []fault
	for _, begin := range []func(w *world, r *rand.Rand) (func(), string){
		cutHalves, cutBridge, cutOneWay, cutLeaderFromNodes, cutLeaderFromAll, cutMountFromLeader, cutMount, badNetwork,
	} {
		all = append(all, fault{"cuts", orderFirst, false, begin})
	}
	return all
}

// look finds out who leads.
func (w *world) look() {
	w.t.Helper()
	w.lead, w.others = w.c.WaitLeader(), nil
	for _, n := range w.c.Nodes {
		if n != w.lead {
			w.others = append(w.others, n)
		}
	}
}

// leader is the leader as it was when the faults began, and the others.
func (w *world) leader() (leader *harness.Node, others []*harness.Node) { return w.lead, w.others }

func hosts(nodes []*harness.Node) (list []*harness.Host) {
	for _, n := range nodes {
		list = append(list, n.Host)
	}
	return list
}

func (w *world) mountHosts() (list []*harness.Host) {
	for _, m := range w.mounts {
		list = append(list, m.Host)
	}
	return list
}

func one[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// cutHalves puts one node and some of the mounts on one side, the rest on the other.
func cutHalves(w *world, r *rand.Rand) (func(), string) {
	alone := one(r, w.c.Nodes)
	some, others := []*harness.Host{alone.Host}, []*harness.Host(nil)
	for _, n := range w.c.Nodes {
		if n != alone {
			others = append(others, n.Host)
		}
	}
	for _, h := range w.mountHosts() {
		if r.IntN(2) == 0 {
			some = append(some, h)
		} else {
			others = append(others, h)
		}
	}
	w.net.Cut(some, others)
	return w.net.Heal, fmt.Sprintf("node %s with %d mounts cut off from the rest", alone.ID, len(some)-1)
}

// cutBridge leaves one node that can talk to two others, who cannot talk to one another.
func cutBridge(w *world, r *rand.Rand) (func(), string) {
	bridge := one(r, w.c.Nodes)
	var ends []*harness.Node
	for _, n := range w.c.Nodes {
		if n != bridge {
			ends = append(ends, n)
		}
	}
	w.net.Cut(hosts(ends[:1]), hosts(ends[1:]))
	return w.net.Heal, fmt.Sprintf("nodes %s and %s cut off from one another", ends[0].ID, ends[1].ID)
}

// cutOneWay loses what one node sends to another, or to everybody.
func cutOneWay(w *world, r *rand.Rand) (func(), string) {
	from, others := w.leader()
	if r.IntN(2) == 0 {
		from = one(r, others)
	}
	to, whom := w.mountHosts(), "everybody"
	for _, n := range w.c.Nodes {
		if n != from {
			to = append(to, n.Host)
		}
	}
	if r.IntN(2) == 0 {
		to, whom = to[len(to)-1:], "one node"
	}
	for _, h := range to {
		w.net.Set(from.Host, h, harness.Line{Cut: true})
	}
	return w.net.Heal, fmt.Sprintf("what node %s sends to %s is lost", from.ID, whom)
}

// cutLeaderFromNodes leaves the leader with the mounts only.
func cutLeaderFromNodes(w *world, _ *rand.Rand) (func(), string) {
	leader, others := w.leader()
	w.net.Cut([]*harness.Host{leader.Host}, hosts(others))
	return w.net.Heal, fmt.Sprintf("the leader %s cut off from the nodes", leader.ID)
}

func cutLeaderFromAll(w *world, _ *rand.Rand) (func(), string) {
	leader, others := w.leader()
	w.net.Cut([]*harness.Host{leader.Host}, append(hosts(others), w.mountHosts()...))
	return w.net.Heal, fmt.Sprintf("the leader %s cut off from all", leader.ID)
}

func cutMountFromLeader(w *world, r *rand.Rand) (func(), string) {
	leader, _ := w.leader()
	i := r.IntN(len(w.mounts))
	w.net.Cut([]*harness.Host{leader.Host}, []*harness.Host{w.mounts[i].Host})
	return w.net.Heal, fmt.Sprintf("mount %d cut off from the leader %s", i, leader.ID)
}

func cutMount(w *world, r *rand.Rand) (func(), string) {
	i := r.IntN(len(w.mounts))
	w.net.Cut(hosts(w.c.Nodes), []*harness.Host{w.mounts[i].Host})
	return w.net.Heal, fmt.Sprintf("mount %d cut off from all nodes", i)
}

// badNetwork delays, reorders, doubles and loses packets between all.
func badNetwork(w *world, r *rand.Rand) (func(), string) {
	line := harness.Line{Loss: float64(r.IntN(6)) / 100, Double: float64(r.IntN(6)) / 100, Delay: time.Duration(r.IntN(20)) * time.Millisecond}
	all := append(hosts(w.c.Nodes), w.mountHosts()...)
	for _, a := range all {
		for _, b := range all {
			w.net.Set(a, b, line)
		}
	}
	return w.net.Heal, fmt.Sprintf("packets lost (%v), doubled (%v) and late by up to %v", line.Loss, line.Double, line.Delay)
}

// pauses stop processes and let them go on.
func pauses() []fault {
	return append(leaderPauses(), []fault{
		{"follower pauses", orderFirst, false, pauseFollower}, {"mount pauses", orderFirst, false, pauseMount}, {"mount pauses", orderFirst, false, pauseMounts},
	}...)
}

// leaderPauses are two, so that half of what is drawn from pauses is of leaders.
func leaderPauses() []fault {
	pause := fault{"leader pauses", orderFirst, false, pauseLeader}
	return []fault{pause, pause}
}

func pause(p *harness.Process) (heal func()) {
	p.Signal(syscall.SIGSTOP)
	return func() { p.Signal(syscall.SIGCONT) }
}

func pauseLeader(w *world, _ *rand.Rand) (func(), string) {
	leader, _ := w.leader()
	return pause(leader.Process()), fmt.Sprintf("the leader %s paused", leader.ID)
}

func pauseFollower(w *world, r *rand.Rand) (func(), string) {
	_, others := w.leader()
	n := one(r, others)
	return pause(n.Process()), fmt.Sprintf("the follower %s paused", n.ID)
}

func pauseMount(w *world, r *rand.Rand) (func(), string) {
	i := r.IntN(len(w.mounts))
	return pause(w.mounts[i].Process()), fmt.Sprintf("mount %d paused", i)
}

// pauseMounts stops two mounts.
func pauseMounts(w *world, r *rand.Rand) (func(), string) {
	i := r.IntN(len(w.mounts))
	j := (i + 1 + r.IntN(len(w.mounts)-1)) % len(w.mounts)
	a, b := pause(w.mounts[i].Process()), pause(w.mounts[j].Process())
	return func() { a(); b() }, fmt.Sprintf("mounts %d and %d paused", i, j)
}

// kills end processes with SIGKILL.
func kills() []fault {
	return []fault{
		{"kills", orderNodes, false, killLeader}, {"kills", orderNodes, false, killFollower}, {"kills", orderMounts, false, killMount},
		{"kills", orderNodes, false, killAll}, {"rolling restarts", orderNodes, true, rolling},
	}
}

// up starts the nodes that do not run, but for those without power: one that begins while its disk is taken away and put
// back would find an empty directory in its place.
func (w *world) up() {
	w.t.Helper()
	for _, n := range w.c.Nodes {
		if n.Process().Exited() && !w.dark[n] {
			n.Start()
		}
	}
}

func killLeader(w *world, _ *rand.Rand) (func(), string) {
	leader, _ := w.leader()
	leader.Kill()
	return w.up, fmt.Sprintf("the leader %s killed", leader.ID)
}

func killFollower(w *world, r *rand.Rand) (func(), string) {
	_, others := w.leader()
	n := one(r, others)
	n.Kill()
	return w.up, fmt.Sprintf("the follower %s killed", n.ID)
}

func killAll(w *world, r *rand.Rand) (func(), string) {
	nodes := slices.Clone(w.c.Nodes)
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	for _, n := range nodes {
		n.Process().Signal(syscall.SIGKILL)
	}
	for _, n := range nodes {
		n.Kill()
	}
	return w.up, "all nodes killed"
}

func killMount(w *world, r *rand.Rand) (func(), string) {
	i := r.IntN(len(w.mounts))
	m := w.mounts[i]
	m.Kill()
	return func() {
		if m.Process().Exited() {
			m.Start()
		}
	}, fmt.Sprintf("mount %d killed", i)
}

// rolling restarts one node after the other, each when the last one is back.
func rolling(w *world, _ *rand.Rand) (func(), string) {
	for _, n := range w.c.Nodes {
		n.Process().Stop()
		n.Start()
		w.c.WaitReady()
	}
	return func() {}, "all nodes restarted, one after the other"
}
