package filepb

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"dfs/internal/wire/codec"
)

type message interface {
	proto.Message
	codec.BufferMarshaler
	codec.BufferUnmarshaler
}

func examples() []message {
	return []message{
		&WriteRequest{}, &DataResponse{},
		&WriteRequest{Handle: &Handle{}, Data: []byte("x")},
		&WriteRequest{Handle: &Handle{Client: bytes.Repeat([]byte{7}, 16), Number: 1 << 40}, Offset: 1<<63 + 5, Data: bytes.Repeat([]byte("data"), 5000)},
		&WriteRequest{Handle: &Handle{Number: 3}, Data: []byte("x"), Flags: 7},
		&DataResponse{Data: bytes.Repeat([]byte("data"), 5000)},
	}
}

// empty is an empty message of m's type.
func empty(m message) message { return m.ProtoReflect().New().Interface().(message) }

// chop cuts b into buffers of n bytes.
func chop(b []byte, n int) (out mem.BufferSlice) {
	for len(b) > 0 {
		k := min(n, len(b))
		out, b = append(out, mem.SliceBuffer(b[:k:k])), b[k:]
	}
	return out
}

// TestBuffersAreProtobuf: what is written by hand is what generated code reads, and the other way.
func TestBuffersAreProtobuf(t *testing.T) {
	for _, m := range examples() {
		read := empty(m)
		if err := proto.Unmarshal(m.MarshalBuffers().Materialize(), read); err != nil || !proto.Equal(read, m) {
			t.Fatalf("generated code reads %v as %v (%v)", m, read, err)
		}
		generated, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, 3, 1000, 1 << 20} {
			back := empty(m)
			if err := back.UnmarshalBuffers(chop(generated, n)); err != nil || !proto.Equal(back, m) {
				t.Fatalf("%v came back as %v (%v)", m, back, err)
			}
		}
	}
}

func TestDataInto(t *testing.T) {
	wire := (&DataResponse{Data: []byte("0123456789")}).MarshalBuffers().Materialize()
	for size, fits := range map[int]bool{10: true, 20: true, 9: false, 0: false} {
		into := DataInto{Data: make([]byte, size)}
		err := into.UnmarshalBuffers(chop(wire, 3))
		if (err == nil) != fits || fits && string(into.Data[:into.N]) != "0123456789" {
			t.Errorf("into %d bytes: %q, %v", size, into.Data[:into.N], err)
		}
	}
	none := DataInto{}
	if err := none.UnmarshalBuffers(nil); err != nil || none.N != 0 {
		t.Error(none.N, err)
	}
}

// FuzzUnmarshalBuffers: on any bytes the decoders agree with protobuf's own about what can be read, and never panic.
func FuzzUnmarshalBuffers(f *testing.F) {
	for _, m := range examples() {
		f.Add(m.MarshalBuffers().Materialize(), 5)
	}
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1}, 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		n = 1 + int(uint(n)%64)
		into := DataInto{Data: make([]byte, 64)}
		_ = into.UnmarshalBuffers(chop(b, n))
		for _, m := range examples()[:2] {
			if err := m.UnmarshalBuffers(chop(b, n)); err != nil {
				continue
			}
			want := empty(m)
			if err := proto.Unmarshal(b, want); err != nil {
				t.Fatalf("read by hand as %v, but protobuf says %v", m, err)
			}
			if w, ok := want.(*WriteRequest); ok && w.Handle != nil {
				w.Handle.ProtoReflect().SetUnknown(nil)
			}
			want.ProtoReflect().SetUnknown(nil)
			if !proto.Equal(m, want) {
				t.Fatalf("read as %v, protobuf reads %v", m, want)
			}
		}
	})
}
