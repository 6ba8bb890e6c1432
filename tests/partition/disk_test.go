package partition

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// diskBytes is the size of a node's disk.
const diskBytes = 1 << 30

// disk is the disk of a node: an ext4 of its own, on a loop device.
type disk struct {
	t           *testing.T
	device, dir string
	node        *harness.Node // whose it is, if that was added later
}

// newDisk makes a disk and mounts it where the node's data will be.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, diskBytes))
	must(t, os.MkdirAll(dir, 0o755))
	for _, cmd := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"losetup", "--find", "--show", image}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		image = strings.TrimSpace(string(out))
	}
	d := &disk{t: t, device: image, dir: dir}
	must(t, d.mount())
	t.Cleanup(d.remove)
	return d
}

func (d *disk) mount() error { return unix.Mount(d.device, d.dir, "ext4", 0, "") }

// unmount unmounts the disk, which nobody uses any more.
func (d *disk) unmount() {
	d.t.Helper()
	harness.Eventually(d.t, 20*time.Second, "the end of all that uses "+d.dir, func() bool { return unix.Unmount(d.dir, 0) == nil })
}

func (d *disk) remove() {
	_ = d.control(fithaw, 0)
	if d.node != nil {
		d.node.Kill()
	}
	for range 100 {
		if unix.Unmount(d.dir, 0) == nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // a process that was killed ends
	}
	if out, err := exec.Command("losetup", "--detach", d.device).CombinedOutput(); err != nil {
		d.t.Logf("losetup --detach %s: %v\n%s", d.device, err, out)
	}
}

// ownDisks gives each node a disk of its own.
func ownDisks(w *world, c *harness.Cluster) {
	for _, n := range c.Nodes {
		w.disks[n] = newDisk(w.t, n.Data)
	}
}

// What ext4 is told by ioctl.
const (
	fifreeze        = 0xc0045877
	fithaw          = 0xc0045878
	ext4Shutdown    = 0x8004587d
	withoutLogFlush = 2 // of ext4Shutdown: what is not on the device by now is lost
)

func (d *disk) control(request uintptr, argument uint32) error {
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&argument))); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

// disks are faults of disks.
func disks() []fault {
	return append(losses(), []fault{
		{"power losses of one node", orderNodes, false, powerOne},
		{"disks full", orderNodes, true, fullDisks}, {"disks frozen", orderFirst, true, frozenDisk}, {"nodes replaced", orderNodes, true, replaceNode},
	}...)
}

// losses are losses of power everywhere.
func losses() []fault {
	loss := fault{"power losses of all nodes", orderNodes, false, powerAll}
	return []fault{loss, loss}
}

// power takes the power from nodes: what their disks do not have by now is lost.
func (w *world) power(nodes []*harness.Node) (heal func()) {
	w.t.Helper()
	nodes = slices.DeleteFunc(nodes, func(n *harness.Node) bool { return w.dark[n] })
	for _, n := range nodes {
		must(w.t, w.disks[n].control(ext4Shutdown, withoutLogFlush))
		w.dark[n] = true
	}
	for _, n := range nodes {
		n.Kill()
	}
	return func() {
		for _, n := range nodes {
			w.disks[n].unmount()
			must(w.t, w.disks[n].mount())
			w.dark[n] = false
		}
		w.up()
	}
}

func powerAll(w *world, r *rand.Rand) (func(), string) {
	nodes := slices.Clone(w.c.Nodes)
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	heal, what := w.power(nodes), "all nodes without power"
	if r.IntN(2) == 0 {
		return heal, what
	}
	i := r.IntN(len(w.mounts))
	w.mounts[i].Kill()
	return func() { heal(); w.mounts[i].Start() }, fmt.Sprintf("%s, mount %d killed", what, i)
}

func powerOne(w *world, r *rand.Rand) (func(), string) {
	n := one(r, w.c.Nodes)
	return w.power([]*harness.Node{n}), fmt.Sprintf("node %s without power", n.ID)
}

// fullDisks fills the disks of one, two or all nodes.
func fullDisks(w *world, r *rand.Rand) (func(), string) {
	var list []*harness.Node
	first, count := r.IntN(len(w.c.Nodes)), 1+r.IntN(len(w.c.Nodes))
	for i := range count {
		n := w.c.Nodes[(first+i)%len(w.c.Nodes)]
		f, err := os.Create(filler(n))
		must(w.t, err)
		for size := int64(diskBytes); size >= 4096; size /= 2 {
			for at := int64(0); unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, size) == nil; at += size {
			}
		}
		_ = f.Close()
		list = append(list, n)
	}
	return func() {
		for _, n := range list {
			must(w.t, os.Remove(filler(n)))
			dir, err := os.Open(n.Data)
			must(w.t, err)
			must(w.t, unix.Syncfs(int(dir.Fd()))) // or the next loss of power brings it back
			must(w.t, dir.Close())
		}
		w.up()
	}, fmt.Sprintf("the disks of %d nodes full", count)
}

func filler(n *harness.Node) string { return filepath.Join(n.Data, "filler") }

func frozenDisk(w *world, r *rand.Rand) (func(), string) {
	n := one(r, w.c.Nodes)
	must(w.t, w.disks[n].control(fifreeze, 0))
	return func() { must(w.t, w.disks[n].control(fithaw, 0)) }, fmt.Sprintf("the disk of node %s frozen", n.ID)
}

// replaceNode puts an empty node in the place of one that is lost for good.
func replaceNode(w *world, r *rand.Rand) (func(), string) {
	lost := one(r, w.c.Nodes)
	w.c.Forget(lost)
	delete(w.disks, lost)
	w.added++
	id := fmt.Sprintf("n%d", w.added)
	d := newDisk(w.t, filepath.Join(w.c.Dir, "node-"+id))
	fresh := w.c.Add(id, serverArgs...)
	d.node, w.disks[fresh] = fresh, d
	if out, err := w.c.TryBoth("node", "replace", "--cluster", w.c.Addresses(), lost.ID, fresh.ID, fresh.Address); err != nil {
		w.t.Fatalf("dfs node replace: %v\n%s", err, out)
	}
	return func() {}, fmt.Sprintf("node %s replaced by %s", lost.ID, fresh.ID)
}
