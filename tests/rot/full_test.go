package rot

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// smallDisk mounts a file system of so many MiB at a node's data directory.
func smallDisk(t *testing.T, n *harness.Node, mebibytes int) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	for _, cmd := range [][]string{{"truncate", "-s", fmt.Sprintf("%dM", mebibytes), image}, {"mkfs.ext4", "-q", image},
		{"mkdir", "-p", n.Data}, {"mount", "-o", "loop", image, n.Data}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	t.Cleanup(func() {
		n.Kill()
		if err := syscall.Unmount(n.Data, 0); err != nil {
			t.Errorf("unmounting the small disk: %v", err)
		}
	})
}

// fill writes files of 1 MiB, each with an fsync, until one fails or enough says so. It returns what was acknowledged.
func fill(t *testing.T, m *harness.Mount, most int, enough func() bool) (want map[string]string, err error) {
	t.Helper()
	want = map[string]string{}
	data := make([]byte, 1<<20)
	for i := range most {
		if enough() {
			break
		}
		name := fmt.Sprintf("fill-%03d", i)
		copy(data, name)
		if err = writeSynced(m.Path(name), data); err != nil {
			_ = os.Remove(m.Path(name))
			return want, err
		}
		sum, err := harness.HashFile(m.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		want[name] = sum
	}
	return want, nil
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// smallLog keeps the log small, so that the blocks fill the disk.
var smallLog = []string{"--checkpoint", "16M", "--keep-log", "8M"}

// The smallest replica's disk bounds what the cluster admits: writers get ENOSPC before it is full, and every node goes on.
func TestFullStore(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: smallLog, Prepare: func(c *harness.Cluster) { smallDisk(t, c.Nodes[2], 450) }})
	m := c.Mount()
	want, err := fill(t, m, 450, func() bool { return false })
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the store ended with %v after %d MiB, want ENOSPC", err, len(want))
	}
	t.Logf("%d MiB fitted", len(want))
	for _, n := range c.Nodes {
		if n.Process().Exited() {
			t.Errorf("node %s ended:\n%s", n.ID, harness.Tail(n.Log, 5))
		}
	}
	c.Run("fsck", c.Addresses())
	removed := 0
	for name := range want {
		if removed++; removed > 20 {
			break
		}
		if err := os.Remove(m.Path(name)); err != nil {
			t.Fatalf("removing a file of a full store: %v", err)
		}
		delete(want, name)
	}
	m.Sync()
	harness.Eventually(t, 30*time.Second, "space to come back", func() bool {
		_ = os.Remove(m.Path("again"))
		return writeSynced(m.Path("again"), make([]byte, 1<<20)) == nil
	})
	if err := os.Remove(m.Path("again")); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	c.Check()
}

// One node's disk runs full for good, because the cluster was told to admit more: that node stops and says why, the others
// go on, and nothing acknowledged is lost.
func TestFullDisk(t *testing.T) {
	var small *harness.Node
	c := harness.Start(t, harness.Options{Args: append([]string{"--capacity", "10G"}, smallLog...), Prepare: func(c *harness.Cluster) {
		small = c.Nodes[2]
		smallDisk(t, small, 400)
	}})
	m := c.Mount()
	after := 0
	want, err := fill(t, m, 600, func() bool { // and 20 MiB more without it
		if small.Process().Exited() {
			after++
		}
		return after > 20
	})
	if err != nil {
		t.Fatalf("a write failed because one disk of three is full: %v", err)
	}
	if !small.Process().Exited() {
		t.Fatalf("%d MiB were written, and the node with the small disk still runs", len(want))
	}
	t.Logf("%d MiB were written; the node said: %s", len(want), harness.Tail(small.Log, 1))
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	c.Run("fsck", c.Addresses())
}
