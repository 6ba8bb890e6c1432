package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dfs/tests/harness"
)

// TestFstab: mount(8) and umount(8) themselves, with a line of fstab and a /sbin/mount.dfs, which only this test's mount namespace has.
func TestFstab(t *testing.T) {
	c := harness.Start(t, harness.Options{Nodes: 1})
	r := newRoom(t)
	mnt, fstab := filepath.Join(r.dir, "mnt"), filepath.Join(r.dir, "fstab")
	for _, d := range []string{mnt, r.dir + "/sbin", r.dir + "/sbin-of-the-host"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	line := strings.Join([]string{c.Addresses(), mnt, "dfs", "_netdev,nofail,x-systemd.automount,noexec,cache=8M,log=" + r.dir + "/mount.log", "0", "0"}, "\t")
	if err := os.WriteFile(fstab, []byte(line+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mount := "mount -T " + fstab + " "
	t.Cleanup(func() { r.root("umount -l " + mnt) })

	want(t, "without a helper", r.root(mount+mnt), 32, "unknown filesystem type|mount.dfs")
	want(t, "a /sbin with a helper", r.root("cd "+r.dir+" && mount --bind /sbin sbin-of-the-host && cp -as $PWD/sbin-of-the-host/. sbin && "+
		"ln -sf "+r.bin+" sbin/mount.dfs && mount --bind sbin /sbin"), 0, "^$")
	want(t, "mount -f", r.root(mount+"-f "+mnt), 0, "^$")
	want(t, "a pretended mount", r.root("findmnt "+mnt), 1, "^$")
	want(t, "mount", r.root(mount+mnt), 0, "mounted at "+mnt)
	want(t, "the mount", r.root("findmnt -no FSTYPE,OPTIONS "+mnt), 0, "^fuse.dfs +rw,.*noexec")
	want(t, "a second mount", r.root(mount+mnt), 1, "already a dfs mount")
	want(t, "mount -a, of what is mounted", r.root(mount+"-a"), 0, "^$")
	want(t, "its files", r.root("echo text > "+mnt+"/f && cat "+mnt+"/f"), 0, "^text\n$")
	want(t, "mount -o remount,ro", r.root(mount+"-o remount,ro "+mnt), 0, "^$")
	want(t, "a write", r.root("echo > "+mnt+"/g"), 2, "Read-only file system")
	want(t, "its options", r.root("findmnt -no OPTIONS "+mnt), 0, "^ro,.*noexec")
	want(t, "mount -o remount,rw", r.root(mount+"-o remount,rw "+mnt), 0, "^$")
	want(t, "umount in use", r.root("cd "+mnt+" && umount "+mnt), 32, "busy")
	want(t, "umount", r.root("umount "+mnt), 0, "^$")
	want(t, "mount by type", r.root("mount -t dfs -o ro,log="+r.dir+"/mount.log "+c.Addresses()+" "+mnt+" && cat "+mnt+"/f"), 0, "text\n$")
	want(t, "umount by the command", r.root(r.bin+" umount "+mnt), 0, "^$")
	want(t, "no such cluster", r.root("mount -t dfs -o wait=1s,log="+r.dir+"/mount.log 127.0.0.1:1 "+mnt), 3, "cannot mount 127.0.0.1:1")
}
