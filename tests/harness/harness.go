// Package harness runs real dfs processes for black-box tests: nodes and
// mounts on loopback, started, killed, paused and looked at through the dfs
// command alone.
package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startWait bounds every wait for a process to become ready.
const startWait = 60 * time.Second

// Cluster is a set of nodes, each a process with a data directory of its own.
type Cluster struct {
	Dir   string // everything of this cluster lies below it
	Nodes []*Node

	t       testing.TB
	bin     string
	network *Network // nil: all are on loopback
	admin   *Host    // where commands run
}

// Node is one node process.
type Node struct {
	ID, Address, Data, Log string
	Host                   *Host // nil without a network

	cluster *Cluster
	args    []string
	proc    *Process
}

// Options change what a cluster is made of.
type Options struct {
	Nodes int      // default 3
	Args  []string // more flags for every dfs server
	Dir   string   // default a temporary directory
	// Network puts each node and each mount on a host of its own, and commands on a further one.
	Network *Network
	// Prepare is called when the nodes are known and before they are started.
	Prepare func(c *Cluster)
}

// Start makes a cluster and starts its nodes; they are killed and their data removed at the end of the test.
// It waits until the cluster has a leader.
func Start(t testing.TB, opt Options) *Cluster {
	t.Helper()
	if opt.Nodes == 0 {
		opt.Nodes = 3
	}
	if opt.Dir == "" {
		opt.Dir = t.TempDir()
	}
	c := &Cluster{Dir: opt.Dir, t: t, bin: Binary(t), network: opt.Network}
	for i := range opt.Nodes {
		c.Nodes = append(c.Nodes, c.node(string(rune('a'+i))))
	}
	if c.network != nil {
		c.admin = c.network.Host("admin")
	}
	if opt.Prepare != nil {
		opt.Prepare(c)
	}
	for _, n := range c.Nodes {
		n.args = append([]string{"--bootstrap", c.bootstrap()}, opt.Args...)
		n.Start()
	}
	t.Cleanup(c.cleanup)
	c.WaitLeader()
	return c
}

// nodePort is the port of a node that has a host of its own.
const nodePort = "7470"

// node makes a node that is not started yet.
func (c *Cluster) node(id string) *Node {
	c.t.Helper()
	n := &Node{ID: id, Data: filepath.Join(c.Dir, "node-"+id), Log: filepath.Join(c.Dir, "node-"+id+".log"), cluster: c}
	if c.network != nil {
		n.Host = c.network.Host(id)
		n.Address = net.JoinHostPort(n.Host.Address, nodePort)
	} else {
		n.Address = FreeAddress(c.t)
	}
	return n
}

// Add makes a further node that joins the cluster (dfs server --join) and starts it.
func (c *Cluster) Add(id string, args ...string) *Node {
	c.t.Helper()
	n := c.node(id)
	n.args = append([]string{"--join", c.Addresses()}, args...)
	c.Nodes = append(c.Nodes, n)
	n.Start()
	return n
}

// Forget kills a node and takes it out of Nodes; its data stays.
func (c *Cluster) Forget(n *Node) {
	n.Kill()
	c.Nodes = slices.DeleteFunc(c.Nodes, func(other *Node) bool { return other == n })
}

func (c *Cluster) bootstrap() string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, n.ID+"="+n.Address)
	}
	return strings.Join(list, ",")
}

// Addresses is the CLUSTER argument: the nodes' addresses.
func (c *Cluster) Addresses() string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, n.Address)
	}
	return strings.Join(list, ",")
}

// FreeAddress returns a loopback address with a port that was free a moment ago.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *Cluster) cleanup() {
	for _, n := range c.Nodes {
		n.Kill()
	}
	if c.t.Failed() {
		c.keepLogs()
		for _, n := range c.Nodes {
			c.t.Logf("log of node %s ends with:\n%s", n.ID, Tail(n.Log, 40))
		}
	}
}

// Start starts the node's process.
func (n *Node) Start() {
	t := n.cluster.t
	t.Helper()
	args := append([]string{"server", "--id", n.ID, "--listen", n.Address, "--data", n.Data}, n.args...)
	if n.Host != nil {
		args = append(args, "--insecure-listen")
	}
	n.proc = startOn(t, n.Host, n.Log, n.cluster.bin, args...)
}

