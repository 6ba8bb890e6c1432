package golden

import (
	"os"
	"testing"
)

func TestDump(t *testing.T) {
	b := make([]byte, 100)
	b[70], b[99] = 1, 0xff
	const want = "length 100\n64 0000000000000100000000000000000000000000000000000000000000000000\n96 000000ff\n"
	if got := dump(b); got != want {
		t.Fatalf("got %q", got)
	}
	t.Chdir(t.TempDir())
	t.Setenv("DFS_GOLDEN", "write")
	Check(t, "x", b)
	if err := os.Setenv("DFS_GOLDEN", ""); err != nil {
		t.Fatal(err)
	}
	Check(t, "x", b)
}
