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
	_ codec.BufferMarshaler   = (*ReadResponse)(nil)
	_ codec.BufferUnmarshaler = (*ReadResponse)(nil)
	_ codec.BufferMarshaler   = (*FetchChunkResponse)(nil)
	_ codec.BufferUnmarshaler = (*FetchChunkResponse)(nil)
)

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// appendBytesHead appends all of a bytes field but its bytes.
func appendBytesHead(b []byte, num protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(n))
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return append(appendBytesHead(b, num, len(v)), v...)
}

// buffers joins a head and the bytes that follow it.
func buffers(head, data []byte) mem.BufferSlice {
	out := make(mem.BufferSlice, 0, 2)
	if len(head) > 0 {
		out = append(out, mem.SliceBuffer(head))
	}
	if len(data) > 0 {
		out = append(out, mem.SliceBuffer(data))
	}
	return out
}

// MarshalBuffers implements codec.BufferMarshaler.
func (m *WriteRequest) MarshalBuffers() mem.BufferSlice {
	b := make([]byte, 0, 72)
	b = appendUint(b, 1, m.Writer)
	b = appendBytes(b, 2, m.Token)
	b = appendUint(b, 3, m.Epoch)
	b = appendUint(b, 4, m.Seq)
	if len(m.Record) > 0 {
		b = appendBytesHead(b, 5, len(m.Record))
	}
	return buffers(b, m.Record)
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *WriteRequest) UnmarshalBuffers(data mem.BufferSlice) error {
	return fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, readUint(r, typ, &m.Writer)
		case 2:
			return true, readBytes(r, typ, &m.Token)
		case 3:
			return true, readUint(r, typ, &m.Epoch)
		case 4:
			return true, readUint(r, typ, &m.Seq)
		case 5:
			return true, readBytes(r, typ, &m.Record)
		}
		return false, nil
	})
}

// MarshalBuffers implements codec.BufferMarshaler.
func (m *ReadResponse) MarshalBuffers() mem.BufferSlice {
	n := 16
	for _, p := range m.Present {
		n += len(p) + 8
	}
	head := appendUint(make([]byte, 0, n), 1, m.Index)
	for _, p := range m.Present {
		head = append(appendBytesHead(head, 3, len(p)), p...)
	}
	out := make(mem.BufferSlice, 0, 1+2*len(m.Data))
	for _, d := range m.Data {
		head = appendBytesHead(head, 2, len(d))
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
	return fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, readUint(r, typ, &m.Index)
		case 2:
			m.Data = append(m.Data, nil)
			return true, readBytes(r, typ, &m.Data[len(m.Data)-1])
		case 3:
			m.Present = append(m.Present, nil)
			return true, readBytes(r, typ, &m.Present[len(m.Present)-1])
		}
		return false, nil
	})
}

// MarshalBuffers implements codec.BufferMarshaler.
func (m *FetchChunkResponse) MarshalBuffers() mem.BufferSlice {
	b := make([]byte, 0, 40+len(m.Present))
	b = appendUint(b, 1, m.LastIndex)
	b = appendUint(b, 2, m.Applied)
	b = appendBytes(b, 3, m.Present)
	if len(m.Data) > 0 {
		b = appendBytesHead(b, 4, len(m.Data))
	}
	return buffers(b, m.Data)
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *FetchChunkResponse) UnmarshalBuffers(data mem.BufferSlice) error {
	return fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, readUint(r, typ, &m.LastIndex)
		case 2:
			return true, readUint(r, typ, &m.Applied)
		case 3:
			return true, readBytes(r, typ, &m.Present)
		case 4:
			return true, readBytes(r, typ, &m.Data)
		}
		return false, nil
	})
}

// fields calls f for each field; f says whether it knew, and read, it.
func fields(data mem.BufferSlice, f func(*codec.Reader, protowire.Number, protowire.Type) (bool, error)) error {
	r := codec.NewReader(data)
	for r.More() {
		num, typ, err := r.Tag()
		if err != nil {
			return err
		}
		known, err := f(r, num, typ)
		if err == nil && !known {
			err = r.Skip(typ)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func readUint(r *codec.Reader, typ protowire.Type, to *uint64) (err error) {
	if err = codec.Want(typ, protowire.VarintType); err == nil {
		*to, err = r.Uvarint()
	}
	return err
}

func readBytes(r *codec.Reader, typ protowire.Type, to *[]byte) (err error) {
	if err = codec.Want(typ, protowire.BytesType); err == nil {
		*to, err = r.Bytes()
	}
	return err
}
