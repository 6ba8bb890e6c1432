package dev

import (
	"testing"

	"dfs/tests/harness"
)

func TestMain(m *testing.M) { harness.MainInOwnNetwork(m) }
