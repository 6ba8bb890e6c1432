package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// want fails the test unless r ended with code and said what (a regular expression) on either output.
func want(t *testing.T, what string, r result, code int, says string) {
	t.Helper()
	if r.code != code || !regexp.MustCompile("(?s)"+says).MatchString(r.out+r.errors) {
		t.Errorf("%s: exit %d, want %d\n%s%swant: %s", what, r.code, code, r.out, r.errors, says)
	}
}

// TestDevLife: a dev cluster is started, started again, killed in every way, and stopped.
func TestDevLife(t *testing.T) {
	dir := t.TempDir()
	data, mnt, second := filepath.Join(dir, "data"), filepath.Join(dir, "mnt"), filepath.Join(dir, "second")
	dev := func(args ...string) result {
		t.Helper()
		return dfs(t, "", nil, append([]string{"dev", "--data", data}, args...)...)
	}
	t.Cleanup(func() {
		dev("stop")
		for _, d := range []string{mnt, second} {
			_ = syscall.Unmount(d, syscall.MNT_DETACH)
		}
	})
	want(t, "stop of nothing", dev("stop"), 0, "nothing runs here")
	want(t, "the first start", dev("--background", mnt), 0, `dfs is ready.*mount    `+mnt)
	want(t, "a second start", dev("--background", mnt), 0, "already running")
	want(t, "a start elsewhere", dev("--background", second), 1, "runs already, mounted at "+mnt+"; for one more mount: dfs dev mount")
	if err := os.WriteFile(mnt+"/kept", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, "a second mount", dev("mount", second), 0, "mounted at "+second)
	if b, err := os.ReadFile(second + "/kept"); string(b) != "kept" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	want(t, "the same again", dev("mount", second), 1, "already a dfs mount")
	want(t, "a mount on nothing", dfs(t, "", nil, "mount", "127.0.0.1:1", ""), 2, "no mount point")
	want(t, "a mount at a file", dev("mount", filepath.Join(mnt, "kept", "x")), 1, "the mount point "+mnt+"/kept/x cannot be made")
	killNode(t, data, "a")
	want(t, "a start while a node is dead", dev("--background", mnt), 0, `ready, but without node a;.*node a +\S+ +NOT RUNNING.*node b +\S+ +pid`)
	killNode(t, data, "b")
	want(t, "a start while two are dead", dev("--background", mnt), 3,
		`NOT ready: node a, b ended.*dfs: the dev cluster in `+data+` is not ready: node a, b ended, .*; stop it \(dfs dev stop --data `+data+`\) and start it again\n$`)
	killAll(t, data)
	want(t, "umount of a dead mount", dfs(t, "", nil, "umount", second), 0, "^$")
	want(t, "start after kill -9 of all", dev("--background", mnt), 0, "dfs is ready")
	if b, err := os.ReadFile(mnt + "/kept"); string(b) != "kept" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	f, err := os.Open(mnt + "/kept")
	if err != nil {
		t.Fatal(err)
	}
	want(t, "umount of a mount in use", dfs(t, "", nil, "umount", mnt), 1, "is in use: .*fuser")
	_ = f.Close()
	want(t, "stop", dev("stop"), 0, "stopped; the data is kept")
	want(t, "a second stop", dev("stop"), 0, "nothing was running")
	if harness.Mounted(mnt) || harness.Mounted(second) {
		t.Error("something is still mounted")
	}
}

// killAll kills every process of the dev cluster in data: those whose arguments name it or its parent.
func killAll(t *testing.T, data string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, f := range files {
		line, err := os.ReadFile(f)
		var pid int
		if _, serr := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err != nil || serr != nil || pid == os.Getpid() {
			continue
		}
		if strings.Contains(string(line), filepath.Dir(data)+"/") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			killed++
		}
	}
	if killed == 0 { // those that a dead supervisor told to stop may be gone already
		t.Errorf("%d processes killed", killed)
	}
	time.Sleep(100 * time.Millisecond)
}

// killNode kills -9 one node of the dev cluster, and waits until it is gone.
func killNode(t *testing.T, data, id string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Nodes []struct {
			ID  string
			PID int
		}
	}
	if err := json.Unmarshal(b, &state); err != nil {
		t.Fatal(err)
	}
	for _, n := range state.Nodes {
		if n.ID != id {
			continue
		}
		if err := syscall.Kill(n.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); syscall.Kill(n.PID, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("node %s (pid %d) is still there", id, n.PID)
			}
		}
		return
	}
	t.Fatalf("no node %s in %s", id, b)
}

// TestMountHelper: a mount.dfs, called as mount(8) calls it (TestFstab has the real one); umount(8); a mount that outlives its quorum.
func TestMountHelper(t *testing.T) {
	c := harness.Start(t, harness.Options{Nodes: 1})
	dir := t.TempDir()
	helper := filepath.Join(dir, "mount.dfs")
	if err := os.Symlink(harness.Binary(t), helper); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(mnt, syscall.MNT_DETACH) })
	log := filepath.Join(dir, "mount.log")
	helperRun := func(args ...string) result {
		return run(t, "", nil, helper, append([]string{c.Addresses(), mnt}, args...)...)
	}
	want(t, "mount -f", helperRun("-f", "-o", "rw"), 0, "^$")
	if harness.Mounted(mnt) {
		t.Fatal("mount -f mounted")
	}
	want(t, "an unknown option", helperRun("-o", "rw,nonsense"), 2, "unknown mount option")
	want(t, "a remount of nothing", helperRun("-o", "remount,ro"), 1, "it is not a dfs mount point")
	want(t, "mount.dfs", helperRun("-n", "-s", "-o", "rw,_netdev,nosuid,noauto,x-systemd.automount,nonsense,cache=8M,quorum-wait=1s,log="+log), 0, "mounted at")
	if err := os.WriteFile(mnt+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, "remounted read-only", helperRun("-o", "remount,ro,nosuid,cache=8M"), 0, "^$")
	if err := os.WriteFile(mnt+"/g", nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a write to a mount that is read-only now: %v", err)
	}
	want(t, "and back", helperRun("-o", "remount,rw,nosuid,cache=8M"), 0, "^$")
	if err := os.WriteFile(mnt+"/g", nil, 0o644); err != nil {
		t.Errorf("a write to a mount that is writable again: %v", err)
	}
	table, _ := os.ReadFile("/proc/self/mounts")
	if !regexp.MustCompile(regexp.QuoteMeta(mnt) + ` fuse.dfs [^\n]*nosuid`).Match(table) {
		t.Errorf("the mount table:\n%s", table)
	}
	if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
		t.Fatalf("umount: %v %s", err, out)
	}
	want(t, "mounted again", helperRun("-o", "quorum-wait=1s,log="+log), 0, "mounted at")
	if err := os.WriteFile(mnt+"/g", []byte("not flushed"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Nodes[0].Kill()
	want(t, "umount without a quorum", dfs(t, "", nil, "umount", "--wait", "5s", mnt), 1, "is still mounted: flushing it failed")
	if !harness.Mounted(mnt) {
		t.Error("it is not mounted any more")
	}
	want(t, "umount --force", dfs(t, "", nil, "umount", "--wait", "1s", "--force", mnt), 0, "^$")
	if harness.Mounted(mnt) {
		t.Error("it is still mounted")
	}
}
