package filepb

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
	_ codec.BufferMarshaler   = (*DataResponse)(nil)
	_ codec.BufferUnmarshaler = (*DataResponse)(nil)
	_ codec.BufferUnmarshaler = (*DataInto)(nil)
)

// MarshalBuffers implements codec.BufferMarshaler.
func (m *WriteRequest) MarshalBuffers() mem.BufferSlice {
	b := make([]byte, 0, 64)
	if h := m.Handle; h != nil {
		handle := codec.AppendUint(codec.AppendBytes(make([]byte, 0, 32), 1, h.Client), 2, h.Number)
		b = append(codec.AppendBytesHead(b, 1, len(handle)), handle...)
	}
	b = codec.AppendUint(b, 2, m.Offset)
	b = codec.AppendUint(b, 4, uint64(m.Flags))
	if len(m.Data) > 0 {
		b = codec.AppendBytesHead(b, 3, len(m.Data))
	}
	return codec.Join(b, m.Data)
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *WriteRequest) UnmarshalBuffers(data mem.BufferSlice) error {
	return codec.Fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			if m.Handle == nil {
				m.Handle = &Handle{}
			}
			return true, readHandle(r, typ, m.Handle)
		case 2:
			return true, codec.ReadUint(r, typ, &m.Offset)
		case 3:
			return true, codec.ReadBytes(r, typ, &m.Data)
		case 4:
			var flags uint64
			err := codec.ReadUint(r, typ, &flags)
			m.Flags = uint32(flags)
			return true, err
		}
		return false, nil
	})
}

func readHandle(r *codec.Reader, typ protowire.Type, to *Handle) error {
	var b []byte
	if err := codec.ReadBytes(r, typ, &b); err != nil {
		return err
	}
	return codec.Fields(mem.BufferSlice{mem.SliceBuffer(b)}, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		switch num {
		case 1:
			return true, codec.ReadBytes(r, typ, &to.Client)
		case 2:
			return true, codec.ReadUint(r, typ, &to.Number)
		}
		return false, nil
	})
}

// MarshalBuffers implements codec.BufferMarshaler.
func (m *DataResponse) MarshalBuffers() mem.BufferSlice {
	if len(m.Data) == 0 {
		return nil
	}
	return codec.Join(codec.AppendBytesHead(make([]byte, 0, 8), 1, len(m.Data)), m.Data)
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *DataResponse) UnmarshalBuffers(data mem.BufferSlice) error {
	return codec.Fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		if num != 1 {
			return false, nil
		}
		return true, codec.ReadBytes(r, typ, &m.Data)
	})
}

// DataInto receives a DataResponse into memory of the caller's: its first N bytes. An answer
// that does not fit is an error.
type DataInto struct {
	Data []byte
	N    int
}

// UnmarshalBuffers implements codec.BufferUnmarshaler.
func (m *DataInto) UnmarshalBuffers(data mem.BufferSlice) error {
	return codec.Fields(data, func(r *codec.Reader, num protowire.Number, typ protowire.Type) (bool, error) {
		if num != 1 {
			return false, nil
		}
		err := codec.Want(typ, protowire.BytesType)
		if err == nil {
			m.N, err = r.Into(m.Data)
		}
		return true, err
	})
}
