package command

import (
	"encoding/json"
	"net"
	"testing"

	"dfs/tests/harness"
)

// silent is the address of a program that takes connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel takes them, nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// TestNoAnswer: commands for a cluster that does not answer end in their time, say what to look at, and exit with 3.
func TestNoAnswer(t *testing.T) {
	mnt := t.TempDir()
	for what, addr := range map[string]string{"nobody listens": harness.FreeAddress(t), "silence": silent(t)} {
		t.Run(what, func(t *testing.T) {
			hint := `^dfs: cannot mount ` + addr + `: .*; do a majority of the nodes run, and are the addresses right\? \(dfs status ` + addr + `\)\n$`
			want(t, "mount", dfs(t, "", nil, "mount", "--wait", "1s", "--log", mnt+".log", addr, mnt), 3, hint)
			want(t, "mount in the foreground", dfs(t, "", nil, "mount", "--foreground", "--wait", "1s", addr, mnt), 3, hint)
			want(t, "thin mount", dfs(t, "", nil, "mount", "--foreground", "--wait", "1s", "--via", addr, mnt), 3, `cannot mount `+addr)
			if harness.Mounted(mnt) {
				t.Error("it is mounted")
			}
			want(t, "node ls", dfs(t, "", nil, "node", "ls", "--wait", "1s", "-c", addr), 3,
				`^dfs: no leader found in .*Asked `+addr+`: .*Check that a majority of the nodes runs and that these addresses are reached from here`)
			r := dfs(t, "", nil, "status", "--json", addr)
			want(t, "status --json", r, 3, `dfs: no leader: 0 of 1 nodes answer`)
			var s struct {
				Nodes []struct{ Address, Error string }
			}
			if err := json.Unmarshal([]byte(r.out), &s); err != nil || len(s.Nodes) != 1 || s.Nodes[0].Address != addr || s.Nodes[0].Error == "" {
				t.Errorf("status --json: %v\n%s", err, r.out)
			}
		})
	}
}

// TestReplaceOfNobody: a mistyped node to be replaced is told before the new one is copied to and votes.
func TestReplaceOfNobody(t *testing.T) {
	c := harness.Start(t, harness.Options{Nodes: 1})
	d := c.Add("d")
	replace := func(old, id string) result {
		return dfs(t, "", nil, "node", "replace", "-c", c.Nodes[0].Address, old, id, d.Address)
	}
	want(t, "replace of nobody", replace("z", "d"), 1, `^dfs: there is no node "z" to replace, and nothing was changed: the members are a \(see: dfs node ls\)\n$`)
	want(t, "replace of the new one", replace("d", "d"), 2, `node d cannot replace itself`)
	if members := c.StatusOf(d); members.Error == "" {
		t.Errorf("the new node is a member: %+v", members)
	}
	want(t, "replace", replace("a", "d"), 0, "node d votes\nnode a is removed")
}
