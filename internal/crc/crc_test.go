package crc

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

func TestJoin(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		p := make([]byte, r.IntN(50)+BlockSize)
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		n := len(p) - BlockSize
		want := crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli))
		if got := Join(Checksum(p[:n]), Checksum(p[n:])); got != want {
			t.Fatalf("%d bytes and a block: %08x, not %08x", n, got, want)
		}
		if got := Update(Checksum(p[:n]), p[n:]); got != want {
			t.Fatalf("%d bytes and a block, one behind the other: %08x, not %08x", n, got, want)
		}
	}
}

func BenchmarkJoin(b *testing.B) {
	s := uint32(1)
	for b.Loop() {
		s = Join(s, 7)
	}
}
