package boltfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"dfs/internal/errors"
)

func sample(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("b"))
		for i := 0; i < 2000 && err == nil; i++ {
			err = b.Put(fmt.Appendf(nil, "%06d", i), make([]byte, 50))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	if err := Check(path); err != nil {
		t.Fatal("no file:", err)
	}
	good := sample(t)
	oneMeta := bytes.Clone(good)
	oneMeta[20] ^= 1
	for _, c := range []struct {
		what string
		b    []byte
		kind errors.Kind
	}{{"whole", good, 0}, {"one meta page rotted", oneMeta, 0}, {"cut", good[:len(good)/2], errors.KindCorrupt}, {"empty", nil, errors.KindCorrupt},
		{"one page", good[:4096], errors.KindCorrupt}, {"zeros", make([]byte, 8192), errors.KindCorrupt}} {
		if err := os.WriteFile(path, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := Check(path)
		if c.kind == 0 && err != nil || c.kind != 0 && !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func FuzzBytesInUse(f *testing.F) {
	f.Add(sample(f)[:8192])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := bytesInUse(bytes.NewReader(b)); err == nil && n < 0 {
			t.Fatal(n)
		}
	})
}
