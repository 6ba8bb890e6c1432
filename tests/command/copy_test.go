package command

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"dfs/tests/harness"
)

// copying is a cluster with a mount, and a directory of this machine, to copy between.
type copying struct {
	t       *testing.T
	cluster *harness.Cluster
	mnt     string // "dfs:/" seen through a mount
	local   string
}

func newCopying(t *testing.T) *copying {
	c := harness.Start(t, harness.Options{Nodes: 1, Args: []string{"--allow-ids", "all"}})
	return &copying{t, c, c.Mount().Dir, t.TempDir()}
}

// cp runs dfs cp; in its arguments MNT and LOCAL stand for those directories.
func (c *copying) cp(args string, code int, says string) {
	c.t.Helper()
	args = strings.NewReplacer("MNT", c.mnt, "LOCAL", c.local).Replace(args)
	want(c.t, "dfs cp "+args, dfs(c.t, "", []string{"DFS_CLUSTER=" + c.cluster.Addresses()}, append([]string{"cp"}, strings.Fields(args)...)...), code, says)
}

// holds checks a file's content.
func (c *copying) holds(path, text string) {
	c.t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != text {
		c.t.Errorf("%s holds %q, %v; want %q", path, b, err, text)
	}
}

// must fails the test at an error of its preparation.
func (c *copying) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestCopyOntoItself: whatever name a file is copied to that is its own, it stays.
func TestCopyOntoItself(t *testing.T) {
	c := newCopying(t)
	for _, dir := range []string{c.mnt, c.local} {
		c.must(os.WriteFile(dir+"/f", []byte("kept"), 0o644))
		c.must(os.Link(dir+"/f", dir+"/hard"))
		c.must(os.Symlink("f", dir+"/soft"))
		c.must(os.WriteFile(dir+"/other", []byte("kept"), 0o644))
	}
	for _, names := range []string{"f f", "f .", "f hard", "f soft", "soft f", "hard soft"} {
		from, to, _ := strings.Cut(names, " ")
		for _, sides := range [][2]string{{"dfs:/", "dfs:/"}, {"LOCAL/", "LOCAL/"}, {"dfs:/", "MNT/"}, {"MNT/", "dfs:/"}} {
			c.cp(sides[0]+from+" "+sides[1]+to, 1, "^dfs: .* are the same file\n$")
			c.holds(c.mnt+"/f", "kept")
			c.holds(c.local+"/f", "kept")
		}
	}
	c.cp("-r dfs:/soft dfs:/f", 1, "are the same file")
	c.cp("-r LOCAL/soft LOCAL/f", 1, "are the same file")
	c.holds(c.mnt+"/f", "kept")
	c.cp("dfs:/f dfs:/other", 0, "^$") // of the same size, but another one
	c.cp("dfs:/f LOCAL/other", 0, "^$")
}

// makeTree makes what a copy of a tree meets beside files: links to nothing and upwards, a FIFO and a device.
func (c *copying) makeTree(root string) {
	c.t.Helper()
	c.must(os.MkdirAll(root+"/sub/empty", 0o755))
	c.must(os.WriteFile(root+"/a", []byte("first"), 0o640))
	c.must(os.WriteFile(root+"/sub/z", []byte("last"), 0o644))
	c.must(os.WriteFile(root+"/nothing", nil, 0o644))
	c.must(os.Symlink("nowhere", root+"/dangling"))
	c.must(os.Symlink("..", root+"/sub/up"))
	c.must(syscall.Mkfifo(root+"/fifo", 0o600))
	c.must(syscall.Mknod(root+"/null", syscall.S_IFCHR|0o644, 1<<8|3))
}

// sameTree checks that a copy has what makeTree made.
func (c *copying) sameTree(root string) {
	c.t.Helper()
	c.holds(root+"/a", "first")
	c.holds(root+"/sub/z", "last")
	c.holds(root+"/nothing", "")
	for name, target := range map[string]string{"dangling": "nowhere", "sub/up": ".."} {
		if got, err := os.Readlink(filepath.Join(root, name)); err != nil || got != target {
			c.t.Errorf("%s/%s leads to %q, %v; want %q", root, name, got, err, target)
		}
	}
	for name, mode := range map[string]os.FileMode{"a": 0o640, "sub/empty": os.ModeDir | 0o755, "fifo": os.ModeNamedPipe | 0o600, "null": os.ModeDevice | os.ModeCharDevice | 0o644} {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil || info.Mode() != mode {
			c.t.Errorf("%s/%s: %v, %v; want %v", root, name, info, err, mode)
		} else if st := info.Sys().(*syscall.Stat_t); name == "null" && st.Rdev != 1<<8|3 {
			c.t.Errorf("%s/null is device %#x", root, st.Rdev)
		}
	}
}

