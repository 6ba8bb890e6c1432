package fs

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"syscall"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

// format makes the superblock and the root directory, in one record, if the store
// holds no file system; the lock of the root's inode guards it. A store of another or newer format is refused.
func (ss *session) format(ctx context.Context) error {
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	var p pins
	if err := ss.lock(bctx, &p, shared(layout.RootIno)); err != nil {
		return err
	}
	_, err := ss.readSuper(bctx)
	p.unlock()
	if !errors.Is(err, errors.KindNotExist) {
		return err
	}
	if err := ss.lock(bctx, &p, exclusive(layout.RootIno)); err != nil {
		return err
	}
	defer p.unlock()
	if _, err := ss.readSuper(bctx); !errors.Is(err, errors.KindNotExist) {
		return err
	}
	super := layout.Super{Made: layout.TimeOf(ss.s.opts.Now()), RootMade: true}
	if _, err := rand.Read(super.UUID[:]); err != nil {
		return err
	}
	o := &ss.s.opts
	root := &layout.Inode{Ino: layout.RootIno, Mode: syscall.S_IFDIR | o.RootMode, UID: o.RootUID, GID: o.RootGID}
	root.NewDir(layout.RootIno, randomSeed())
	root.Atime, root.Mtime, root.Ctime, root.Btime = super.Made, super.Made, super.Made, super.Made
	t := ss.newTx()
	defer t.done()
	t.create(p.of(layout.RootIno), root)
	t.delta++
	t.op.Ranges = append(t.op.Ranges, wal.Range{Addr: layout.SuperAddr(), Data: super.Encode()})
	if err := t.commit(bctx); err != nil {
		return err
	}
	return ss.flush(bctx, t.gen)
}

func (ss *session) readSuper(ctx context.Context) (*layout.Super, error) {
	a := layout.SuperAddr()
	res, err := ss.read(ctx, []blockstore.ReadSpan{{VDisk: a.VDisk, Block: a.Block, Count: 1}}, ss.minIndex(lockserver.LockID(layout.RootIno)))
	if err != nil {
		return nil, err
	}
	return layout.DecodeSuper(res[0].Data)
}

func randomSeed() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}
