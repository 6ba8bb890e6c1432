package raftstore

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/internal/golden"
)

// TestGoldenFiles pins the log's entries, the identity file, the manifest, the note of a copy, and the card that answers probes.
func TestGoldenFiles(t *testing.T) {
	founders := []founder{{"a", "10.0.0.1:7470", 0x0123456789abcdef}, {"b", "10.0.0.2:7470", 2}}
	cluster := clusterOf(founders)
	id := &identity{Node: "a", Incarnation: 0x0123456789abcdef, Cluster: hex.EncodeToString(cluster[:]), Founders: founders, Lives: true}
	b, err := encodeIdentity(id)
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "node-json-v1.hex", b)
	id.Recovered, id.Founders = &recovered{Index: 4711, Term: 3, Address: "10.0.0.1:7470", From: id.Cluster}, nil
	if b, err = encodeIdentity(id); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "node-json-v2.hex", b)
	m := manifest{Applied: 4711, Sources: []string{"10.0.0.1:7470", "10.0.0.2:7470"}, State: []byte("the state machine")}
	golden.Check(t, "manifest-v1.hex", m.encode())
	golden.Check(t, "log-entry-head-v1.hex", appendLogHead(nil, &raft.Log{Type: raft.LogCommand, Term: 3, AppendedAt: time.Unix(1700000000, 5), Extensions: []byte("ext")}))
	if b, err = encodeCopyMark(&copyMark{Copying: true, Floor: 12}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "catchup-json-v2.hex", b)
	if b, err = json.Marshal(card{Node: "a", Address: "10.0.0.1:7470", Incarnation: 2, Cluster: id.Cluster}); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "card-json.hex", b)
}

// TestCopyMarkRead: the note of this version and of the first are read, everything else is refused by name.
func TestCopyMarkRead(t *testing.T) {
	now, err := encodeCopyMark(&copyMark{Copying: true, Floor: 12})
	if err != nil {
		t.Fatal(err)
	}
	const first = `{"version":1,"copying":true,"floor":12}`
	golden.Check(t, "catchup-json-v1.hex", []byte(first)) // what the first version wrote
	for _, b := range []string{string(now), first} {
		if m, err := decodeCopyMark([]byte(b)); err != nil || *m != (copyMark{Copying: true, Floor: 12}) {
			t.Errorf("%s: %+v, %v", b, m, err)
		}
	}
	for b, kind := range map[string]errors.Kind{
		strings.Replace(string(now), `"version": 2`, `"version": 99`, 1): errors.KindTooNew,
		strings.Replace(string(now), `12`, `13`, 1):                      errors.KindCorrupt,
		strings.Replace(string(now), "dfs-catchup", "dfs-other", 1):      errors.KindForeign,
		first[:20]:                errors.KindCorrupt,
		`{"version":2,"floor":1}`: errors.KindForeign,
	} {
		if _, err := decodeCopyMark([]byte(b)); !errors.Is(err, kind) {
			t.Errorf("%s: %v, want %v", b, err, kind)
		}
	}
}