// Process is the node's running process, nil before its first start.
func (n *Node) Process() *Process { return n.proc }

// Kill ends the node with SIGKILL and waits for it.
func (n *Node) Kill() {
	if n.proc != nil {
		n.proc.Kill()
	}
}

// Restart kills the node and starts it again.
func (n *Node) Restart() {
	n.cluster.t.Helper()
	n.Kill()
	n.Start()
}

// Status is what `dfs status --json` tells of one node; fields that tests look at.
type Status struct {
	Node    string `json:"node"`
	Address string `json:"address"`
	Role    string `json:"role"` // leader, follower, candidate
	Applied uint64 `json:"applied"`
	Error   string `json:"error"` // why the node did not answer
	Details struct {
		Ready           bool
		CommitIndex     uint64
		FirstLogIndex   uint64
		CheckpointIndex uint64
		LogBytes        int64
		DeviceUsedBytes uint64
		DeviceFreeBytes uint64
		CatchUp         struct {
			Active       bool
			ChunksPulled uint64
			Bytes        uint64
		}
		Repairs struct{ Found, Repaired, Failed uint64 }
		Failure string
	} `json:"details"`
}

// Status asks every node.
func (c *Cluster) Status() []Status {
	c.t.Helper()
	out, _ := c.Try("status", "--json", c.Addresses()) // exit code 3 without a leader
	if out == "" {
		return nil
	}
	var s struct {
		Nodes []Status `json:"nodes"`
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		c.t.Fatalf("dfs status --json: %v\n%s", err, out)
	}
	return s.Nodes
}

// WaitLeader waits until a node leads and returns it.
func (c *Cluster) WaitLeader() *Node {
	c.t.Helper()
	var leader *Node
	Eventually(c.t, startWait, "a leader", func() bool {
		for _, s := range c.Status() {
			for _, n := range c.Nodes {
				if s.Role == "leader" && s.Node == n.ID {
					leader = n
					return true
				}
			}
		}
		return false
	})
	return leader
}

// StatusOf is the status of one node; its Error is set if it does not answer.
func (c *Cluster) StatusOf(n *Node) Status {
	c.t.Helper()
	for _, s := range c.Status() {
		if s.Node == n.ID {
			return s
		}
	}
	return Status{Node: n.ID, Error: "not a member"}
}

// WaitReady waits until every node answers, may be read, and has applied what the leader has committed.
func (c *Cluster) WaitReady() {
	c.t.Helper()
	Eventually(c.t, startWait, "all nodes to be ready", func() bool {
		list := c.Status()
		var committed uint64
		for _, s := range list {
			if s.Error != "" || !s.Details.Ready {
				return false
			}
			if s.Role == "leader" {
				committed = max(committed, s.Details.CommitIndex)
			}
		}
		for _, s := range list {
			if s.Applied+1000 < committed { // a writer may go on meanwhile
				return false
			}
		}
		return committed > 0
	})
}

// WaitApplied waits until every node has applied the same, which takes an end of all writing.
func (c *Cluster) WaitApplied() {
	c.t.Helper()
	Eventually(c.t, startWait, "all nodes to apply the same", func() bool {
		list := c.Status()
		for _, s := range list {
			if s.Error != "" || !s.Details.Ready || s.Applied != list[0].Applied {
				return false
			}
		}
		return len(list) > 0
	})
}

// Followers are the nodes that do not lead.
func (c *Cluster) Followers() []*Node {
	c.t.Helper()
	leader := c.WaitLeader()
	var list []*Node
	for _, n := range c.Nodes {
		if n != leader {
			list = append(list, n)
		}
	}
	return list
}

// Try runs `dfs args…` and returns its standard output; the error holds standard error.
func (c *Cluster) Try(args ...string) (string, error) {
	stdout, stderr, err := c.command(args)
	if err != nil {
		err = fmt.Errorf("dfs %s: %w\n%s", strings.Join(args, " "), err, stderr)
	}
	return string(stdout), err
}

