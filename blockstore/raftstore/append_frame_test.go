package raftstore

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/internal/golden"
)

func someBytes(rnd *rand.Rand, n int) []byte {
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// someRequest makes a request as raft would, or odder.
func someRequest(rnd *rand.Rand) *raft.AppendEntriesRequest {
	u := func() uint64 { return rnd.Uint64() >> rnd.IntN(64) }
	a := &raft.AppendEntriesRequest{Term: u(), PrevLogEntry: u(), PrevLogTerm: u(), LeaderCommitIndex: u(), Entries: []*raft.Log{}}
	a.ProtocolVersion = raft.ProtocolVersion(rnd.IntN(4))
	a.ID, a.Addr, a.Leader = append([]byte{}, someBytes(rnd, rnd.IntN(30))...), []byte("10.0.0.1:7470/1"), []byte{}
	sizes := []int{0, 1, 100, appendInlineMax, appendInlineMax + 1, 70_000, entryBytesMax}
	for range rnd.IntN(17) {
		l := &raft.Log{Index: u(), Term: u(), Type: raft.LogType(rnd.IntN(6)), Data: someBytes(rnd, sizes[rnd.IntN(len(sizes))])}
		if l.Type != raft.LogCommand {
			l.Data = l.Data[:min(len(l.Data), 300)]
			if len(l.Data) == 0 {
				l.Data = nil
			}
		}
		if rnd.IntN(2) == 0 {
			l.AppendedAt = time.Unix(rnd.Int64N(1<<33), rnd.Int64N(1e9))
		}
		l.Extensions = someBytes(rnd, rnd.IntN(2)*rnd.IntN(50))
		a.Entries = append(a.Entries, l)
	}
	return a
}

// encoded is a request's frame as it goes over the connection.
func encoded(t testing.TB, a *raft.AppendEntriesRequest) []byte {
	frame, behind, size, ok := encodeAppend(nil, a, nil)
	if !ok {
		t.Fatal("a frame cannot hold the request")
	}
	all := bytes.Join(append([][]byte{frame}, behind...), nil)
	if len(all) != size {
		t.Fatalf("%d bytes, announced as %d", len(all), size)
	}
	return all
}

func dontCare(int) {}

func TestAppendFramesComeBackAsTheyWere(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		want := someRequest(rnd)
		b := encoded(t, want)
		r := bytes.NewReader(append(b, "next"...))
		got, err := readAppend(r, dontCare)
		if err != nil || r.Len() != 4 {
			t.Fatalf("%d: %v, %d left", i, err, r.Len())
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%d: %+v came back as %+v", i, want, got)
		}
		for _, l := range got.Entries {
			if len(l.Data) > appendInlineMax && cap(l.Data) != len(l.Data) {
				t.Fatalf("%d bytes of data in a buffer of %d", len(l.Data), cap(l.Data))
			}
		}
	}
	for _, want := range []*raft.AppendEntriesResponse{
		{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b"), Addr: []byte("x:1")}, Term: 1, LastLog: 1 << 40, Success: true},
		{RPCHeader: raft.RPCHeader{ID: []byte{}, Addr: []byte{}}, NoRetryBackoff: true},
	} {
		var got raft.AppendEntriesResponse
		problem, err := readAppended(bytes.NewReader(encodeAppended(nil, want, "why not")), &got)
		if err != nil || problem != "why not" || !reflect.DeepEqual(&got, want) {
			t.Fatalf("%+v came back as %+v, %q, %v", want, got, problem, err)
		}
	}
}

// TestAppendFrameCutShortIsNoRequest: wherever the bytes end, it is no request; only before the first it is a plain end.
func TestAppendFrameCutShortIsNoRequest(t *testing.T) {
	a := &raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{Index: 1, Data: []byte("small")}, {Index: 2, Data: make([]byte, appendInlineMax+9)}}}
	b := encoded(t, a)
	for n := range b {
		_, err := readAppend(bytes.NewReader(b[:n]), dontCare)
		if err == nil || (err == io.EOF) != (n == 0) {
			t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
		}
	}
}

// TestDamagedAppendFrameIsRefused: a bit that is wrong anywhere but in data with a checksum of its own is noticed, and in the
// head before memory is taken.
func TestDamagedAppendFrameIsRefused(t *testing.T) {
	a := &raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{Index: 1, Type: raft.LogConfiguration, Data: make([]byte, 2*appendInlineMax)}, {Index: 2, Data: make([]byte, appendInlineMax+9)}}}
	frame, _, _, ok := encodeAppend(nil, a, nil)
	if !ok || len(frame) < 2*appendInlineMax {
		t.Fatalf("a configuration is not in the body: %d bytes", len(frame))
	}
	whole := encoded(t, a)
	for i := 0; i < len(frame); i++ {
		if i > 300 {
			i = min(i+36, len(frame)-1)
		}
		bad := bytes.Clone(whole)
		bad[i] ^= 1 << (i % 8)
		r := bytes.NewReader(bad)
		_, err := readAppend(r, dontCare)
		if k := errors.KindOf(err); k != errors.KindCorrupt && k != errors.KindForeign && k != errors.KindTooNew {
			t.Fatalf("byte %d: %v", i, err)
		}
		if read := len(bad) - r.Len(); i < appendHead && read > appendHead {
			t.Fatalf("byte %d of the head is wrong, and %d bytes were read", i, read)
		}
	}
}

