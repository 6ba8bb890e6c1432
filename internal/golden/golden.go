// Package golden compares encoded bytes with files that are kept, so that no format
// changes unnoticed: what an older binary has written must stay readable.
//
// A file holds the length and a hex dump without the lines that are all zeros:
//
//	length 4096
//	0 6466735345474c47…
package golden

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const lineBytes = 32

// Check compares b with the file testdata/name. With DFS_GOLDEN=write it writes the file instead.
func Check(t testing.TB, name string, b []byte) {
	t.Helper()
	path, text := filepath.Join("testdata", name), dump(b)
	if os.Getenv("DFS_GOLDEN") == "write" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != text {
		t.Errorf("the encoding is not that of %s any more; a changed format needs a new version number:\n%s\nwant\n%s", path, text, want)
	}
}

func dump(b []byte) string {
	var s strings.Builder
	fmt.Fprintf(&s, "length %d\n", len(b))
	for at := 0; at < len(b); at += lineBytes {
		line := b[at:min(at+lineBytes, len(b))]
		if strings.Trim(string(line), "\x00") != "" {
			fmt.Fprintf(&s, "%d %s\n", at, hex.EncodeToString(line))
		}
	}
	return s.String()
}
