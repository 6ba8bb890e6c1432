package assembly

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/golden"
)

var goldenSession = blockstore.Session{Writer: 7, Token: [16]byte{0: 1, 15: 0xff}}

const goldenCluster = "00112233445566778899aabbccddeeff"

func goldenSessionFile(t testing.TB) string {
	t.Helper()
	b, err := encodeSession(goldenCluster, goldenSession)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// firstSessionFile is what the first version wrote.
const firstSessionFile = `{"magic":"dfs-session","version":1,"cluster":"` + goldenCluster + `","writer":7,"token":"010000000000000000000000000000ff"}`

// TestSessionFileRead: files of this version and of the first are read, everything else is refused by name.
func TestSessionFileRead(t *testing.T) {
	now := goldenSessionFile(t)
	golden.Check(t, "session-json-v2.hex", []byte(now))
	golden.Check(t, "session-json-v1.hex", []byte(firstSessionFile))
	for _, b := range []string{now, firstSessionFile} {
		if cluster, s, err := decodeSession([]byte(b)); err != nil || cluster != goldenCluster || s != goldenSession {
			t.Errorf("%s: cluster %q, %+v, %v", b, cluster, s, err)
		}
	}
	for b, kind := range map[string]errors.Kind{
		strings.Replace(now, `"version": 2`, `"version": 99`, 1):     errors.KindTooNew,
		strings.Replace(now, "dfs-session", "dfs-other", 1):          errors.KindForeign,
		strings.Replace(now, `"writer": 7`, `"writer": 8`, 1):        errors.KindCorrupt,
		strings.Replace(firstSessionFile, `"token":"01`, `"x":"`, 1): errors.KindCorrupt,
		now[:50]: errors.KindCorrupt,
	} {
		if _, _, err := decodeSession([]byte(b)); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", b, err, kind)
		}
	}
}

// TestSessionFileNotOurs: a file of a newer dfs, or of something else, is told by name and not written to.
func TestSessionFileNotOurs(t *testing.T) {
	for _, content := range []string{
		strings.Replace(goldenSessionFile(t), `"version": 2`, `"version": 99`, 1),
		strings.Replace(goldenSessionFile(t), "dfs-session", "dfs-other", 1),
	} {
		path := filepath.Join(t.TempDir(), "session.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := takeSessionFile(context.Background(), path, nil, slog.New(slog.DiscardHandler))
		if s != nil || err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("the file was taken, or the error does not name it: %v", err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("the file holds %q, %v now", b, err)
		}
	}
}

func FuzzDecodeSession(f *testing.F) {
	f.Add([]byte(goldenSessionFile(f)))
	f.Add([]byte(firstSessionFile))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = decodeSession(b)
	})
}
