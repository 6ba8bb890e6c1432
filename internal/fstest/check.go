package fstest

import (
	"cmp"
	"context"
	"slices"

	"dfs/blockstore"
	"dfs/wal"
)

// Checked is the disk as the checker (package fsck) reads it.
type Checked struct{ d *Disk }

// Checked returns a reader for the checker.
func (d *Disk) Checked() Checked { return Checked{d} }

func chunkOf(block uint64) uint64 {
	switch {
	case block < 16:
		return 0
	case block < 256:
		return 1
	}
	return block/256 + 1
}

func compareChunks(a, b blockstore.ChunkInfo) int {
	return cmp.Or(cmp.Compare(a.VDisk, b.VDisk), cmp.Compare(a.Chunk, b.Chunk))
}

// Chunks lists the chunks with present blocks.
func (c Checked) Chunks(ctx context.Context, after *blockstore.ChunkID, limit int) ([]blockstore.ChunkInfo, error) {
	seen := map[blockstore.ChunkID]bool{}
	c.d.Each(func(a wal.Addr, _ []byte) { seen[blockstore.ChunkID{VDisk: a.VDisk, Chunk: chunkOf(a.Block)}] = true })
	var out []blockstore.ChunkInfo
	for id := range seen {
		i := blockstore.ChunkInfo{ChunkID: id}
		if after == nil || compareChunks(i, blockstore.ChunkInfo{ChunkID: *after}) > 0 {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, compareChunks)
	return out[:min(limit, len(out))], nil
}

// Presence tells which blocks are there.
func (c Checked) Presence(ctx context.Context, span wal.Span) ([]byte, error) {
	_, present, err := c.Read(ctx, span)
	return present, err
}

// Read returns blocks.
func (c Checked) Read(ctx context.Context, span wal.Span) (data, present []byte, err error) {
	data, present = make([]byte, span.Count*wal.BlockSize), make([]byte, (span.Count+7)/8)
	for i := range span.Count {
		if b := c.d.Block(wal.Addr{VDisk: span.VDisk, Block: span.Block + i}); b != nil {
			copy(data[i*wal.BlockSize:], b)
			present[i/8] |= 1 << (i % 8)
		}
	}
	return data, present, nil
}
