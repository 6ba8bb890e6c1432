package device

import (
	"math"

	"dfs/blockstore"
	"dfs/wal"
)

// The geometry of chunks; blockstore.ChunkID states it. All arithmetic on it is in this file.
const (
	blockSize = wal.BlockSize

	smallBlocks = 16  // blocks of chunk 0, and of a small window
	largeBlocks = 256 // blocks of a large window
)

// chunkOf returns the chunk that holds block.
func chunkOf(vdisk, block uint64) blockstore.ChunkID {
	if block < smallBlocks {
		return blockstore.ChunkID{VDisk: vdisk}
	}
	return blockstore.ChunkID{VDisk: vdisk, Chunk: block/largeBlocks + 1}
}

// chunkFirst returns the first block of chunk n.
func chunkFirst(n uint64) uint64 {
	switch n {
	case 0:
		return 0
	case 1:
		return smallBlocks
	}
	return (n - 1) * largeBlocks
}

// chunkBlocks returns the number of blocks of chunk n.
func chunkBlocks(n uint64) int {
	switch n {
	case 0:
		return smallBlocks
	case 1:
		return largeBlocks - smallBlocks
	}
	return largeBlocks
}

// chunkMax is the greatest chunk number there is.
const chunkMax = math.MaxUint64/largeBlocks + 1

// spanValid tells whether s ends within the block numbers.
func spanValid(s wal.Span) bool { return s.Count <= math.MaxUint64-s.Block }

// piece is the part of a span that lies in one chunk: slots [lo, hi) of it.
type piece struct {
	id     blockstore.ChunkID
	lo, hi int
}

// whole tells whether p covers its chunk.
func (p piece) whole() bool { return p.lo == 0 && p.hi == chunkBlocks(p.id.Chunk) }

// pieceIn returns the part of s in chunk n, which s must touch.
func pieceIn(s wal.Span, n uint64) piece {
	first, count := chunkFirst(n), uint64(chunkBlocks(n))
	p := piece{id: blockstore.ChunkID{VDisk: s.VDisk, Chunk: n}, hi: int(count)}
	if s.Block > first {
		p.lo = int(s.Block - first)
	}
	if end := s.Block + s.Count; end-first < count {
		p.hi = int(end - first)
	}
	return p
}

// chunkSpan returns the first and last chunk that s touches. s must be valid and not empty.
func chunkSpan(s wal.Span) (lo, hi uint64) {
	return chunkOf(s.VDisk, s.Block).Chunk, chunkOf(s.VDisk, s.Block+s.Count-1).Chunk
}

// less orders chunks by vdisk, then number.
func less(a, b blockstore.ChunkID) bool {
	if a.VDisk != b.VDisk {
		return a.VDisk < b.VDisk
	}
	return a.Chunk < b.Chunk
}