// TestCopyTree: symlinks and special files of a tree are copied as what they are, into the cluster, within it and out of it.
func TestCopyTree(t *testing.T) {
	c := newCopying(t)
	c.makeTree(c.local + "/tree")
	c.cp("-r LOCAL/tree dfs:/", 0, "^$")
	c.sameTree(c.mnt + "/tree")
	c.cp("-r LOCAL/tree dfs:/", 0, "^$") // what is there is replaced
	c.sameTree(c.mnt + "/tree")
	c.cp("-r dfs:/tree dfs:/again", 0, "^$")
	c.sameTree(c.mnt + "/again")
	c.cp("-r dfs:/again LOCAL/back", 0, "^$")
	c.sameTree(c.local + "/back")

	c.cp("-r dfs:/tree/dangling LOCAL", 0, "^$")
	if target, err := os.Readlink(c.local + "/dangling"); err != nil || target != "nowhere" {
		t.Errorf("a link that is copied alone leads to %q, %v", target, err)
	}
	c.cp("dfs:/tree/dangling LOCAL/x", 1, "no such file")
	c.cp("dfs:/tree/fifo LOCAL/x", 1, "not a regular file; .* with -r")
	c.cp("-r dfs:/tree/sub/.. LOCAL/of-dots", 0, "^$") // not of "tree/sub" by the text alone
	c.sameTree(c.local + "/of-dots")
}

// TestCopyTreeSkips: what cannot be copied is told, the rest is copied, and the exit code says that something is missing.
func TestCopyTreeSkips(t *testing.T) {
	c := newCopying(t)
	c.makeTree(c.local + "/tree")
	c.must(os.MkdirAll(c.mnt+"/tree/dangling", 0o755))
	c.must(os.MkdirAll(c.mnt+"/tree/a", 0o755))
	c.must(os.WriteFile(c.mnt+"/tree/sub", []byte("in the way"), 0o644))
	c.cp("-r LOCAL/tree dfs:/", 1, `tree/a: is a directory.*tree/dangling is a directory.*tree/sub is not a directory.*3 files or directories of \S+tree were not copied`)
	c.holds(c.mnt+"/tree/nothing", "")
	c.holds(c.mnt+"/tree/sub", "in the way")
	if info, err := os.Lstat(c.mnt + "/tree/fifo"); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the FIFO behind what failed: %v, %v", info, err)
	}
}

// TestCopyIntoItself: a directory is not copied into itself or what lies below, whatever way leads there.
func TestCopyIntoItself(t *testing.T) {
	c := newCopying(t)
	c.makeTree(c.local + "/tree")
	c.makeTree(c.mnt + "/tree")
	for _, to := range []string{"/tree", "/tree/sub", "/tree/new", "/tree/sub/up", "/tree/sub/up/new", "/tree/sub/new/deep"} {
		for _, sides := range [][2]string{{"dfs:", "dfs:"}, {"LOCAL", "LOCAL"}, {"dfs:", "MNT"}, {"MNT", "dfs:"}} {
			c.cp("-r "+sides[0]+"/tree "+sides[1]+to, 1, "^dfs: .* is a directory and .* lies in it; it cannot be copied into itself\n$")
		}
	}
	c.cp("-r dfs:/ dfs:/new", 1, "cannot be copied into itself")
	c.cp("-r MNT dfs:/new", 1, "cannot be copied into itself")
	for _, dir := range []string{c.mnt, c.local} {
		if list, err := os.ReadDir(dir + "/tree"); err != nil || len(list) != 6 {
			t.Errorf("%s/tree holds %v, %v", dir, list, err)
		}
	}
	c.cp("-r dfs:/tree dfs:/tree2", 0, "^$") // beside it, of a name that begins alike
	c.sameTree(c.mnt + "/tree2")
}

// TestCopyOnTerminal: the bar that shows how far a copy is never makes it fail.
func TestCopyOnTerminal(t *testing.T) {
	c := newCopying(t)
	empty, grows, fifo := c.local+"/empty", c.local+"/grows", c.local+"/fifo"
	c.must(os.WriteFile(empty, nil, 0o644))
	cp := func(from, to string) *terminal {
		return startTerminal(t, "cp", "-c", c.cluster.Addresses(), from, to)
	}
	cp(empty, "dfs:/empty").ends(0)
	c.holds(c.mnt+"/empty", "")
	cp("dfs:/empty", c.local+"/back").ends(0)

	// A FIFO takes less than the file has when the copy begins: it has grown before the copy reads on.
	data := bytes.Repeat([]byte("0123456789abcdef"), 5<<20/2/16)
	c.must(os.WriteFile(grows, data, 0o644))
	c.must(syscall.Mkfifo(fifo, 0o600))
	growing := cp(grows, fifo)
	out, err := os.Open(fifo)
	c.must(err)
	defer out.Close()
	f, err := os.OpenFile(grows, os.O_WRONLY|os.O_APPEND, 0)
	c.must(err)
	_, err = f.Write(data)
	c.must(err)
	c.must(f.Close())
	if got, err := io.ReadAll(out); err != nil || !bytes.Equal(got, append(data, data...)) {
		t.Errorf("%d bytes came, %v; want %d", len(got), err, 2*len(data))
	}
	growing.ends(0)
	growing.shows("grows")
	growing.shows("100%")
}