// TryBoth is Try that returns what the command wrote to standard output and standard error, joined.
func (c *Cluster) TryBoth(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if c.network != nil {
		stdout, stderr, err := c.network.launcher.run(ctx, c.admin, nil, c.bin, args...)
		return string(stdout) + string(stderr), err
	}
	out, err := exec.CommandContext(ctx, c.bin, args...).CombinedOutput()
	return string(out), err
}

func (c *Cluster) command(args []string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	env := "DFS_CLUSTER=" + c.Addresses()
	if c.network != nil {
		return c.network.launcher.run(ctx, c.admin, []string{env}, c.bin, args...)
	}
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), env)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.Bytes(), errs.Bytes(), err
}

// Run is Try that must succeed.
func (c *Cluster) Run(args ...string) string {
	c.t.Helper()
	out, err := c.Try(args...)
	if err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// Check runs fsck and compare, which must find nothing.
func (c *Cluster) Check() {
	c.t.Helper()
	c.Run("fsck", c.Addresses())
	c.Run("compare", c.Addresses())
}

// Mount is one mount process.
type Mount struct {
	Dir, Log string
	Host     *Host // nil without a network
	cluster  *Cluster
	args     []string
	proc     *Process
}

// Mount mounts the cluster at a new directory; it is unmounted at the end of the test.
func (c *Cluster) Mount(args ...string) *Mount {
	c.t.Helper()
	dir, err := os.MkdirTemp(c.Dir, "mnt-")
	if err != nil {
		c.t.Fatal(err)
	}
	m := &Mount{Dir: dir, Log: dir + ".log", cluster: c, args: args}
	if c.network != nil {
		m.Host = c.network.Host(filepath.Base(dir))
	}
	m.Start()
	c.t.Cleanup(m.cleanup)
	return m
}

// Start starts the mount process and waits until it is mounted.
func (m *Mount) Start() {
	t := m.cluster.t
	t.Helper()
	args := append([]string{"mount", "--foreground"}, m.args...)
	m.proc = startOn(t, m.Host, m.Log, m.cluster.bin, append(args, m.cluster.Addresses(), m.Dir)...)
	Eventually(t, startWait, "the mount at "+m.Dir, func() bool {
		if m.proc.Exited() {
			t.Fatalf("dfs mount ended:\n%s", Tail(m.Log, 20))
		}
		return Mounted(m.Dir)
	})
}

// Process is the mount's process.
func (m *Mount) Process() *Process { return m.proc }

// Unmount flushes and unmounts (dfs umount), which must succeed.
func (m *Mount) Unmount() {
	m.cluster.t.Helper()
	m.cluster.Run("umount", m.Dir)
	m.proc.Wait(startWait)
}

// Kill ends the mount process with SIGKILL and detaches what is left of the mount.
func (m *Mount) Kill() {
	m.proc.signal(syscall.SIGKILL)
	if !m.proc.Wait(startWait) {
		m.cluster.t.Errorf("the mount process at %s was killed, and does not end: its connection is aborted", m.Dir)
		_ = syscall.Unmount(m.Dir, syscall.MNT_FORCE)
		m.proc.Kill()
	}
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
}

func (m *Mount) cleanup() {
	if m.cluster.t.Failed() {
		m.cluster.t.Logf("log of the mount at %s ends with:\n%s", m.Dir, Tail(m.Log, 40))
	}
	_ = syscall.Unmount(m.Dir, syscall.MNT_DETACH)
	m.proc.Stop()
}

// Sync makes everything written through the mount durable.
func (m *Mount) Sync() {
	m.cluster.t.Helper()
	d, err := os.Open(m.Dir)
	if err != nil {
		m.cluster.t.Fatal(err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		m.cluster.t.Fatalf("fsync of the mount's root: %v", err)
	}
}

// Path joins names to the mount point.
func (m *Mount) Path(names ...string) string {
	return filepath.Join(append([]string{m.Dir}, names...)...)
}

// Mounted reports whether something is mounted at dir.
func Mounted(dir string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(table), " "+dir+" ")
}
