package replace

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dfs/tests/harness"
)

// Two of three nodes are lost for good. The third goes on alone with everything it had, two new ones are
// added, and whatever is left of the old ones is refused.
func TestRecover(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	want := map[string]string{}
	write := func(m *harness.Mount, name string) {
		t.Helper()
		want[name] = harness.WriteRandom(t, m.Path(name), name, 1, 3<<20)
	}
	write(m, "before")
	c.WaitApplied()
	left, lost := c.Nodes[0], c.Nodes[1:]
	if out, err := c.TryBoth("node", "recover", "--data", left.Data, "--yes"); err == nil || !strings.Contains(out, "in use by") {
		t.Errorf("recovering a running node: %v\n%s", err, out)
	}
	for _, n := range c.Nodes {
		n.Kill()
	}
	m.Kill()
	old := filepath.Join(c.Dir, "old")
	for i, n := range lost { // the first turns up again later
		var err error
		if i == 0 {
			err = os.Rename(n.Data, old)
		} else {
			err = os.RemoveAll(n.Data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	recoverFrom(t, c, left.Data)
	c.Nodes = c.Nodes[:1]
	left.Start()
	harness.Eventually(t, time.Minute, "the one node to lead", func() bool { return c.StatusOf(left).Role == "leader" })
	c.Run("fsck", c.Addresses())
	m = c.Mount()
	harness.SameTree(t, "after the recovery", want, harness.Hashes(t, m.Dir))
	write(m, "alone")

	back := *lost[0]
	back.Data, back.Log = old, filepath.Join(c.Dir, "back.log")
	back.Start()
	defer back.Kill()
	if !back.Process().Wait(30 * time.Second) {
		t.Fatal("a node of the old cluster runs beside the new one")
	}
	if said := harness.Tail(back.Log, 1); !strings.Contains(said, "belongs to cluster") || !strings.Contains(said, old) {
		t.Errorf("a node of the old cluster said: %s", said)
	}
	address := harness.FreeAddress(t)
	alone := harness.StartProcess(t, filepath.Join(c.Dir, "alone.log"), harness.Binary(t), "server", "--id", back.ID, "--listen", address, "--data", old) // knows of no other node
	defer alone.Kill()
	harness.Eventually(t, 30*time.Second, "the refusal of an old node", func() bool {
		out, err := c.TryBoth("node", "add", "--cluster", c.Addresses(), back.ID, address)
		return err != nil && strings.Contains(out, "it belongs to cluster")
	})
	alone.Kill()

	for _, id := range []string{"d", "e"} {
		n := c.Add(id)
		c.Run("node", "add", "--cluster", c.Addresses(), n.ID, n.Address)
	}
	m.Unmount()
	m = c.Mount() // knows the new ones from the start
	left.Kill()   // the new ones are a majority
	write(m, "by the new ones")
	left.Start()
	c.WaitReady()
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	c.Check()
}

// recoverFrom runs dfs node recover, which must change nothing before it is told to.
func recoverFrom(t *testing.T, c *harness.Cluster, data string) {
	t.Helper()
	out, err := c.TryBoth("node", "recover", "--data", data)
	if err == nil || err.(*exec.ExitError).ExitCode() != 2 || !strings.Contains(out, "nothing was changed") {
		t.Errorf("without --yes: %v\n%s", err, out)
	}
	before, err := os.ReadFile(filepath.Join(data, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err = c.TryBoth("node", "recover", "--data", data, "--yes"); err != nil {
		t.Fatalf("dfs node recover: %v\n%s", err, out)
	}
	t.Logf("dfs node recover said:\n%s", out)
	for _, say := range []string{"newest log entry", "Lost:  everything that the others (b, c) acknowledged", "one member of the new cluster"} {
		if !strings.Contains(out, say) {
			t.Errorf("it did not say %q", say)
		}
	}
	if after, err := os.ReadFile(filepath.Join(data, "node.json")); err != nil || string(after) == string(before) {
		t.Errorf("the identity is the old one: %v\n%s", err, after)
	}
	if out, err := c.TryBoth("node", "recover", "--data", data, "--yes"); err != nil { // again, before the first start
		t.Errorf("a second time: %v\n%s", err, out)
	}
}
