// Package crc joins CRC32C sums, so that bytes that are part of several checksummed things are read once: the sum of a record is
// made of those of the blocks in it, and so is the sum that a block has on the disk.
package crc

import "hash/crc32"

// BlockSize is the only length of the second part that Join knows.
const BlockSize = 4096

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32C of p.
func Checksum(p []byte) uint32 { return crc32.Update(0, castagnoli, p) }

// Update is the CRC32C of bytes whose sum is before, and p behind them.
func Update(before uint32, p []byte) uint32 { return crc32.Update(before, castagnoli, p) }

// Join is the CRC32C of bytes whose sum is before, and BlockSize bytes behind them whose own sum is block. A CRC is
// linear: what came before is moved on by so many zero bytes, and what follows is added.
func Join(before, block uint32) uint32 {
	return behind[0][byte(before)] ^ behind[1][byte(before>>8)] ^ behind[2][byte(before>>16)] ^ behind[3][byte(before>>24)] ^ block
}

// behind is what a byte of a sum becomes when BlockSize zero bytes follow, for each of the four.
var behind = func() (t [4][256]uint32) {
	zeros := make([]byte, BlockSize)
	for i := range t {
		for bit := range 8 {
			// The library's sums begin and end inverted; that part is not linear and is taken off.
			t[i][1<<bit] = ^crc32.Update(^(uint32(1) << (8*i + bit)), castagnoli, zeros)
		}
		for b := range t[i] {
			if low := b & -b; b != low {
				t[i][b] = t[i][low] ^ t[i][b^low]
			}
		}
	}
	return t
}()
