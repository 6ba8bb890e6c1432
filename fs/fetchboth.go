package fs

import (
	"context"

	"dfs/blockstore"
	"dfs/fs/layout"
)

// alongMax is how many blocks are read along with an inode at most.
const alongMax = 64

// loadAlong is load, with the blocks [first, first+count) of the file in the same question where the inode has to be read anyway
// and its bytes stood in blocks when it was seen last: a file that is handed over is read in one round trip.
func (ss *session) loadAlong(ctx context.Context, n *node, first, count uint64) (*layout.Inode, error) {
	if n.in.Load() != nil || count == 0 || !n.inBlocks.Load() {
		return ss.load(ctx, n)
	}
	if err := ss.flushZeros(ctx, n); err != nil {
		return nil, err
	}
	l := &load{done: make(chan struct{})}
	frames := ss.cache.claim(layout.DataAddr(n.ino, first), int(min(count, alongMax)), l)
	if len(frames) == 0 {
		return ss.load(ctx, n)
	}
	a := layout.InodeAddr(n.ino)
	res, err := ss.read(ctx, []blockstore.ReadSpan{{VDisk: a.VDisk, Block: a.Block, Count: 1}, {VDisk: n.ino, Block: first, Count: uint64(len(frames))}}, ss.minIndex(n.id()))
	if err == nil {
		for i, f := range frames {
			copy(f.buf, res[1].Data[i*blockSize:])
		}
	}
	ss.cache.loaded(frames, l, err)
	if err != nil {
		return nil, err
	}
	ss.cache.unref(frames...)
	in, err := decodeInode(n.ino, res[0].Data)
	if err != nil {
		return nil, err
	}
	n.loaded(in)
	return in, nil
}

// noteRead remembers what was read, for loadLikely. Long reads have a pace of their own.
func (n *node) noteRead(first, count uint64) {
	const countMax = 8
	if count > countMax || first >= 1<<56 {
		first, count = 0, 0
	}
	n.lastRead.Store(first<<8 | count)
}

// loadLikely is load for one who asks for attributes: a kernel that does so before it reads what it read before finds that here.
func (ss *session) loadLikely(ctx context.Context, n *node) (*layout.Inode, error) {
	last := n.lastRead.Load()
	return ss.loadAlong(ctx, n, last>>8, last&0xff)
}

// loaded takes an inode that was read. The caller has n pinned and locked.
func (n *node) loaded(in *layout.Inode) {
	n.in.Store(in)
	n.inBlocks.Store(in.IsRegular() && in.Flags&layout.FlagInline == 0 && in.Blocks > 0)
	if in.Blocks == 0 {
		n.pres.allAbsent()
	}
}
