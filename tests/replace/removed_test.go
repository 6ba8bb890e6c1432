package replace

import (
	"os"
	"strings"
	"testing"
	"time"

	"dfs/tests/harness"
)

// A node that was removed says so, whether it ran then or comes back later; it cannot disturb the others, and can be added again.
func TestRemovedNode(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	for _, id := range []string{"d", "e"} {
		n := c.Add(id)
		c.Run("node", "add", "--cluster", c.Addresses(), n.ID, n.Address)
	}
	says := func(n *harness.Node, what string) {
		t.Helper()
		harness.Eventually(t, time.Minute, "node "+n.ID+" to say: "+what, func() bool {
			b, err := os.ReadFile(n.Log)
			return err == nil && strings.Contains(string(b), what)
		})
	}
	followers := c.Followers()
	running, stopped := followers[0], followers[1]
	stopped.Kill()
	c.Run("node", "remove", "--cluster", c.Addresses(), stopped.ID)
	c.Run("node", "remove", "--cluster", c.Addresses(), running.ID)
	stopped.Start()
	says(running, "this node was removed from its cluster")
	says(stopped, "is it still a member? (dfs node ls)")
	if list := c.Run("node", "ls", "--cluster", c.Addresses()); strings.Contains(list, stopped.Address) || strings.Contains(list, running.Address) {
		t.Errorf("a removed node is listed:\n%s", list)
	}
	c.Forget(stopped)
	out, err := c.TryBoth("node", "add", "--cluster", c.Addresses(), running.ID, running.Address)
	if err != nil {
		t.Errorf("adding it again: %v\n%s", err, out)
	}
	c.WaitApplied()
	c.Run("compare", c.Addresses())
}
