package conformance

import (
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"dfs/tests/harness"
)

// TestPosixtest runs all of go-fuse's own conformance tests on a mount.
func TestPosixtest(t *testing.T) {
	m := harness.Start(t, harness.Options{}).Mount()
	for _, name := range slices.Sorted(maps.Keys(posixtest.All)) {
		if name == "FcntlFlockLocksFile" {
			// It wants a process to be in the way of its own POSIX lock, which it is on no file system (go-fuse leaves it out of
			// its own run, too). TestFileLocks tests what POSIX says.
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := m.Path(name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, dir)
		})
	}
}
