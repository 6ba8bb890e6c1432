package fs

import (
	"context"
	"sync"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// admitSmall is what a metadata operation asks the log for, in bytes.
const admitSmall = 16 << 10

// tx collects the changes of one operation: private copies of inodes and metadata
// blocks, file data, and what is trimmed. Nothing outside sees them before commit; an
// operation that fails just calls done.
type tx struct {
	ss     *session
	op     wal.Op
	inodes []txInode
	blocks []txBlock
	data   []txData
	trims  []txTrim
	marks  []txMark
	orph   []txOrphan
	delta  int64 // beyond the changes of Inode.Blocks: inode blocks and orphan pages
	refs   []*frame
	bufs   []*[blockSize]byte
	gen    wal.Gen
	done_  bool
	known  bool // its unlinked inode is left to the kernel: see knownTable
	// completion is what it means for the thin client's request that it is part of.
	completion completion
}

type txInode struct {
	n     *node
	old   *layout.Inode // nil: made by this operation
	new   *layout.Inode
	freed bool
}

// txBlock is a block of an inode's vdisk that goes through the overlay.
type txBlock struct {
	addr   wal.Addr
	old    []byte // content before, nil if not known
	absent bool   // known to be absent before
	data   []byte // content now; nil: unchanged
	freed  bool
	meta   bool
}

// txData is a run of whole blocks that goes straight from the caller's buffer.
type txData struct {
	addr wal.Addr
	data []byte
}

type txTrim struct {
	span wal.Span
	zero bool // zeros rather than absent
}

type txMark struct {
	n            *node
	first, count uint64
	present      bool
	toEnd        bool
}

func (ss *session) newTx() *tx {
	t := txPool.Get().(*tx)
	t.ss = ss
	t.done_ = false
	return t
}

var (
	txPool  = sync.Pool{New: func() any { return new(tx) }}
	bufPool = sync.Pool{New: func() any { return new([blockSize]byte) }}
)

// done gives up what the tx holds; every newTx is paired with one, after commit or instead of it.
func (t *tx) done() {
	if t.done_ {
		return
	}
	if len(t.refs) > 0 {
		t.ss.cache.unref(t.refs...)
	}
	for _, b := range t.bufs {
		bufPool.Put(b)
	}
	clear(t.inodes)
	clear(t.blocks)
	clear(t.data)
	clear(t.refs)
	clear(t.bufs)
	clear(t.marks)
	clear(t.op.Ranges)
	*t = tx{
		inodes: t.inodes[:0], blocks: t.blocks[:0], data: t.data[:0], trims: t.trims[:0], marks: t.marks[:0],
		orph: t.orph[:0], refs: t.refs[:0], bufs: t.bufs[:0], done_: true,
		op: wal.Op{Record: wal.Record{Ranges: t.op.Ranges[:0]}},
	}
	txPool.Put(t)
}

// buf is a scratch block that lives as long as the tx.
func (t *tx) buf() []byte {
	b := bufPool.Get().(*[blockSize]byte)
	t.bufs = append(t.bufs, b)
	return b[:]
}

// edit returns the operation's copy of n's inode, which is loaded and locked exclusive.
func (t *tx) edit(n *node) *layout.Inode {
	for i := range t.inodes {
		if t.inodes[i].n == n {
			return t.inodes[i].new
		}
	}
	old := n.in.Load()
	c := *old
	t.inodes = append(t.inodes, txInode{n: n, old: old, new: &c})
	return &c
}

// create makes in the inode of n.
func (t *tx) create(n *node, in *layout.Inode) {
	t.inodes = append(t.inodes, txInode{n: n, new: in})
	t.delta++
}

// free makes n's inode absent, with all its blocks.
func (t *tx) free(n *node) {
	t.edit(n)
	for i := range t.inodes {
		if ti := &t.inodes[i]; ti.n == n {
			ti.freed = true
			if ti.new.Blocks > 0 {
				t.trims = append(t.trims, txTrim{span: wal.Span{VDisk: n.ino, Block: 0, Count: layout.XattrEnd}})
			}
			ti.new.Blocks = 0
			t.delta--
		}
	}
}

// vdisk is an inode's vdisk as layout.Blocks, through the overlay.
type vdisk struct {
	ctx  context.Context
	t    *tx
	n    *node
	meta bool
}

func (t *tx) vdisk(ctx context.Context, n *node) *vdisk { return &vdisk{ctx, t, n, true} }

// dir opens n's directory for changes.
func (t *tx) dir(ctx context.Context, n *node) *layout.Dir {
	return layout.OpenDir(t.edit(n), t.vdisk(ctx, n))
}

func (t *tx) block(a wal.Addr) *txBlock {
	for i := range t.blocks {
		if t.blocks[i].addr == a {
			return &t.blocks[i]
		}
	}
	return nil
}

// Get returns a block as the operation sees it.
func (v *vdisk) Get(block uint64) ([]byte, error) {
	a := layout.DataAddr(v.n.ino, block)
	b := v.t.block(a)
	if b == nil {
		f, err := v.t.ss.fetchFrame(v.ctx, v.n, a, v.meta)
		if err != nil {
			return nil, err
		}
		v.t.refs = append(v.t.refs, f)
		v.t.blocks = append(v.t.blocks, txBlock{addr: a, old: f.buf, meta: v.meta})
		return f.buf, nil
	}
	switch {
	case b.data != nil:
		return b.data, nil
	case b.freed || b.absent:
		return zeroBlock[:], nil
	}
	return b.old, nil
}

// Put replaces a block.
func (v *vdisk) Put(block uint64, data []byte) {
	a := layout.DataAddr(v.n.ino, block)
	b := v.t.block(a)
	if b == nil {
		v.t.blocks = append(v.t.blocks, txBlock{addr: a, meta: v.meta})
		b = &v.t.blocks[len(v.t.blocks)-1]
	}
	b.data, b.freed = data, false
}

// Free makes a block absent.
func (v *vdisk) Free(block uint64) {
	a := layout.DataAddr(v.n.ino, block)
	b := v.t.block(a)
	if b == nil {
		v.t.blocks = append(v.t.blocks, txBlock{addr: a})
		b = &v.t.blocks[len(v.t.blocks)-1]
	}
	b.data, b.freed = nil, true
}

// zeroBlock is never written.
var zeroBlock [blockSize]byte

// fetchFrame returns block a of n's vdisk in the cache, with a reference.
func (ss *session) fetchFrame(ctx context.Context, n *node, a wal.Addr, meta bool) (*frame, error) {
	for {
		f, err := ss.cache.get(ctx, a)
		if f != nil || err != nil {
			return f, err
		}
		l := &load{done: make(chan struct{})}
		frames := ss.cache.claim(a, 1, l)
		if len(frames) == 0 {
			continue
		}
		data, err := ss.fetchBlock(ctx, a, ss.minIndex(n.id()))
		if err == nil {
			copy(frames[0].buf, data)
		}
		ss.cache.loaded(frames, l, err)
		if err != nil {
			return nil, err
		}
		if meta {
			ss.cache.protect(frames[0])
		}
		return frames[0], nil
	}
}

// commit hands the operation over, whole: after it the caches show it, and it will be durable
// before anything that is committed later. On an error nothing happened. KindNoSpace.
func (t *tx) commit(ctx context.Context) error {
	ss := t.ss
	if q := onceOf(ctx); q != nil {
		if err := q.enter(ctx, t); err != nil {
			return err
		}
		defer q.leave()
	}
	delta := t.delta
	for i := range t.inodes {
		delta += t.inodes[i].blocksDelta()
	}
	t.assemble()
	taken := max(0, delta+int64(len(t.orph)))
	if err := ss.reserve(ctx, taken); err != nil {
		return err
	}
	if err := t.hand(delta, taken); err != nil {
		ss.space.give(taken)
		return err
	}
	t.swap()
	return nil
}

func (ti *txInode) blocksDelta() int64 {
	if ti.old == nil {
		return int64(ti.new.Blocks)
	}
	return int64(ti.new.Blocks) - int64(ti.old.Blocks)
}

// assemble builds the record from what was collected.
func (t *tx) assemble() {
	op := &t.op
	for _, tr := range t.trims {
		if tr.zero {
			op.Zeros = append(op.Zeros, tr.span)
		} else {
			op.Trims = append(op.Trims, tr.span)
		}
	}
	for _, d := range t.data {
		a := d.addr
		for off := 0; off < len(d.data); off += blockSize {
			op.Ranges = append(op.Ranges, wal.Range{Addr: a, Data: d.data[off : off+blockSize : off+blockSize]})
			a.Block++
		}
	}
	for i := range t.blocks {
		t.assembleBlock(&t.blocks[i])
	}
	for i := range t.inodes {
		t.assembleInode(&t.inodes[i])
	}
}

func (t *tx) assembleBlock(b *txBlock) {
	op := &t.op
	switch {
	case b.freed:
		op.Trims = append(op.Trims, wal.Span{VDisk: b.addr.VDisk, Block: b.addr.Block, Count: 1})
	case b.data == nil:
	case b.absent:
		op.Ranges = append(op.Ranges, layout.DiffRanges(b.addr, nil, b.data)...)
	case b.old != nil:
		op.Ranges = append(op.Ranges, layout.DiffRanges(b.addr, b.old, b.data)...)
	default:
		op.Ranges = append(op.Ranges, wal.Range{Addr: b.addr, Data: b.data})
	}
}

func (t *tx) assembleInode(ti *txInode) {
	op, a := &t.op, layout.InodeAddr(ti.n.ino)
	if ti.freed {
		if ti.old != nil {
			op.Trims = append(op.Trims, wal.Span{VDisk: a.VDisk, Block: a.Block, Count: 1})
		}
		return
	}
	fresh := t.buf()
	ti.new.Change++
	ti.new.EncodeInto(fresh)
	if ti.old == nil {
		op.Ranges = append(op.Ranges, layout.DiffRanges(a, nil, fresh)...)
		return
	}
	// Bytes that decoding does not tell apart need no change: so the old block need not be at hand.
	before := t.buf()
	ti.old.EncodeInto(before)
	op.Ranges = append(op.Ranges, layout.DiffRanges(a, before, fresh)...)
}

// hand gives the record to the log, in the order of commitMu.
func (t *tx) hand(delta, taken int64) error {
	ss := t.ss
	ss.commitMu.Lock()
	defer ss.commitMu.Unlock()
	if ss.ctx.Err() != nil {
		return errors.Of(errors.KindSessionEnded)
	}
	pages := ss.orph.assign(t)
	t.op.AllocDelta = delta + pages
	gen, err := ss.be.Log.Commit(&t.op)
	if err != nil {
		ss.orph.unassign(t)
		if isSessionEnd(err) {
			return errors.New(errors.KindSessionEnded, "the session with the cluster is over: %w", err)
		}
		return err
	}
	t.gen = gen
	ss.space.account(gen, delta+pages, taken)
	ss.orph.committed(t, gen)
	return nil
}

// swap makes the caches show the operation. The locks of all inodes concerned are held exclusive.
func (t *tx) swap() {
	c := t.ss.cache
	for _, tr := range t.trims {
		if tr.zero {
			for i := range t.inodes {
				if t.inodes[i].n.ino == tr.span.VDisk {
					t.inodes[i].n.zeroGen.Store(uint64(t.gen))
				}
			}
		}
		c.drop(tr.span.VDisk, tr.span.Block, tr.span.Block+tr.span.Count)
	}
	for _, d := range t.data {
		c.putRun(d.addr, d.data, t.gen)
	}
	for i := range t.blocks {
		b := &t.blocks[i]
		if b.freed {
			c.drop(b.addr.VDisk, b.addr.Block, b.addr.Block+1)
		} else if b.data != nil {
			c.put(b.addr, b.data, t.gen, b.meta)
		}
	}
	for _, m := range t.marks {
		if m.toEnd {
			m.n.pres.trimmedFrom(m.first)
		} else {
			m.n.pres.mark(m.first, m.count, m.present)
		}
	}
	for i := range t.inodes {
		ti := &t.inodes[i]
		if ti.freed {
			ti.n.in.Store(freedInode)
			ti.n.pres.reset()
		} else {
			if ti.old == nil {
				ti.n.pres.allAbsent()
			}
			ti.n.in.Store(ti.new)
		}
		ti.n.touched(t.gen)
	}
}
