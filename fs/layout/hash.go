package layout

import (
	"encoding/binary"
	"math/bits"
)

// A name's position in its directory has positionBits bits: the hash of the name,
// the low sequenceBits of it replaced by a sequence number that tells names of equal hash apart.
const (
	positionBits  = 62
	sequenceBits  = 8
	sequenceMax   = 1<<sequenceBits - 1
	positionLimit = uint64(1) << positionBits
)

// hashName is SipHash-2-4 of name under a key made of a directory's seed:
// without the seed nobody can choose names that collide.
func hashName(seed uint64, name string) uint64 {
	return sipHash(seed, seed*0x9e3779b97f4a7c15^0x6a09e667f3bcc908, name)
}

// sipHash is SipHash-2-4 (Aumasson, Bernstein 2012) of s under the key (k0, k1).
func sipHash(k0, k1 uint64, s string) uint64 {
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	absorb := func(m uint64) {
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	var tail [8]byte
	tail[7] = byte(len(s))
	for ; len(s) >= 8; s = s[8:] {
		absorb(uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56)
	}
	copy(tail[:7], s)
	absorb(binary.LittleEndian.Uint64(tail[:]))
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}

// bucketOf is the bucket of position pos among n > 0 buckets: linear hashing on
// the bit-reversed position, so that bucket b holds one interval of positions.
func bucketOf(pos, n uint64) uint64 {
	r := bits.Reverse64(pos) >> (64 - positionBits)
	level := bits.Len64(n) - 1
	if b := r & (1<<(level+1) - 1); b < n {
		return b
	}
	return r & (1<<level - 1)
}

// bucketInterval is the interval [first, end) of positions that bucket b of n holds.
func bucketInterval(b, n uint64) (first, end uint64) {
	level := bits.Len64(n) - 1
	if b|1<<level < n || b>>level != 0 { // split already in this round
		level++
	}
	first = bits.Reverse64(b) >> (64 - positionBits)
	return first, first + positionLimit>>level
}
