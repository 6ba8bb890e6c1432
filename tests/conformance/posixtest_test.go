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
		t.Run(name, func(t *testing.T) {
			dir := m.Path(name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, dir)
		})
	}
}
