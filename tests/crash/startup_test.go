package crash

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"dfs/internal/pagemem"
	"dfs/tests/harness"
)

// Every node is killed with much log and started again: the mount that was there goes on and reads what was written. The time
// from the start to the first read is printed. 1 GiB of log in the long run, 128 MiB else; a checkpoint covers all but the last
// 256 MiB of it at most, as is the default.
func TestStartWithLongLog(t *testing.T) {
	files := 4
	if os.Getenv("DFS_SOAK_MINUTES") != "" {
		files = 32
	}
	c := harness.Start(t, harness.Options{Args: []string{"--keep-log", "4G"}})
	m := c.Mount("--cache", "16M")
	want := map[string]string{}
	for i := range files {
		name := fmt.Sprintf("f%02d", i)
		want[name] = harness.WriteRandom(t, m.Path(name), name, 1, 32<<20)
	}
	before := c.StatusOf(c.Nodes[0])
	for _, n := range c.Nodes {
		n.Process().Signal(syscall.SIGKILL)
	}
	for _, n := range c.Nodes {
		n.Kill()
	}
	begun := time.Now()
	for _, n := range c.Nodes {
		n.Start()
	}
	f, err := os.OpenFile(m.Path("f00"), os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(pagemem.Make(4096), 0); err != nil {
		t.Fatalf("the first read after the start: %v", err)
	}
	t.Logf("%d MiB of log; first read %v after the start", before.Details.LogBytes>>20, time.Since(begun))
	c.WaitReady()
	t.Logf("all nodes ready after %v", time.Since(begun))
	harness.SameTree(t, "through the mount", want, harness.Hashes(t, m.Dir))
	_ = f.Close()
	m.Unmount()
	c.Check()
}
