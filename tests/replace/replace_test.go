// Package replace holds the black-box test of a replica that lost its disk.
package replace

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"dfs/tests/harness"
)

// fileBytes times files is more than the log keeps: only a copy can bring a new node up.
const (
	files     = 15
	fileBytes = 32 << 20
)

// A node loses its data directory. Under its old id it is refused; a new node in its place copies, votes and serves.
func TestReplaceNode(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	want := map[string]string{}
	write := func(name string, size int64) {
		t.Helper()
		want[name] = harness.WriteRandom(t, m.Path(name), name, 1, size)
	}
	for i := range files {
		write(fmt.Sprintf("big-%02d", i), fileBytes)
	}
	harness.Eventually(t, time.Minute, "the leader to cut its log", func() bool {
		for _, s := range c.Status() {
			if s.Role == "leader" {
				return s.Details.FirstLogIndex > 1
			}
		}
		return false
	})
	lost := c.Followers()[0]
	lost.Kill()
	if err := os.RemoveAll(lost.Data); err != nil {
		t.Fatal(err)
	}
	write("without-a-node", 1<<20)

	refused(t, c, lost)
	c.Forget(lost)

	fresh := c.Add("d")
	out, err := c.TryBoth("node", "replace", "--cluster", c.Addresses(), lost.ID, fresh.ID, fresh.Address)
	t.Logf("dfs node replace said:\n%s", out)
	if err != nil {
		t.Fatalf("dfs node replace: %v", err)
	}
	for _, say := range []string{"node d copies from ", "node d has caught up", "node d votes", "node " + lost.ID + " is removed"} {
		if !strings.Contains(out, say) {
			t.Errorf("it did not say %q", say)
		}
	}
	status := c.StatusOf(fresh)
	if status.Details.CatchUp.ChunksPulled == 0 || status.Details.CatchUp.Bytes < files*fileBytes {
		t.Errorf("the new node pulled %d chunks, %d bytes: a copy did not bring it up", status.Details.CatchUp.ChunksPulled, status.Details.CatchUp.Bytes)
	}
	if list := c.Run("node", "ls", "--cluster", c.Addresses()); strings.Contains(list, lost.Address) {
		t.Errorf("the lost node is still listed:\n%s", list)
	}

	write("with-the-new-node", 1<<20)
	other := c.Nodes[0]
	other.Kill() // now the new node's vote is needed for anything
	write("by-its-vote", 1<<20)
	other.Start()
	c.WaitReady()
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	if c.WaitLeader() != fresh { // a leader is not held for a check
		c.Run("fsck", "--node", fresh.ID, c.Addresses())
	}
	c.Check()
}

// refused starts a node with its data directory emptied, which must end with an error that says why and what to do.
func refused(t *testing.T, c *harness.Cluster, n *harness.Node) {
	t.Helper()
	n.Start()
	if !n.Process().Wait(30 * time.Second) {
		t.Fatal("a node with an emptied data directory runs under its old id")
	}
	said := harness.Tail(n.Log, 3)
	if n.Process().ExitCode() == 0 || !strings.Contains(said, "empty data directory") || !strings.Contains(said, "join as a new one") {
		t.Errorf("a node with an emptied data directory ended with %d and said:\n%s", n.Process().ExitCode(), said)
	}
	for _, s := range c.Status() {
		if s.Node == n.ID && s.Error == "" {
			t.Errorf("the refused node answers: %+v", s)
		}
	}
}
