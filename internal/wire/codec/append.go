package codec

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// What messages need that encode and decode themselves.

// AppendUint appends an unsigned field; 0 is left out.
func AppendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

// AppendBytesHead appends all of a bytes field but its n bytes.
func AppendBytesHead(b []byte, num protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.BytesType), uint64(n))
}

// AppendBytes appends a bytes field; an empty one is left out.
func AppendBytes(b []byte, num protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return append(AppendBytesHead(b, num, len(v)), v...)
}

// Join gives head and the data that follows it, which is not copied.
func Join(head, data []byte) mem.BufferSlice {
	out := make(mem.BufferSlice, 0, 2)
	if len(head) > 0 {
		out = append(out, mem.SliceBuffer(head))
	}
	if len(data) > 0 {
		out = append(out, mem.SliceBuffer(data))
	}
	return out
}

// ReadUint reads an unsigned field's value.
func ReadUint(r *Reader, typ protowire.Type, to *uint64) (err error) {
	if err = Want(typ, protowire.VarintType); err == nil {
		*to, err = r.Uvarint()
	}
	return err
}

// ReadBytes reads a bytes field's value.
func ReadBytes(r *Reader, typ protowire.Type, to *[]byte) (err error) {
	if err = Want(typ, protowire.BytesType); err == nil {
		*to, err = r.Bytes()
	}
	return err
}

// ReadBytesBehind reads a bytes field's value into a buffer that has room bytes free before it.
func ReadBytesBehind(r *Reader, typ protowire.Type, room int, buffer, to *[]byte) (err error) {
	if err = Want(typ, protowire.BytesType); err == nil {
		*buffer, *to, err = r.bytesBehind(room)
	}
	return err
}

// Fields calls f for every field of a message; fields of which f says that it does not
// know them are passed over.
func Fields(data mem.BufferSlice, f func(r *Reader, num protowire.Number, typ protowire.Type) (known bool, err error)) error {
	r := NewReader(data)
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
