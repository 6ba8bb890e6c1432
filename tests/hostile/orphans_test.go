package hostile

import (
	"bytes"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// Files without names, one for each way in which a party that has to do with them dies. Each has twice the size of the one before: what
// is not freed tells which it is.
const (
	orphanCount    = 6
	orphansInBytes = (1<<orphanCount - 1) << 20
)

func orphanBytes(i int) int { return 1 << (20 + i) }

// orphaned are files without names that are open through mounts that live.
type orphaned struct{ files []*os.File }

func orphanData(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, orphanBytes(i)) }

// makeOrphans makes them and kills what they depend on: two mounts and the leader, which comes back.
func makeOrphans(t *testing.T, c *harness.Cluster, mounts []*harness.Mount) *orphaned {
	opener, unlinker := c.Mount("--lease", lease.String()), c.Mount("--lease", lease.String())
	o := &orphaned{}
	path := func(m *harness.Mount, i int) string { return m.Path("orphan-" + string(rune('0'+i))) }
	make := func(through *harness.Mount, i int) {
		must(t, os.WriteFile(path(through, i), orphanData(i), 0o666))
		through.Sync()
	}
	open := func(through *harness.Mount, i int) *os.File {
		f, err := os.OpenFile(path(through, i), os.O_RDWR, 0)
		must(t, err)
		return f
	}
	// 0: open through a mount that dies, unlinked by one that lives.
	make(mounts[0], 0)
	dead := []*os.File{open(opener, 0)}
	must(t, os.Remove(path(mounts[0], 0)))
	// 1: unlinked by a mount that dies, open through one that lives.
	make(mounts[1], 1)
	o.files = append(o.files, open(mounts[1], 1))
	must(t, os.Remove(path(unlinker, 1)))
	// 2: open through a mount that dies and unlinked by another that dies.
	make(opener, 2)
	dead = append(dead, open(opener, 2))
	must(t, os.Remove(path(unlinker, 2)))
	// 3, 4: open and unlinked through the mount that dies; one never had a name.
	make(unlinker, 3)
	dead = append(dead, open(unlinker, 3))
	must(t, os.Remove(path(unlinker, 3)))
	fd, err := unix.Open(unlinker.Dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	must(t, err)
	nameless := os.NewFile(uintptr(fd), "nameless")
	_, err = nameless.Write(orphanData(4))
	must(t, err)
	dead = append(dead, nameless)
	unlinker.Sync()
	// 5: open and unlinked through a mount that lives, while the leader dies.
	make(mounts[2], 5)
	o.files = append(o.files, open(mounts[2], 5))
	must(t, os.Remove(path(mounts[2], 5)))

	leader := c.WaitLeader()
	opener.Kill()
	unlinker.Kill()
	leader.Kill()
	for _, f := range dead {
		_ = f.Close()
	}
	within(t, "a write without the old leader", func() error { return os.WriteFile(mounts[0].Path("alive"), nil, 0o666) })
	leader.Start()
	return o
}

// check reads and writes the files that are open still, then closes them.
func (o *orphaned) check(t *testing.T) {
	for n, i := range []int{1, 5} {
		f := o.files[n]
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
		if err != nil || !bytes.Equal(got, orphanData(i)) {
			t.Errorf("file %d without a name reads %d other bytes, %v", i, len(got), err)
		}
		if _, err := f.WriteAt([]byte("still"), 100); err != nil {
			t.Errorf("writing to file %d without a name: %v", i, err)
		}
		if err := f.Sync(); err != nil {
			t.Errorf("fsync of file %d without a name: %v", i, err)
		}
		if st, err := f.Stat(); err != nil || st.Size() != int64(orphanBytes(i)) {
			t.Errorf("stat of file %d without a name: %v, %v", i, st, err)
		}
		must(t, f.Close())
	}
}
