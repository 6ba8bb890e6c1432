package dev

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// holdPorts keeps starts of dfs dev from going on, where they choose their ports, until release.
func holdPorts(t *testing.T) (release func()) {
	t.Helper()
	var l net.Listener
	harness.Eventually(t, time.Minute, "other starts to let go of the ports", func() (ok bool) {
		var err error
		l, err = net.Listen("unix", "@dfs-dev-ports")
		return err == nil
	})
	t.Cleanup(func() { _ = l.Close() })
	return func() { _ = l.Close() }
}

// locked tells whether somebody holds the supervisor's lock.
func locked(data string) bool {
	f, err := os.Open(filepath.Join(data, "dev.lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil
}

// stopWhileStarting stops a cluster in data whose start is under way, and checks that both end well.
func stopWhileStarting(t *testing.T, data, mnt string, meanwhile func()) {
	t.Helper()
	release := holdPorts(t)
	start := harness.StartProcess(t, data+"-start.log", harness.Binary(t), "dev", "--data", data, mnt)
	t.Cleanup(start.Kill)
	harness.Eventually(t, 20*time.Second, "the start to be under way", func() bool { return locked(data) })
	stop := harness.StartProcess(t, data+"-stop.log", harness.Binary(t), "dev", "stop", "--data", data)
	t.Cleanup(stop.Kill)
	said := func() string { return harness.Tail(data+"-stop.log", 20) }
	harness.Eventually(t, 20*time.Second, "the stop to wait", func() bool {
		return stop.Exited() || strings.Contains(said(), "waiting for a start of this cluster that is under way")
	})
	meanwhile()
	release()
	if !stop.Wait(time.Minute) || stop.ExitCode() != 0 || !strings.Contains(said(), "stopped; the data is kept") {
		t.Errorf("dfs dev stop: exit %d\n%s", stop.ExitCode(), said())
	}
	if !start.Wait(time.Minute) || start.ExitCode() != 0 {
		t.Errorf("dfs dev: exit %d\n%s", start.ExitCode(), harness.Tail(data+"-start.log", 20))
	}
	if mounted(t, mnt) {
		t.Error("it is still mounted")
	}
}

// TestStopWhileStarting: a stop while a start is under way stops that one, and no process to which the pid of an earlier
// supervisor has gone meanwhile.
func TestStopWhileStarting(t *testing.T) {
	base := t.TempDir()
	first, mnt := filepath.Join(base, "first"), filepath.Join(base, "mnt")
	stopAtEnd(t, first)
	stopWhileStarting(t, first, mnt, func() {})

	again := filepath.Join(base, "again")
	stopAtEnd(t, again)
	other := harness.StartProcess(t, base+"/other.log", "/usr/bin/tail", "-f", "/dev/null", "dev") // an argument as a supervisor has it
	t.Cleanup(other.Kill)
	if err := os.Mkdir(again, 0o755); err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprintf(`{"version": 1, "pid": %d, "dir": %q, "nodes": [{"id": "a", "address": %q, "data": %q, "log": %q}]}`,
		other.PID(), mnt, harness.FreeAddress(t), again+"/node-a", again+"/node-a.log")
	if err := os.WriteFile(filepath.Join(again, "dev.json"), []byte(state), 0o644); err != nil {
		t.Fatal(err)
	}
	stopWhileStarting(t, again, mnt, func() {
		if other.Exited() {
			t.Error("the stop ended another process")
		}
	})
	if other.Exited() {
		t.Error("the stop ended another process")
	}
}
