package blockpb

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"dfs/internal/wire/codec"
)

// chop cuts b into buffers of odd sizes, empty ones among them, as frames do.
func chop(b []byte, rnd *rand.Rand) mem.BufferSlice {
	var out mem.BufferSlice
	for len(b) > 0 {
		n := min(len(b), rnd.IntN(20))
		out = append(out, mem.SliceBuffer(b[:n:n]))
		b = b[n:]
	}
	return out
}

type message interface {
	proto.Message
	codec.BufferMarshaler
	codec.BufferUnmarshaler
}

// empties gives an empty message of each type.
func empties() []message { return []message{&WriteRequest{}, &ReadResponse{}, &FetchChunkResponse{}} }

func randomBytes(rnd *rand.Rand) []byte {
	b := make([]byte, rnd.IntN(300))
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func randomMessages(rnd *rand.Rand) []message {
	u := func() uint64 { return rnd.Uint64() >> rnd.IntN(65) }
	read := &ReadResponse{Index: u()}
	for range rnd.IntN(4) {
		read.Data, read.Present = append(read.Data, randomBytes(rnd)), append(read.Present, randomBytes(rnd))
	}
	return []message{
		&WriteRequest{Writer: u(), Token: randomBytes(rnd), Epoch: u(), Seq: u(), Record: randomBytes(rnd)},
		read,
		&FetchChunkResponse{LastIndex: u(), Applied: u(), Present: randomBytes(rnd), Data: randomBytes(rnd)},
	}
}

// TestBuffersAreProtobuf: what is written by hand is what generated code reads, and the other way.
func TestBuffersAreProtobuf(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		for i, m := range randomMessages(rnd) {
			byHand := m.MarshalBuffers().Materialize()
			read := empties()[i]
			if err := proto.Unmarshal(byHand, read); err != nil || !proto.Equal(read, m) {
				t.Fatalf("generated code reads %v as %v (%v)", m, read, err)
			}
			generated, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			back := empties()[i]
			if err := back.UnmarshalBuffers(chop(generated, rnd)); err != nil || !proto.Equal(back, m) {
				t.Fatalf("%v came back as %v (%v)", m, back, err)
			}
		}
	}
}

// TestRoomyWriteRequest: the same message, and the record at the end of a buffer with room before it.
func TestRoomyWriteRequest(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for room := range 40 {
		want := &WriteRequest{Writer: 3, Token: []byte{1}, Epoch: 2, Seq: 1, Record: randomBytes(rnd)}
		got := &RoomyWriteRequest{RoomBytes: room}
		if err := got.UnmarshalBuffers(chop(want.MarshalBuffers().Materialize(), rnd)); err != nil || !proto.Equal(&got.WriteRequest, want) {
			t.Fatalf("%v, %v", &got.WriteRequest, err)
		}
		if n := len(want.Record); n > 0 && (len(got.Room) != room+n || &got.Room[room] != &got.Record[0]) {
			t.Fatalf("%d bytes of room for a record of %d behind %d", len(got.Room), n, room)
		}
	}
}

func TestUnknownFieldsArePassedOver(t *testing.T) {
	unknown, _ := proto.Marshal(&SpaceResponse{CapacityBlocks: 1, UsedBlocks: 1 << 60, ReservedBlocks: 3})
	unknown[0], unknown[2], unknown[12] = 9<<3, 10<<3, 11<<3
	unknown = append(unknown, 12<<3|2, 3, 'a', 'b', 'c', 13<<3|5, 1, 2, 3, 4, 14<<3|1, 1, 2, 3, 4, 5, 6, 7, 8)
	want := &WriteRequest{Seq: 7, Record: []byte("record")}
	b := append(unknown, want.MarshalBuffers().Materialize()...)
	got := &WriteRequest{}
	if err := got.UnmarshalBuffers(chop(b, rand.New(rand.NewPCG(3, 4)))); err != nil || got.Seq != 7 || !bytes.Equal(got.Record, want.Record) {
		t.Fatalf("%v %v", got, err)
	}
}

// FuzzUnmarshalBuffers: on any bytes the decoders agree with protobuf's own
// about what can be read, and never panic.
func FuzzUnmarshalBuffers(f *testing.F) {
	for _, m := range randomMessages(rand.New(rand.NewPCG(5, 6))) {
		f.Add(m.MarshalBuffers().Materialize(), uint64(1))
	}
	f.Add([]byte{0x2a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1}, uint64(2))
	f.Add([]byte{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02}, uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		for i, m := range empties() {
			if err := m.UnmarshalBuffers(chop(b, rand.New(rand.NewPCG(seed, 1)))); err != nil {
				continue
			}
			want := empties()[i]
			if err := proto.Unmarshal(b, want); err != nil {
				t.Fatalf("read by hand as %v, but protobuf says %v", m, err)
			}
			want.ProtoReflect().SetUnknown(nil)
			if !proto.Equal(m, want) {
				t.Fatalf("read as %v, protobuf reads %v", m, want)
			}
		}
	})
}
