package lockrpc

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"dfs/blockstore"
	"dfs/internal/wire/lockpb"
	ls "dfs/lockserver"
)

var file = ls.FileLock{Owner: 7, Start: 1, End: 1<<63 - 1, Type: ls.FileWrite, PID: 12, Flock: true}

func clientMessages() []*ls.ClientMsg {
	return []*ls.ClientMsg{
		{},
		{Hello: &ls.Hello{Writer: 3, Token: blockstore.Token{1, 15: 2}, Name: "host:/mnt", TTL: 10 * time.Second}},
		{Claims: &ls.Claims{Locks: []ls.Claim{{ID: 1 << 63, Mode: ls.Exclusive}, {ID: 4, Open: true}}, Given: []ls.IDRun{{First: 9, Count: 3}},
			Files: []ls.FileClaim{{ID: 5, Lock: file}}, Floor: 99, Done: true}},
		{KeepAlive: 4, Releases: []ls.Release{{ID: 1, Epoch: 2, Number: 3, To: ls.Shared, Index: 5, Open: true}},
			Acquires: []ls.Request{{ID: 6, Mode: ls.Shared}, {ID: 7, Mode: ls.Exclusive}},
			Files:    []ls.FileRequest{{Ref: 1, Op: ls.FileSet, ID: 2, Lock: file, Wait: true}}},
		{End: &ls.End{Clean: true}},
	}
}

func TestClientMessagesSurviveTheWire(t *testing.T) {
	for _, m := range clientMessages() {
		b, err := proto.Marshal(clientToWire(m))
		if err != nil {
			t.Fatal(err)
		}
		var w lockpb.ClientMessage
		if err := proto.Unmarshal(b, &w); err != nil {
			t.Fatal(err)
		}
		got, err := clientFromWire(&w)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v, %v", m, got, err)
		}
	}
}

func TestServerMessagesSurviveTheWire(t *testing.T) {
	for _, m := range []*ls.ServerMsg{
		{Epoch: 1},
		{Epoch: 2, Welcome: &ls.Welcome{Writer: 3, TTL: time.Second}},
		{Epoch: 2, Claimed: &ls.Claimed{First: 8, Count: 9}, Seen: 4, Renewed: 3,
			Grants:  []ls.Grant{{ID: 1, Number: 2, Mode: ls.Exclusive, MinIndex: 3, Open: true}},
			Revokes: []ls.Revoke{{ID: 4, Number: 5, To: ls.Shared}},
			Files:   []ls.FileReply{{Ref: 6, OK: true, Lock: file}, {Ref: 7, Kind: 1009}}},
	} {
		b, err := proto.Marshal(serverToWire(m))
		if err != nil {
			t.Fatal(err)
		}
		var w lockpb.ServerMessage
		if err := proto.Unmarshal(b, &w); err != nil {
			t.Fatal(err)
		}
		if got := serverFromWire(&w); !reflect.DeepEqual(got, m) {
			t.Errorf("%+v came back as %+v", m, got)
		}
	}
}

// FuzzClientMessage: no bytes make the conversion panic.
func FuzzClientMessage(f *testing.F) {
	for _, m := range clientMessages() {
		b, _ := proto.Marshal(clientToWire(m))
		f.Add(b)
	}
	f.Add([]byte{0x22, 0x00, 0x2a, 0x00, 0x32, 0x02, 0x22, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var w lockpb.ClientMessage
		if proto.Unmarshal(b, &w) != nil {
			return
		}
		m, err := clientFromWire(&w)
		if err != nil {
			return
		}
		again, err := clientFromWire(clientToWire(m))
		if err != nil || !reflect.DeepEqual(m.Acquires, again.Acquires) {
			t.Errorf("%+v is not stable: %v", m, err)
		}
	})
}
