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

// thinSlow are left to the long run: thousands of calls, each of which waits for a majority.
var thinSlow = map[string]bool{"rename": true, "readdir": true, "setid": true, "OpenSymlinkRace": true}

// skipThin reports whether a script or test is not for this run.
func skipThin(name string) bool {
	return thinDiffers[name] || thinSlow[name] && os.Getenv("DFS_SOAK_MINUTES") == ""
}

// TestThinMount: what TestLikeLocal, TestFileLocks, TestPosixtest and TestPrograms do, on a mount through the nodes' file service.
func TestThinMount(t *testing.T) {
	c := harness.Start(t, harness.Options{Args: []string{"--allow-ids", "all"}})
	m := c.Mount("-o", "via")
	for _, scripts := range []map[string]func(*script){dataScripts, nameScripts, attrScripts} {
		for _, name := range slices.Sorted(maps.Keys(scripts)) {
			if !skipThin(name) {
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
		if name == "FcntlFlockLocksFile" || skipThin(name) { // see TestPosixtest
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
	t.Run("programs", func(t *testing.T) { thinPrograms(t, m) })
	if os.Getenv("DFS_SOAK_MINUTES") != "" {
		t.Run("sqlite", func(t *testing.T) { sqlite(t, m) })
		t.Run("rsync", func(t *testing.T) { rsync(t, m) })
	}
	c.Check()
}

// thinPrograms runs real programs, briefly.
func thinPrograms(t *testing.T, m *harness.Mount) {
	tool(t, m.Dir, "bash", "-euo", "pipefail", "-c", `
mkdir programs; cd programs
git init -q repo; cd repo
for i in $(seq 20); do echo "$i" > file-$i; done
git add .; git -c user.name=a -c user.email=a@b commit -qm one
git mv file-1 renamed; echo more >> file-2; git -c user.name=a -c user.email=a@b commit -qam two
git gc -q; git fsck --strict; [ -z "$(git status --porcelain)" ]
cd ..
tar cf repo.tar repo; mkdir out; tar xf repo.tar -C out; diff -r repo out/repo
sqlite3 db 'pragma journal_mode=delete; create table t(v);' >/dev/null
for w in 1 2 3; do (for i in 1 2 3 4; do sqlite3 db 'pragma busy_timeout=30000; insert into t values(1);' >/dev/null; done) & done; wait
[ "$(sqlite3 db 'pragma integrity_check; select count(*) from t;')" = "ok
12" ]
`)
}
