package thin

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dfs/tests/harness"
)

// run runs a program as a user with groups.
func run(uid, gid uint32, groups []uint32, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	return cmd.Run()
}

// enterable lets other users through the directories above the mounts of c.
func enterable(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, dir := range []string{c.Dir, filepath.Dir(c.Dir)} {
		must(t, os.Chmod(dir, 0o755))
	}
}

func owner(t *testing.T, path string) (uid, gid uint32) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// TestNobody: where the nodes believe no claim, whoever comes through the file service is nobody, root too.
func TestNobody(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	enterable(t, c)
	own, via := c.Mount(), c.Mount("-o", "via")
	must(t, os.WriteFile(own.Path("secret"), []byte("x"), 0o600))
	must(t, os.WriteFile(own.Path("public"), []byte("x"), 0o644))
	if _, err := os.ReadFile(via.Path("secret")); !errors.Is(err, syscall.EACCES) {
		t.Errorf("root reads what is root's: %v", err)
	}
	if err := os.WriteFile(via.Path("new"), nil, 0o644); !errors.Is(err, syscall.EACCES) {
		t.Errorf("root makes a file in root's directory: %v", err)
	}
	if b, err := os.ReadFile(via.Path("public")); string(b) != "x" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	must(t, os.Chmod(own.Dir, 0o777))
	must(t, os.WriteFile(via.Path("new"), nil, 0o600))
	if uid, gid := owner(t, own.Path("new")); uid != 65534 || gid != 65534 {
		t.Errorf("made by %d:%d", uid, gid)
	}
	if b, err := os.ReadFile(via.Path("new")); err != nil { // though the kernel takes its caller for another
		t.Errorf("%q %v", b, err)
	}
	if err := run(1000, 1000, nil, "test", "-r", via.Path("new")); err != nil {
		t.Errorf("another user is another nobody: %v", err)
	}
}

// TestClaimedIdentity: where the nodes believe what is claimed, users see what a local file system would let them, their supplementary groups counted.
func TestClaimedIdentity(t *testing.T) {
	c := start(t)
	enterable(t, c)
	m := c.Mount("-o", "via")
	must(t, os.WriteFile(m.Path("group"), []byte("x"), 0o640))
	must(t, os.Chown(m.Path("group"), 1234, 2222))
	must(t, os.Chmod(m.Path("group"), 0o640))
	for _, tt := range []struct {
		uid    uint32
		groups []uint32
		may    bool
	}{{1234, nil, true}, {1000, nil, false}, {1000, []uint32{7, 2222}, true}, {0, nil, true}} {
		if err := run(tt.uid, 1000, tt.groups, "cat", m.Path("group")); (err == nil) != tt.may {
			t.Errorf("user %d with groups %v reads: %v, may: %v", tt.uid, tt.groups, err, tt.may)
		}
	}
	script := "#!/bin/sh\nexit 0\n"
	must(t, os.WriteFile(m.Path("run"), []byte(script), 0o755))
	for mode, may := range map[os.FileMode]bool{0o755: true, 0o700: false, 0o744: false} {
		must(t, os.Chmod(m.Path("run"), mode))
		if err := run(1000, 1000, nil, m.Path("run")); (err == nil) != may {
			t.Errorf("mode %o runs for another: %v", mode, err)
		}
	}
}

// TestMountForms: the forms in which a thin client's mount is asked for.
func TestMountForms(t *testing.T) {
	c := start(t)
	nodes := strings.Split(c.Addresses(), ",")
	must(t, os.WriteFile(c.Mount().Path("f"), []byte("here"), 0o644))
	for _, args := range [][]string{
		{"--via", c.Addresses()},
		{"-o", "via", c.Addresses()},
		{"-o", "via=" + nodes[1] + ",via=" + nodes[2] + ",ro", "127.0.0.1:1"},
	} {
		dir, err := os.MkdirTemp(c.Dir, "form-")
		must(t, err)
		c.Run(append(append([]string{"mount", "--log", dir + ".log"}, args...), dir)...)
		if b, err := os.ReadFile(dir + "/f"); string(b) != "here" || err != nil {
			t.Errorf("%v: %q %v", args, b, err)
		}
		if err := os.WriteFile(dir+"/f", []byte("here"), 0o644); strings.Contains(args[1], ",ro") != errors.Is(err, syscall.EROFS) {
			t.Errorf("%v: %v", args, err)
		}
		c.Run("umount", dir)
	}
	for _, args := range [][]string{{"mount", c.Dir}, {"mount", "--via", "nonsense", c.Dir + "/x"}} {
		if out, err := c.TryBoth(args...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
}
