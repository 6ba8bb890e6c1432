package dev

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// state is what a test wants to know of dev.json.
type state struct {
	PID   int
	Nodes []struct{ Address string }
}

func stateOf(t *testing.T, data string) (s state) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "dev.json"))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil || s.PID == 0 || len(s.Nodes) == 0 {
		t.Fatalf("%s: %v", b, err)
	}
	return s
}

func stopAtEnd(t *testing.T, data string) {
	t.Helper()
	t.Cleanup(func() {
		if out, err := dfs(t, "dev", "stop", "--data", data); err != nil {
			t.Errorf("dfs dev stop: %v\n%s", err, out)
		}
	})
}

// killSupervisor kills the supervisor alone, and returns when it is dead.
func killSupervisor(t *testing.T, data string) (pid int) {
	t.Helper()
	pid = stateOf(t, data).PID
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 10*time.Second, "the supervisor to be dead", func() bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err != nil || len(line) == 0 // a zombie has none
	})
	return pid
}

// TestSupervisorKilled: with the supervisor alone killed the mount flushes what it has, while the nodes still run, and they end
// after it. The next start waits for that, and has all.
func TestSupervisorKilled(t *testing.T) {
	base := t.TempDir()
	data, mnt := filepath.Join(base, "data"), filepath.Join(base, "mnt")
	stopAtEnd(t, data)
	must(t, "dev", "--background", "--data", data, mnt)
	if err := os.WriteFile(filepath.Join(mnt, "file"), []byte("not fsynced"), 0o644); err != nil {
		t.Fatal(err)
	}
	pid := killSupervisor(t, data)
	must(t, "dev", "--background", "--data", data, mnt)
	if b, err := os.ReadFile(filepath.Join(mnt, "file")); err != nil || string(b) != "not fsynced" {
		t.Fatalf("after the next start: %q, %v", b, err)
	}
	if log, err := os.ReadFile(filepath.Join(data, "mount.log")); err != nil || strings.Contains(string(log), "lease ran out") || strings.Contains(string(log), "could not be flushed") {
		t.Errorf("the mount lost its nodes before it had ended: %v\n%s", err, log)
	}
	if stateOf(t, data).PID == pid {
		t.Error("it is the old supervisor")
	}
	killSupervisor(t, data)
	must(t, "dev", "stop", "--data", data)
	for _, n := range stateOf(t, data).Nodes {
		l, err := net.Listen("tcp", n.Address)
		if err != nil {
			t.Fatalf("a node still listens after dfs dev stop: %v", err)
		}
		_ = l.Close()
	}
	if mounted(t, mnt) {
		t.Error("it is still mounted")
	}
}

// TestTwoClusters: two that start for the first time at once share no port and see nothing of each other; one whose
// address another program has taken meanwhile says who that is.
func TestTwoClusters(t *testing.T) {
	base := t.TempDir()
	datas, mnts := [2]string{base + "/data-0", base + "/data-1"}, [2]string{base + "/mnt-0", base + "/mnt-1"}
	var wg sync.WaitGroup
	for i := range datas {
		stopAtEnd(t, datas[i])
		wg.Go(func() {
			if out, err := dfs(t, "dev", "--background", "--data", datas[i], mnts[i]); err != nil {
				t.Errorf("start %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for i, mnt := range mnts {
		if err := os.WriteFile(filepath.Join(mnt, string(rune('a'+i))), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	used := map[string]bool{}
	for i, mnt := range mnts {
		if list, err := os.ReadDir(mnt); err != nil || len(list) != 1 || list[0].Name() != string(rune('a'+i)) {
			t.Errorf("%s holds %v, %v", mnt, list, err)
		}
		for _, n := range stateOf(t, datas[i]).Nodes {
			if used[n.Address] {
				t.Errorf("both have %s", n.Address)
			}
			used[n.Address] = true
		}
	}
	must(t, "dev", "stop", "--data", datas[0])
	address := stateOf(t, datas[0]).Nodes[1].Address
	refused := func(who string) {
		t.Helper()
		if out, err := dfs(t, "dev", "--background", "--data", datas[0], mnts[0]); err == nil || !strings.Contains(out, address) || !strings.Contains(out, who) || !strings.Contains(out, "another --data") {
			t.Errorf("%v, and it does not name %s and %s:\n%s", err, address, who, out)
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	refused("another program")
	_ = l.Close()
	node := harness.StartProcess(t, base+"/node.log", harness.Binary(t), "server", "--id", "z", "--listen", address, "--data", base+"/other-node", "--join", "127.0.0.1:1")
	t.Cleanup(node.Kill)
	harness.Eventually(t, 20*time.Second, "the node to listen", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	refused("another dfs node, pid ")
	refused(base + "/other-node")
}
