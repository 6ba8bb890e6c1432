package partition

import (
	"testing"

	"dfs/tests/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
