package crash

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// killRounds is how often everything is killed.
const killRounds = 20

// All nodes and the mount are killed at once, over and over, at random points of a known sequence of operations. What is there
// afterwards must be a prefix of the sequence, and hold what was told to be durable.
// DFS_SEED repeats the operations of an earlier run.
func TestKillEverything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("DFS_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("DFS_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	defer syscall.Umask(syscall.Umask(0))
	c := harness.Start(t, harness.Options{Args: []string{"--checkpoint", "2M", "--keep-log", "1M"}}) // so that some kills hit a checkpoint
	m := c.Mount("--lease", "2s")
	base := newModel()
	if err := os.Mkdir(m.Path("work"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.Sync()
	var done, kept int
	for round := range killRounds {
		w := &workload{dir: m.Path("work"), m: base.clone()}
		syncEvery := []int{0, 5, 30, 200}[r.IntN(4)]
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			w.run(rand.New(rand.NewPCG(seed, uint64(round)+2)), syncEvery)
		}()
		pause := time.NewTimer(time.Duration(20+r.IntN(1200)) * time.Millisecond)
		select {
		case <-pause.C:
		case <-ended:
			t.Fatalf("round %d: an operation failed though nothing was killed: %v", round, w.failure)
		}
		w.killed.Store(true)
		killAll(r, c, m)
		<-ended
		for _, n := range c.Nodes {
			n.Start()
		}
		m.Start()
		var length int
		base, length = w.explain(t, base)
		done, kept = done+w.done, kept+length
		t.Logf("round %d: %d operations done, %d of them durable, %d are there", round, w.done, w.durable, length)
		c.Run("fsck", c.Addresses())
	}
	t.Logf("%d operations done, %d kept", done, kept)
	c.Check()
}

// killAll ends all nodes and the mount with SIGKILL, in a random order, as near together as can be.
func killAll(r *rand.Rand, c *harness.Cluster, m *harness.Mount) {
	all := []*harness.Process{m.Process()}
	for _, n := range c.Nodes {
		all = append(all, n.Process())
	}
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, p := range all {
		p.Signal(syscall.SIGKILL)
	}
	for _, n := range c.Nodes {
		n.Kill()
	}
	m.Kill()
}
