package partition

import (
	"testing"

	"dfs/tests/harness"
)

type disk struct{}

func newDisk(*testing.T, *harness.Node) *disk { return nil }
