package codec

import (
	"errors"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed is what a Reader says of bytes that are not protobuf.
var ErrMalformed = errors.New("malformed protobuf message")

// Reader reads a protobuf encoding that lies in several buffers. It never
// allocates more than the bytes that are there. It keeps no reference.
type Reader struct {
	rest mem.BufferSlice // buffers not begun
	cur  []byte          // what is left of the current one
	left int             // bytes left over all
}

// NewReader starts at the beginning of data.
func NewReader(data mem.BufferSlice) *Reader { return &Reader{rest: data, left: data.Len()} }

// More reports whether bytes are left.
func (r *Reader) More() bool { return r.left > 0 }

// fill makes cur non-empty; r.left > 0.
func (r *Reader) fill() {
	for len(r.cur) == 0 {
		r.cur = r.rest[0].ReadOnlyData()
		r.rest = r.rest[1:]
	}
}

// Uvarint reads a varint.
func (r *Reader) Uvarint() (uint64, error) {
	var v uint64
	for shift := uint(0); shift < 70; shift += 7 {
		if r.left == 0 {
			return 0, ErrMalformed
		}
		r.fill()
		b := r.cur[0]
		r.cur, r.left = r.cur[1:], r.left-1
		if shift == 63 && b > 1 {
			return 0, ErrMalformed
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v, nil
		}
	}
	return 0, ErrMalformed
}

// Tag reads a field's number and type.
func (r *Reader) Tag() (protowire.Number, protowire.Type, error) {
	v, err := r.Uvarint()
	if err != nil {
		return 0, 0, err
	}
	num, typ := protowire.DecodeTag(v)
	if num < protowire.MinValidNumber {
		return 0, 0, ErrMalformed
	}
	return num, typ, nil
}

// Bytes reads a length and as many bytes, into a slice of their own.
func (r *Reader) Bytes() ([]byte, error) {
	_, out, err := r.bytesBehind(0)
	return out, err
}

// bytesBehind is Bytes with room bytes free before them: buffer is both.
func (r *Reader) bytesBehind(room int) (buffer, out []byte, err error) {
	n, err := r.length()
	if err != nil {
		return nil, nil, err
	}
	buffer = make([]byte, room+n)
	out = buffer[room:]
	r.fillInto(out)
	return buffer, out, nil
}

// Into reads a length and as many bytes into dst, and returns how many; ErrMalformed
// if dst is too short.
func (r *Reader) Into(dst []byte) (int, error) {
	n, err := r.length()
	if err != nil {
		return 0, err
	}
	if n > len(dst) {
		return 0, ErrMalformed
	}
	r.fillInto(dst[:n])
	return n, nil
}

// fillInto fills dst; so many bytes are left.
func (r *Reader) fillInto(dst []byte) {
	for off := 0; off < len(dst); {
		r.fill()
		k := copy(dst[off:], r.cur)
		r.cur, off = r.cur[k:], off+k
	}
	r.left -= len(dst)
}

// length reads a length that the bytes left can satisfy.
func (r *Reader) length() (int, error) {
	v, err := r.Uvarint()
	if err != nil {
		return 0, err
	}
	if v > uint64(r.left) {
		return 0, ErrMalformed
	}
	return int(v), nil
}

// Skip passes over a field of type typ that the message does not know.
func (r *Reader) Skip(typ protowire.Type) error {
	n := 0
	switch typ {
	case protowire.VarintType:
		_, err := r.Uvarint()
		return err
	case protowire.Fixed32Type:
		n = 4
	case protowire.Fixed64Type:
		n = 8
	case protowire.BytesType:
		var err error
		if n, err = r.length(); err != nil {
			return err
		}
	default:
		return ErrMalformed // groups: dfs has none
	}
	if n > r.left {
		return ErrMalformed
	}
	r.left -= n
	for n > 0 {
		if len(r.cur) == 0 {
			r.cur, r.rest = r.rest[0].ReadOnlyData(), r.rest[1:]
			continue
		}
		k := min(n, len(r.cur))
		r.cur, n = r.cur[k:], n-k
	}
	return nil
}

// Want returns nil if typ is the one that the field should have.
func Want(typ, want protowire.Type) error {
	if typ != want {
		return ErrMalformed
	}
	return nil
}
