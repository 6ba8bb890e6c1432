package mux

import (
	"testing"

	"dfs/internal/golden"
)

// TestGoldenGreetings pins what two nodes say to each other first.
func TestGoldenGreetings(t *testing.T) {
	id := ClusterID{0: 1, 1: 2, 14: 15, 15: 16}
	golden.Check(t, "hello-v1.hex", encodeHello(helloRaft, id, 0x1122334455667788))
	golden.Check(t, "hello-v2.hex", encodeHello(helloAppend, id, 0x1122334455667788))
	golden.Check(t, "answer-v1.hex", encodeAnswer(reasonReplaced))
	golden.Check(t, "card-v1.hex", encodeCard([]byte(`{"node":"a"}`)))
}
