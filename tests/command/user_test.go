package command

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dfs/tests/harness"
)

// room is a mount namespace of its own, in which /dev/fuse can be made what a test wants it to be.
type room struct {
	t   *testing.T
	dir string // everybody can reach it
	pid int
	bin string // of dfs
}

func newRoom(t *testing.T) *room {
	t.Helper()
	dir, err := os.MkdirTemp("", "dfs-test-user-")
	if err != nil {
		t.Fatal(err)
	}
	r := &room{t: t, dir: dir, bin: harness.Binary(t)}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	hold := exec.Command("unshare", "--mount", "sh", "-c", "echo ready; exec cat")
	in, err := hold.StdinPipe() // cat ends with this process
	if err != nil {
		t.Fatal(err)
	}
	out, err := hold.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	hold.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := hold.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatalf("no mount namespace of our own: %v", err)
	}
	r.pid = hold.Process.Pid
	t.Cleanup(func() {
		_ = in.Close()
		_ = hold.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return r
}

// root runs a shell script in the room.
func (r *room) root(script string) result {
	r.t.Helper()
	return run(r.t, "", nil, "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", r.pid), "sh", "-c", script)
}

// as runs a shell script in the room as an ordinary user; dfs in it is the command.
func (r *room) as(uid int, env, script string) result {
	r.t.Helper()
	who := fmt.Sprintf("setpriv --reuid %d --regid %d --clear-groups env HOME=%s/home %s /bin/sh -c ", uid, uid, r.dir, env)
	return r.root(who + "'" + strings.ReplaceAll(script, "dfs ", r.bin+" ") + "'")
}

// TestMountAsUser: what a user other than root can do, and what is said where something is missing.
func TestMountAsUser(t *testing.T) {
	const uid, other = 65534, 12345
	c := harness.Start(t, harness.Options{Nodes: 1})
	r := newRoom(t)
	mnt, dead := filepath.Join(r.dir, "mnt"), filepath.Join(r.dir, "of-root")
	for _, d := range []string{mnt, dead, r.dir + "/home", r.dir + "/no-programs"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if d != dead {
			if err := os.Chown(d, uid, uid); err != nil {
				t.Fatal(err)
			}
		}
	}
	mount := "dfs mount --wait 20s " + c.Addresses() + " "
	noPrograms := "PATH=" + r.dir + "/no-programs"
	t.Cleanup(func() { r.root("umount -l " + mnt) })

	want(t, "/dev/fuse as everybody may open it", r.root("mknod "+r.dir+"/fuse c 10 229 && chmod 666 "+r.dir+"/fuse && mount --bind "+r.dir+"/fuse /dev/fuse"), 0, "^$")
	want(t, "mount", r.as(uid, "", mount+mnt), 0, "mounted at "+mnt)
	want(t, "the user's files", r.as(uid, "", "echo text > "+mnt+"/f && cat "+mnt+"/f"), 0, "^text\n$")
	want(t, "log and session", r.as(uid, "", "ls "+r.dir+"/home/.local/state/dfs"), 0, `mount-.*\.json\nmount-.*\.log`)
	want(t, "umount in use", r.as(uid, "", "cd "+mnt+" && dfs umount "+mnt), 1, "is in use: .*fuser")
	want(t, "another user's umount", r.as(other, "", "dfs umount "+mnt), 1, "the mount of another user")
	want(t, "umount without fusermount3", r.as(uid, noPrograms, "dfs umount "+mnt), 1, "need fusermount3 .*install the package fuse3")
	want(t, "umount", r.as(uid, "", "dfs umount "+mnt), 0, "^$")
	want(t, "mount read-only", r.as(uid, "", mount+"-o ro,noexec,nosuid,nodev,sync,dirsync,noatime "+mnt), 0, "mounted at")
	want(t, "its options", r.root("grep "+mnt+" /proc/self/mountinfo"), 0, "ro,nosuid,nodev,noexec,noatime .* ro,sync,dirsync,")
	want(t, "a write to it", r.as(uid, "", "echo > "+mnt+"/g"), 2, "Read-only file system")
	want(t, "its umount", r.as(uid, "", "dfs umount "+mnt), 0, "^$")
	want(t, "an option that fusermount3 does not know", r.as(uid, "", mount+"-o noexec,nodiratime "+mnt), 1, "cannot have the mount option nodiratime, .* as root")
	want(t, "a user whose home is missing", r.as(uid, "HOME=/nonexistent", "cd / && "+mount+mnt+" && dfs umount "+mnt), 0, "mounted at")
	_ = os.Remove(filepath.Join(os.TempDir(), "dfs-mount"+strings.NewReplacer("-", `\x2d`, "/", "-").Replace(mnt)+".log"))
	want(t, "mount again, and umount by root", r.as(uid, "", mount+mnt), 0, "mounted at")
	want(t, "root's umount", r.root(r.bin+" umount "+mnt), 1, "keeps others out, root too: .*--force")
	want(t, "root's umount by force", r.root(r.bin+" umount --force "+mnt), 0, "^$")

	want(t, "a directory of root", r.as(uid, "", mount+dead), 1, "on a directory of their own")
	want(t, "mount without fusermount3", r.as(uid, noPrograms, mount+mnt), 1, "need fusermount3 .*install the package fuse3")
	want(t, "a device for root alone", r.root("chmod 600 "+r.dir+"/fuse"), 0, "^$")
	want(t, "mount without permission", r.as(uid, "", mount+mnt), 1, "chmod 666 /dev/fuse")
	want(t, "a /dev without fuse", r.root("mount -t tmpfs none /dev && mknod /dev/null c 1 3 && chmod 666 /dev/null"), 0, "^$")
	want(t, "mount without a device", r.as(uid, "", mount+mnt), 1, "modprobe fuse.*--device /dev/fuse")
	want(t, "root's mount without a device", r.root(r.bin+" mount "+c.Addresses()+" "+mnt), 1, "no /dev/fuse here .*modprobe fuse")
}
