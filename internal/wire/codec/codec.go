// Package codec is the gRPC codec of dfs: protobuf on the wire, without the
// copies that generated code makes of large byte fields.
//
// A message type that carries data has, beside its generated code, the methods
// of BufferMarshaler and BufferUnmarshaler, written by hand, which give and
// take exactly the protobuf encoding of the message. All other messages go the
// usual way. So any protobuf peer can talk to dfs.
//
// What that saves, for a message with one field of n bytes: sending, the copy
// of n bytes into the message's encoding; receiving, one of the two copies (the
// frames of the connection into one buffer, that buffer into the field).
package codec

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// BufferMarshaler is a message that encodes itself.
type BufferMarshaler interface {
	// MarshalBuffers gives the protobuf encoding. The buffers may refer to the
	// message's own fields: who sends it must not change them afterwards.
	MarshalBuffers() mem.BufferSlice
}

// BufferUnmarshaler is a message that decodes itself.
type BufferUnmarshaler interface {
	// UnmarshalBuffers sets the message, which is empty, from its protobuf
	// encoding. It must keep no reference to the buffers. On input that
	// is not an encoding of the message it returns an error.
	UnmarshalBuffers(mem.BufferSlice) error
}

// Codec is the codec; its zero value is ready. It is forced upon clients and
// servers by the options of package cluster.
type Codec struct{}

var _ encoding.CodecV2 = Codec{}

// Marshal encodes v.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(BufferMarshaler); ok {
		return m.MarshalBuffers(), nil
	}
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

// Unmarshal decodes data into v.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(BufferUnmarshaler); ok {
		return m.UnmarshalBuffers(data)
	}
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}

// Name is "proto": what is on the wire is protobuf.
func (Codec) Name() string { return proto.Name }
