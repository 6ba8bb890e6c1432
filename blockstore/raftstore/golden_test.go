package raftstore

import (
	"encoding/hex"
	"encoding/json"
	"testing"
	"time"

	"github.com/hashicorp/raft"

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
	m := manifest{Applied: 4711, Sources: []string{"10.0.0.1:7470", "10.0.0.2:7470"}, State: []byte("the state machine")}
	golden.Check(t, "manifest-v1.hex", m.encode())
	golden.Check(t, "log-entry-head-v1.hex", appendLogHead(nil, &raft.Log{Type: raft.LogCommand, Term: 3, AppendedAt: time.Unix(1700000000, 5), Extensions: []byte("ext")}))
	for name, v := range map[string]any{
		"catchup-json-v1.hex": &copyMark{Version: copyMarkVersion, Copying: true, Floor: 12},
		"card-json.hex":       card{Node: "a", Address: "10.0.0.1:7470", Incarnation: 2, Cluster: id.Cluster},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		golden.Check(t, name, b)
	}
}
