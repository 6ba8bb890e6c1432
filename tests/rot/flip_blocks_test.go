package rot

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/internal/cluster"
	"dfs/internal/wire/blockpb"
	"dfs/tests/harness"
)

// One in a hundred of a replica's blocks is damaged on its disk, while it runs and while it is stopped. No read shows it,
// it is counted and repaired, and after a scrub it is gone.
func TestFlippedBlocks(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("DFS_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	c := harness.Start(t, harness.Options{Args: []string{"--checkpoint", "8M"}})
	m := c.Mount()
	want := map[string]string{}
	for i, size := range []int64{8 << 20, 8 << 20, 5<<20 + 77, 1 << 20, 300 << 10} {
		name := fmt.Sprintf("large-%d", i)
		want[name] = harness.WriteRandom(t, m.Path(name), name, seed, size)
	}
	for i := range 300 {
		name := fmt.Sprintf("small-%03d", i)
		want[name] = harness.WriteRandom(t, m.Path(name), name, seed, 1+r.Int64N(30<<10))
	}
	c.WaitReady()
	victim := c.Followers()[0]

	t.Run("running", func(t *testing.T) { damaged(t, c, m, victim, want, r, false) })
	t.Run("stopped", func(t *testing.T) { damaged(t, c, m, c.Followers()[1], want, r, true) })
	c.Check()
}

func damaged(t *testing.T, c *harness.Cluster, m *harness.Mount, victim *harness.Node, want map[string]string, r *rand.Rand, stopped bool) {
	c.WaitApplied()
	if stopped {
		victim.Process().Stop()
	}
	flips := flipBlocks(t, r, victim.Data)
	t.Logf("%d blocks of node %s damaged", len(flips), victim.ID)
	if stopped {
		victim.Start()
		c.WaitReady()
	}
	readDirectly(t, c, m, victim, want)
	fresh := c.Mount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, fresh.Dir))
	fresh.Unmount()

	repairs := c.StatusOf(victim).Details.Repairs
	if repairs.Found == 0 || repairs.Repaired == 0 {
		t.Errorf("reads met damaged blocks, but the status counts %+v", repairs)
	}
	t.Logf("scrub: %s", c.Run("scrub", c.Addresses()))
	c.WaitApplied()
	written := 0
	for _, f := range flips {
		harness.Eventually(t, 10*time.Second, f.String()+" to be as it was, or written since", func() bool { // writes go their way after they are applied
			same, new := f.repaired(t)
			if new {
				written++
			}
			return same || new
		})
	}
	t.Logf("%d of %d damaged blocks were written since, by the new mount: the replicas must agree on them, too", written, len(flips))
	c.Run("compare", c.Addresses())
	repairs = c.StatusOf(victim).Details.Repairs
	// What a start redoes from the log is good again without a repair.
	if !stopped && (repairs.Found < uint64(len(flips)) || repairs.Repaired < uint64(len(flips))) || repairs.Failed > 0 {
		t.Errorf("%d blocks were damaged, but the status counts %+v", len(flips), repairs)
	}
	if again := c.Run("scrub", "--node", victim.ID, c.Addresses()); !strings.Contains(again, ", 0 bad blocks") {
		t.Errorf("a second scrub still finds: %s", again)
	}
}

// readDirectly reads the large files' blocks from one replica, past every cache.
func readDirectly(t *testing.T, c *harness.Cluster, m *harness.Mount, from *harness.Node, want map[string]string) {
	t.Helper()
	cl, err := cluster.Dial([]string{from.Address}, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	conn, err := cl.Conn(from.Address)
	if err != nil {
		t.Fatal(err)
	}
	store := blockpb.NewBlockStoreClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for name := range want {
		if !strings.HasPrefix(name, "large-") {
			continue
		}
		content, err := os.ReadFile(m.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(m.Path(name), &st); err != nil {
			t.Fatal(err)
		}
		for off := 0; off < len(content); off += 256 * blockSize {
			count := min(256, (len(content)-off+blockSize-1)/blockSize)
			resp, err := store.Read(ctx, &blockpb.ReadRequest{Spans: []*blockpb.Span{{Vdisk: st.Ino, Block: uint64(off / blockSize), Count: uint64(count)}}, WaitMillis: 1000})
			if err != nil {
				t.Fatalf("reading %s at %d from node %s: %v", name, off, from.ID, err)
			}
			part := content[off:min(off+count*blockSize, len(content))]
			if !bytes.Equal(resp.Data[0][:len(part)], part) {
				t.Fatalf("node %s gave wrong bytes of %s at %d", from.ID, filepath.Base(name), off)
			}
		}
	}
}