// TestNoFrameForTheTooGreat: what a frame's reader would refuse is not sent in one.
func TestNoFrameForTheTooGreat(t *testing.T) {
	many := make([]*raft.Log, appendCountMax+1)
	for i := range many {
		many[i] = &raft.Log{}
	}
	wide := make([]*raft.Log, appendCountMax)
	for i := range wide {
		wide[i] = &raft.Log{Data: make([]byte, entryBytesMax)}
	}
	for name, entries := range map[string][]*raft.Log{
		"count":         many,
		"entry":         {{Data: make([]byte, entryBytesMax+1)}},
		"configuration": {{Type: raft.LogConfiguration, Data: make([]byte, appendBodyMax)}},
		"extensions":    {{Extensions: make([]byte, appendBodyMax)}},
		"data":          wide,
	} {
		if _, _, _, ok := encodeAppend(nil, &raft.AppendEntriesRequest{Entries: entries}, nil); ok {
			t.Errorf("%s: a frame was made", name)
		}
	}
	most := make([]*raft.Log, raftEntriesMax)
	for i := range most {
		most[i] = &raft.Log{Data: make([]byte, entryBytesMax)}
	}
	encoded(t, &raft.AppendEntriesRequest{Entries: most})
}

func FuzzAppendFrame(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	small := func(a *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
		a.Entries = a.Entries[:min(len(a.Entries), 3)]
		for i, l := range a.Entries {
			l.Data = l.Data[:min(len(l.Data), 100+i/2*appendInlineMax)]
		}
		return a
	}
	for range 4 {
		f.Add(encoded(f, small(someRequest(rnd))))
	}
	f.Add(encodeAppended(nil, &raft.AppendEntriesResponse{Success: true}, "no"))
	f.Add([]byte("dfsA"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= appendHead { // let changed bytes past the checksums, too
			end := min(len(b), appendHead+int(min(b[8], 250))+int(b[9])<<8)
			fit := bytes.Clone(b[:end])
			sealFrame(fit, b[5])
			check(t, append(fit, b[end:]...))
		}
		check(t, b)
	})
}

// check: whatever is read encodes to the bytes it was read from, or to what reads the same.
func check(t *testing.T, b []byte) {
	r := bytes.NewReader(b)
	if a, err := readAppend(r, func(bytes int) {
		if bytes > appendDataMax {
			t.Fatalf("%d bytes of data are let in", bytes)
		}
	}); err == nil {
		frame, behind, _, ok := encodeAppend(nil, a, nil)
		if !ok {
			return // read, though never sent like that
		}
		again, err := readAppend(bytes.NewReader(bytes.Join(append([][]byte{frame}, behind...), nil)), dontCare)
		if err != nil || fmt.Sprint(again.Entries) != fmt.Sprint(a.Entries) && !reflect.DeepEqual(again, a) {
			t.Fatalf("%+v came back as %+v, %v", a, again, err)
		}
	}
	var resp raft.AppendEntriesResponse
	if problem, err := readAppended(bytes.NewReader(b), &resp); err == nil && len(problem) <= appendErrorMax {
		var again raft.AppendEntriesResponse
		if p, err := readAppended(bytes.NewReader(encodeAppended(nil, &resp, problem)), &again); err != nil || p != problem || !reflect.DeepEqual(again, resp) {
			t.Fatalf("%+v came back as %+v, %v", resp, again, err)
		}
	}
}

// TestGoldenAppendFrames pins what goes over the connection.
func TestGoldenAppendFrames(t *testing.T) {
	a := &raft.AppendEntriesRequest{Term: 7, PrevLogEntry: 41, PrevLogTerm: 6, LeaderCommitIndex: 40, Leader: []byte("10.0.0.1:7470/1"), Entries: []*raft.Log{
		{Index: 42, Term: 7, Type: raft.LogCommand, Data: []byte("a command"), AppendedAt: time.Unix(1700000000, 5)},
		{Index: 43, Term: 7, Type: raft.LogCommand, Data: bytes.Repeat([]byte{0xee}, appendInlineMax+1), AppendedAt: time.Unix(1700000000, 6)},
	}}
	a.RPCHeader = raft.RPCHeader{ProtocolVersion: 3, ID: []byte("a/1"), Addr: []byte("10.0.0.1:7470/1")}
	golden.Check(t, "append-request-v1.hex", encoded(t, a))
	resp := &raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b/2"), Addr: []byte("10.0.0.2:7470/2")}, Term: 7, LastLog: 43, Success: true}
	golden.Check(t, "append-answer-v1.hex", encodeAppended(nil, resp, "told"))
}
