package jsonfile

import (
	"bytes"
	"strings"
	"testing"

	"dfs/internal/errors"
	"dfs/internal/golden"
)

type thing struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

func encoded(t testing.TB) []byte {
	t.Helper()
	b, err := Encode("dfs-thing", 3, thing{"a", 12})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	b := encoded(t)
	golden.Check(t, "frame.hex", b)
	for _, b := range [][]byte{b, bytes.ReplaceAll(b, []byte("\n"), []byte("\n\n \t"))} {
		var got thing
		if err := Decode(b, "dfs-thing", 3, &got); err != nil || got != (thing{"a", 12}) {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	var got thing
	if err := Decode(b, "dfs-thing", 4, &got); err != nil {
		t.Errorf("an older version: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	change := func(old, now string) []byte {
		b := encoded(t)
		if !bytes.Contains(b, []byte(old)) {
			t.Fatalf("no %s in %s", old, b)
		}
		return bytes.Replace(b, []byte(old), []byte(now), 1)
	}
	for _, c := range []struct {
		what string
		b    []byte
		kind errors.Kind
		says string
	}{
		{"another magic", change("dfs-thing", "dfs-think"), errors.KindForeign, "dfs-think"},
		{"a newer version", change(`"version": 3`, `"version": 99`), errors.KindTooNew, "version 99"},
		{"no version", change(`"version": 3`, `"version": 0`), errors.KindCorrupt, "version 0"},
		{"another body", change(`12`, `13`), errors.KindCorrupt, "checksum"},
		{"another sum", change(`"crc32c": "`, `"crc32c": "0`), errors.KindCorrupt, "checksum"},
		{"cut off", encoded(t)[:40], errors.KindCorrupt, "JSON"},
		{"nothing", nil, errors.KindCorrupt, "JSON"},
	} {
		if err := Decode(c.b, "dfs-thing", 3, &thing{}); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encoded(f))
	f.Add([]byte(`{"magic":"dfs-thing","version":1,"body":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Decode(b, "dfs-thing", 3, &thing{})
	})
}
