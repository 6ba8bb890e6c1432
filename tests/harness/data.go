package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// WriteRandom writes size random bytes, which depend on name and seed alone, to a new file, fsyncs it and returns the SHA-256.
func WriteRandom(t testing.TB, path, name string, seed uint64, size int64) string {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	src := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%s %d", name, seed)))
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for size > 0 && err == nil {
		part := buf[:min(size, int64(len(buf)))]
		_, _ = src.Read(part)
		h.Write(part)
		_, err = f.Write(part)
		size -= int64(len(part))
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
