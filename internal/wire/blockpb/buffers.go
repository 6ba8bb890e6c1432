package blockpb

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"dfs/internal/wire/codec"
)

// The messages that carry data encode themselves without copying it (see
// package codec). What is written here is the protobuf encoding of the .proto.

var (
	_ codec.BufferMarshaler   = (*WriteRequest)(nil)
	_ codec.BufferUnmarshaler = (*WriteRequest)(nil)
	_ codec.BufferUnmarshaler = (*RoomyWriteRequest)(nil)
	_ codec.BufferMarshaler   = (*ReadResponse)(nil)
	_ codec.BufferUnmarshaler = (*ReadResponse)(nil)
	_ codec.BufferMarshaler   = (*FetchChunkResponse)(nil)
	_ codec.BufferUnmarshaler = (*FetchChunkResponse)(nil)
)

// MarshalBuffers implements codec.BufferMarshaler.
func (m *WriteRequest) MarshalBuffers() mem.BufferSlice {
	b := make([]byte, 0, 72)
	b = codec.AppendUint(b, 1, m.Writer)
	b = codec.AppendBytes(b, 2, m.Token)
	b = codec.AppendUint(b, 3, m.Epoch)
	b = codec.AppendUint(b, 4, m.Seq)
	if len(m.Record) > 0 {
		b = codec.AppendBytesHead(b, 5, len(m.Record))
	}
	return codec.Join(b, m.Record)
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *WriteRequest) UnmarshalBuffers(data mem.BufferSlice) error {
	_, err := m.unmarshal(data, 0)
	return err
}

// RoomyWriteRequest receives a WriteRequest whose record has RoomBytes free before it.
type RoomyWriteRequest struct {
	WriteRequest
	RoomBytes int    // set by who receives
	Room      []byte // those bytes and the record
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *RoomyWriteRequest) UnmarshalBuffers(data mem.BufferSlice) (err error) {
	m.Room, err = m.unmarshal(data, m.RoomBytes)
	return err
}

func (m *WriteRequest) unmarshal(data mem.BufferSlice, room int) (buffer []byte, err error) {
	err = codec.Fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, codec.ReadUint(r, typ, &m.Writer)
		case 2:
			return true, codec.ReadBytes(r, typ, &m.Token)
		case 3:
			return true, codec.ReadUint(r, typ, &m.Epoch)
		case 4:
			return true, codec.ReadUint(r, typ, &m.Seq)
		case 5:
			return true, codec.ReadBytesBehind(r, typ, room, &buffer, &m.Record)
		}
		return false, nil
	})
	return buffer, err
}

// MarshalBuffers implements codec.BufferMarshaler.
func (m *ReadResponse) MarshalBuffers() mem.BufferSlice {
	n := 16
	for _, p := range m.Present {
		n += len(p) + 8
	}
	head := codec.AppendUint(make([]byte, 0, n), 1, m.Index)
	for _, p := range m.Present {
		head = append(codec.AppendBytesHead(head, 3, len(p)), p...)
	}
	out := make(mem.BufferSlice, 0, 1+2*len(m.Data))
	for _, d := range m.Data {
		head = codec.AppendBytesHead(head, 2, len(d))
		out = append(out, mem.SliceBuffer(head))
		if len(d) > 0 {
			out = append(out, mem.SliceBuffer(d))
		}
		head = nil
	}
	if len(head) > 0 {
		out = append(out, mem.SliceBuffer(head))
	}
	return out
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *ReadResponse) UnmarshalBuffers(data mem.BufferSlice) error {
	return codec.Fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, codec.ReadUint(r, typ, &m.Index)
		case 2:
			m.Data = append(m.Data, nil)
			return true, codec.ReadBytes(r, typ, &m.Data[len(m.Data)-1])
		case 3:
			m.Present = append(m.Present, nil)
			return true, codec.ReadBytes(r, typ, &m.Present[len(m.Present)-1])
		}
		return false, nil
	})
}

// MarshalBuffers implements codec.BufferMarshaler.
func (m *FetchChunkResponse) MarshalBuffers() mem.BufferSlice {
	b := make([]byte, 0, 40+len(m.Present))
	b = codec.AppendUint(b, 1, m.LastIndex)
	b = codec.AppendUint(b, 2, m.Applied)
	b = codec.AppendBytes(b, 3, m.Present)
	if len(m.Data) > 0 {
		b = codec.AppendBytesHead(b, 4, len(m.Data))
	}
	return codec.Join(b, m.Data)
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *FetchChunkResponse) UnmarshalBuffers(data mem.BufferSlice) error {
	return codec.Fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, codec.ReadUint(r, typ, &m.LastIndex)
		case 2:
			return true, codec.ReadUint(r, typ, &m.Applied)
		case 3:
			return true, codec.ReadBytes(r, typ, &m.Present)
		case 4:
			return true, codec.ReadBytes(r, typ, &m.Data)
		}
		return false, nil
	})
}
