package conformance

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"dfs/tests/harness"
)

// thinDiffers are scripts in which a thin client's mount differs from a local file system, as the README says.
var thinDiffers = map[string]bool{
	"descriptors": true, // O_PATH descriptors and working directories of what has no name any more
}

// TestThinMount: what TestLikeLocal, TestFileLocks, TestPosixtest and TestPrograms do, on a mount through the nodes' file service.
func TestThinMount(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--allow-ids", "all"}})
	m := c.Mount("-o", "via")
	for _, scripts := range []map[string]func(*script){dataScripts, nameScripts, attrScripts} {
		for _, name := range slices.Sorted(maps.Keys(scripts)) {
			if !thinDiffers[name] {
				compare(t, m, name, scripts[name])
			}
		}
	}
	for _, where := range []struct {
		name          string
		first, second *harness.Mount
	}{{"one mount", m, m}, {"two mounts", m, c.Mount("-o", "via")}, {"beside a mount", m, c.Mount()}} {
		for name, f := range map[string]func(a, b *process){"posix": posixLocks, "descriptors": descriptorLocks, "waiting": waitingLocks} {
			t.Run("locks "+name+", "+where.name, func(t *testing.T) {
				file := strings.ReplaceAll(where.name, " ", "-") + "-" + name
				a, b := startLocker(t), startLocker(t)
				a.file = filepath.Join(where.first.Dir, file)
				a.do("open "+a.file, "OK")
				b.do("open "+filepath.Join(where.second.Dir, file), "OK")
				f(a, b)
			})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if name == "FcntlFlockLocksFile" { // see TestPosixtest
			continue
		}
		t.Run("posixtest "+name, func(t *testing.T) {
			dir := m.Path("posixtest-" + name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, dir)
		})
	}
	t.Run("sqlite", func(t *testing.T) { sqlite(t, m) })
	c.Check()
}
