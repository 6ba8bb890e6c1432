package partition

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"dfs/tests/harness"
	"dfs/tests/lossy"
)

// lossyDisks gives each node a disk that loses what it may at a loss of power.
func lossyDisks(w *world, c *harness.Cluster) {
	for _, n := range c.Nodes {
		must(w.t, os.MkdirAll(n.Data, 0o755))
		d, err := lossy.New(n.Data, w.t.TempDir())
		must(w.t, err)
		w.t.Cleanup(func() { w.closed(d.Close) })
		w.lossy[n] = d
	}
}

// closed calls what unmounts a disk until the kernel has let go of it.
func (w *world) closed(f func() error) {
	w.t.Helper()
	var err error
	for range 100 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond) // a process that was killed ends
	}
	w.t.Error(err)
}

// lossyFaults are faults of such disks.
func lossyFaults() []fault {
	return []fault{
		{"power losses of all nodes", orderNodes, false, loseAll}, {"power losses of all nodes", orderNodes, false, loseAll},
		{"power losses of one node", orderNodes, false, loseOne}, failingDisk(),
		{"kills", orderNodes, false, killLeader}, {"leader pauses", orderFirst, false, pauseLeader},
	}
}

func failingDisk() fault { return fault{"disks failed", orderNodes, true, failDisk} }

// lose takes the power from nodes.
func (w *world) lose(r *rand.Rand, nodes []*harness.Node) (heal func()) {
	w.t.Helper()
	nodes = slices.DeleteFunc(nodes, func(n *harness.Node) bool { return w.dark[n] })
	seed := r.Uint64()
	for _, n := range nodes {
		w.lossy[n].PowerOff()
		w.dark[n] = true
	}
	for _, n := range nodes {
		n.Kill()
	}
	return func() {
		for i, n := range nodes {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			before := w.lossy[n].Lost()
			w.closed(func() error { return w.lossy[n].PowerOn(r) })
			w.tally.add("blocks forgotten or torn by disks", w.lossy[n].Lost()-before)
			w.dark[n] = false
		}
		w.up()
	}
}

func loseAll(w *world, r *rand.Rand) (func(), string) {
	nodes := slices.Clone(w.c.Nodes)
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	return w.lose(r, nodes), "all nodes without power"
}

func loseOne(w *world, r *rand.Rand) (func(), string) {
	n := one(r, w.c.Nodes)
	return w.lose(r, []*harness.Node{n}), fmt.Sprintf("node %s without power", n.ID)
}

// failDisk lets a disk fail: its node must end by itself, the others go on.
func failDisk(w *world, r *rand.Rand) (func(), string) {
	n := one(r, w.c.Nodes)
	w.lossy[n].Fail(true)
	harness.Eventually(w.t, patience, "the end of node "+n.ID+", whose disk fails", n.Process().Exited)
	path := w.mounts[0].Path(fmt.Sprint("beside-a-dead-disk-", w.rounds))
	must(w.t, os.WriteFile(path, []byte("x"), 0o644))
	must(w.t, harness.SyncPath(path))
	return func() {
		w.lossy[n].Fail(false)
		w.up()
	}, fmt.Sprintf("the disk of node %s failed", n.ID)
}
