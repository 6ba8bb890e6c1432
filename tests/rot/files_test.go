package rot

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dfs/tests/harness"
)

// damage is something that happens to one file of a node's data directory while the node is stopped.
type damage struct {
	name string
	file string // a pattern below the data directory; the last that matches is meant
	do   func(t *testing.T, path string)
	says string // if the node refuses to start: what it must say, beside the file's name
	// refuse: it must not start. Else it may, if it serves nothing wrong and mends itself from the others.
	refuse bool
}

// cut takes away the second half of what a file holds, zeros at the end not counted.
func cut(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.Truncate(path, int64(len(bytes.TrimRight(b, "\x00"))/2))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// edit replaces what a file holds.
func edit(f func(b []byte) []byte) func(t *testing.T, path string) {
	return func(t *testing.T, path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, f(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rot changes a byte of every 4 KiB from an offset on, where the file holds something.
func rot(from int) func(t *testing.T, path string) {
	return edit(func(b []byte) []byte {
		for i := from; i < len(b); i += 4096 {
			if page := b[i:min(i+4096, len(b))]; !bytes.Equal(page, make([]byte, len(page))) {
				page[min(100, len(page)-1)] ^= 0x55
			}
		}
		return b
	})
}

// newer makes the version at an offset one that does not exist yet.
func newer(at int) func(t *testing.T, path string) {
	return edit(func(b []byte) []byte { b[at] = 99; return b })
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func damages() []damage {
	list := []damage{
		{name: "identity of a newer format", file: "node.json", refuse: true, says: "version 99",
			do: edit(func(b []byte) []byte { return bytes.Replace(b, []byte(`"version": 1`), []byte(`"version": 99`), 1) })},
		{name: "identity changed", file: "node.json", refuse: true, says: "checksum",
			do: edit(func(b []byte) []byte {
				return bytes.Replace(b, []byte(`"incarnation": "`), []byte(`"incarnation": "0`), 1)
			})},
		{name: "header of a newer format", file: "blocks/device.meta", do: newer(8), refuse: true, says: "version 99"},
		{name: "header rotted", file: "blocks/device.meta", do: rot(0), refuse: true, says: "checksum"},
		{name: "log segment of a newer format", file: "raft/log/seg-*", refuse: true, says: "version 99",
			do: edit(func(b []byte) []byte {
				b[8] = 99
				sum := crc32.Checksum(b[:508], castagnoli)
				for i := range 4 {
					b[508+i] = byte(sum >> (8 * i))
				}
				return b
			})},
		{name: "log rotted", file: "raft/log/seg-*", do: rot(4096)},
		{name: "log header rotted", file: "raft/log/seg-*", do: edit(func(b []byte) []byte { b[20] ^= 1; return b }), refuse: true, says: "checksum"},
		{name: "small blocks rotted", file: "blocks/small.0000.data", do: rot(0)},
		{name: "large blocks rotted", file: "blocks/large.0000.data", do: rot(0)},
		{name: "small checksums rotted", file: "blocks/small.0000.sum", do: rot(0)},
		{name: "large checksums rotted", file: "blocks/large.0000.sum", do: rot(0)},
		{name: "double-write area rotted", file: "blocks/double.0", do: rot(0)},
		{name: "missing double-write area", file: "blocks/double.1", do: remove},
		{name: "map rotted", file: "blocks/map.db", do: rot(8192), says: "chunk map"},
	}
	lost := []struct {
		file, says string // says: instead of the file's name
		refuse     bool
	}{{"node.json", "", true}, {"blocks/device.meta", "", true}, {"blocks/map.db", "", true}, {"raft/stable.db", "", true}, {"raft/log/seg-*", "", true},
		{"blocks/small.0000.data", "small files", false}, {"blocks/large.0000.data", "large files", false},
		{"blocks/small.0000.sum", "small files", false}, {"blocks/large.0000.sum", "large files", false}}
	for _, f := range lost {
		list = append(list, damage{name: "cut " + f.file, file: f.file, do: cut, refuse: f.refuse, says: f.says})
	}
	for _, f := range lost[1:] {
		if f.file != "raft/log/seg-*" { // the whole log instead
			list = append(list, damage{name: "missing " + f.file, file: f.file, do: remove, refuse: f.refuse, says: f.says})
		}
	}
	return append(list,
		damage{name: "missing newest log segment", file: "raft/log/seg-*", do: remove, refuse: true},
		damage{name: "missing note of the newest log segment", file: "raft/log/newest-*", do: remove, refuse: true, says: "newest-"},
		damage{name: "missing log", file: "raft/log", do: remove, refuse: true, says: "raft log"},
		damage{name: "missing snapshots", file: "raft/snapshots", do: remove, refuse: true},
		damage{name: "cut snapshot meta", file: "raft/snapshots/*/meta.json", do: cut, says: "snapshots"},
		damage{name: "cut snapshot state", file: "raft/snapshots/*/state.bin", do: cut, says: "snapshots"})
}

// One file of a stopped node is damaged, each in turn. The node refuses to start and says which file and why, or serves
// nothing wrong and mends itself.
func TestDamagedFiles(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--checkpoint", "4M", "--keep-log", "2M"}})
	m := c.Mount()
	want := map[string]string{}
	write := func(name string, size int64) {
		want[name] = harness.WriteRandom(t, m.Path(name), name, 1, size)
	}
	for i := range 4 {
		write(fmt.Sprintf("large-%d", i), 3<<20)
	}
	for i := range 100 {
		write(fmt.Sprintf("small-%03d", i), int64(1+i*97))
	}
	victim := c.Followers()[0]
	harness.Eventually(t, time.Minute, "a checkpoint", func() bool { return c.StatusOf(victim).Details.FirstLogIndex > 1 })
	backup := filepath.Join(c.Dir, "backup")
	victim.Process().Stop()
	copyDir(t, victim.Data, backup)
	for i, d := range damages() {
		t.Run(d.name, func(t *testing.T) {
			mended := false
			defer func() {
				victim.Process().Stop()
				if mended { // and has promised more since
					remove(t, backup)
					copyDir(t, victim.Data, backup)
					return
				}
				remove(t, victim.Data)
				copyDir(t, backup, victim.Data)
			}()
			files, err := filepath.Glob(filepath.Join(victim.Data, d.file))
			if err != nil || len(files) == 0 {
				t.Fatalf("no file %s: %v", d.file, err)
			}
			slices.Sort(files)
			path := files[len(files)-1]
			d.do(t, path)
			victim.Log = filepath.Join(c.Dir, fmt.Sprintf("damage-%d.log", i))
			victim.Start()
			if !ready(t, c, victim) {
				d.refused(t, victim, path)
				return
			}
			if d.refuse {
				t.Fatal("the node started")
			}
			write(fmt.Sprintf("after-%d", i), 5000) // the group goes on
			c.WaitApplied()
			readDirectly(t, c, m, victim, want)
			c.Run("scrub", "--node", victim.ID, c.Addresses())
			c.Check()
			mended = true
			t.Logf("the node mended itself: %+v", c.StatusOf(victim).Details.Repairs)
		})
	}
	victim.Start()
	c.WaitReady()
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	c.Check()
}

// refused checks the last words of a node that did not start: they name what is damaged.
func (d damage) refused(t *testing.T, n *harness.Node, path string) {
	t.Helper()
	said := harness.Tail(n.Log, 1)
	t.Logf("the node said: %s", said)
	names := []string{filepath.Base(path)}
	if d.says != "" {
		names = append(names, d.says)
	}
	if !strings.HasPrefix(said, "dfs: ") || !slices.ContainsFunc(names, func(s string) bool { return strings.Contains(said, s) }) ||
		d.says != "" && !strings.Contains(said, d.says) {
		t.Errorf("the node's last words name none of %q; its log ends with:\n%s", names, harness.Tail(n.Log, 12))
	}
}

// ready waits until the node may be read (true), or has ended (false).
func ready(t *testing.T, c *harness.Cluster, n *harness.Node) bool {
	t.Helper()
	runs := false
	harness.Eventually(t, 30*time.Second, "the node to be ready or to end", func() bool {
		if n.Process().Exited() {
			return true
		}
		s := c.StatusOf(n)
		runs = s.Error == "" && s.Details.Ready
		return runs
	})
	return runs && !n.Process().Exited()
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
}
