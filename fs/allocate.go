package fs

import (
	"context"
	"syscall"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

// Linux's fallocate modes and lseek's whences.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
	seekData        = 3
	seekHole        = 4
)

// Allocate is fallocate(2): modes 0, KEEP_SIZE, PUNCH_HOLE|KEEP_SIZE, ZERO_RANGE and ZERO_RANGE|KEEP_SIZE. It goes in
// steps of trimWindow blocks, from the start; a size grows with its step.
func (s *Server) Allocate(ctx context.Context, id Handle, off, length uint64, mode uint32) error {
	h, err := s.handles.get(id)
	if err != nil {
		return err
	}
	if err := h.mayAllocate(off, length, mode); err != nil {
		return err
	}
	if err := h.takeLost(); err != nil {
		return err
	}
	err = s.do(ctx, func(ss *session) error {
		h.hold(ss)
		if err := ss.admit(ctx, admitSmall); err != nil {
			return err
		}
		return ss.do1(ctx, exclusive(h.ino), func(n *node) error {
			defer n.rv.settle()
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if !in.IsRegular() {
				return errors.Of(errors.KindNoDevice)
			}
			if err := ss.settleTruncate(ctx, n); err != nil {
				return err
			}
			end := off + length
			if mode&fallocPunchHole != 0 {
				// Blocks may lie behind the end; a hole far behind it costs one look for each trimWindow.
				if in = n.in.Load(); dataBlocks(in) == 0 {
					end = min(end, max(off+1, in.Size))
				}
			}
			if mode&fallocPunchHole == 0 {
				if err := ss.roomFor(ctx, n.in.Load(), length/blockSize); err != nil {
					return err
				}
			}
			if err := ss.allocateSteps(ctx, n, off, end, mode, h.killPriv); err != nil {
				return err
			}
			return ss.answer(ctx, true)
		})
	})
	if err == nil && h.sync() {
		return s.fsync(ctx, h)
	}
	return err
}

// allocateSteps does [off, end) window by window; a hole is punched only where there is something.
func (ss *session) allocateSteps(ctx context.Context, n *node, off, end uint64, mode uint32, killPriv bool) error {
	last := false
	for at := off; at < end; {
		stop := min(end, (at/(trimWindow*blockSize)+1)*(trimWindow*blockSize))
		last = stop == end
		if err := ss.allocateStep(ctx, n, at, stop, mode, killPriv, last); err != nil {
			return err
		}
		if at = stop; mode&fallocPunchHole != 0 && at < end {
			next, err := ss.nextPresent(ctx, n, at/blockSize, (end+blockSize-1)/blockSize)
			if err != nil {
				return err
			}
			at = max(at, next*blockSize)
		}
	}
	if last {
		return nil
	}
	return ss.complete(ctx)
}

// mayAllocate checks the arguments of Allocate.
func (h *handle) mayAllocate(off, length uint64, mode uint32) error {
	switch {
	case !h.mayWrite() || h.dir:
		return errors.Of(errors.KindBadHandle)
	case mode != 0 && mode != fallocKeepSize && mode != fallocPunchHole|fallocKeepSize &&
		mode != fallocZeroRange && mode != fallocZeroRange|fallocKeepSize:
		return errors.Of(errors.KindNotSupported)
	case length == 0:
		return errors.Of(errors.KindInvalid)
	case off > layout.MaxFileSize || length > layout.MaxFileSize-off:
		return errors.Of(errors.KindFileTooBig)
	}
	return nil
}

// roomFor refuses an allocation of so many blocks that it cannot fit, before it fills the store. KindNoSpace.
func (ss *session) roomFor(ctx context.Context, in *layout.Inode, blocks uint64) error {
	have := dataBlocks(in)
	if blocks <= trimWindow || blocks <= have {
		return nil
	}
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	sp, err := ss.be.Store.Space(bctx)
	if err != nil {
		return ss.waited(ctx, err, "asking for the space")
	}
	if free := sp.CapacityBlocks - min(sp.CapacityBlocks, sp.UsedBlocks); blocks-have > free {
		return errors.New(errors.KindNoSpace, "an allocation of %d blocks where %d are free", blocks, free)
	}
	return nil
}

// allocateStep does [off, end), within one window; last: that completes the call.
func (ss *session) allocateStep(ctx context.Context, n *node, off, end uint64, mode uint32, killPriv, last bool) error {
	t := ss.newTx()
	defer t.done()
	if last {
		t.completes(completion{})
	}
	in := t.edit(n)
	if err := ss.clearPriv(ctx, t, n, in, killPriv); err != nil {
		return err
	}
	ss.stampChange(in, true)
	if in.Flags&layout.FlagInline != 0 {
		done, err := allocateInline(ctx, t, n, in, off, end, mode)
		if !done {
			t.completion = completion{}
		}
		if err == nil {
			err = t.commit(ctx)
		}
		if done || err != nil {
			return err
		}
		// The data went to block 0 in a record of its own: zeros take effect before ranges in one record.
		return ss.allocateStep(ctx, n, off, end, mode, killPriv, last)
	}
	var err error
	switch {
	case mode&fallocPunchHole != 0:
		err = ss.punch(ctx, t, n, in, off, end)
	case mode&fallocZeroRange != 0:
		err = ss.zeroRange(ctx, t, n, in, off, end)
	default:
		err = ss.fillHoles(ctx, t, n, in, off/blockSize, (end+blockSize-1)/blockSize)
	}
	if err != nil {
		return err
	}
	if mode&fallocKeepSize == 0 {
		in.Size = max(in.Size, end)
	}
	return t.commit(ctx)
}

// allocateInline does what can be done to inline data; else it moves the data to block 0, done false.
func allocateInline(ctx context.Context, t *tx, n *node, in *layout.Inode, off, end uint64, mode uint32) (done bool, err error) {
	keep := mode&fallocKeepSize != 0
	if mode&fallocPunchHole == 0 && (end > uint64(in.InlineRoom()) || keep && end > in.Size) {
		return false, spillFile(ctx, t, n, in)
	}
	size := in.Size
	if !keep {
		size = max(size, end)
	}
	fresh := make([]byte, size)
	copy(fresh, in.Inline)
	if mode&(fallocPunchHole|fallocZeroRange) != 0 && off < size {
		clear(fresh[off:min(end, size)])
	}
	in.Inline, in.Size = fresh, size
	return true, nil
}

// zeroEdges zeroes the bytes of [off, end) in blocks that are covered in part, where they are present, and returns the whole blocks between.
func (ss *session) zeroEdges(ctx context.Context, t *tx, n *node, off, end uint64) (first, last uint64, err error) {
	first, last = (off+blockSize-1)/blockSize, end/blockSize
	zero := func(from, to uint64) error {
		b := from / blockSize
		if !t.spilled(n, b) {
			if there, err := ss.isPresent(ctx, n, b); err != nil || !there {
				return err
			}
		}
		return ss.patch(ctx, t, n, b, int(from%blockSize), zeroBlock[:to-from])
	}
	if first > last {
		return first, first, zero(off, end)
	}
	if off%blockSize != 0 {
		if err := zero(off, first*blockSize); err != nil {
			return 0, 0, err
		}
	}
	if end%blockSize != 0 {
		if err := zero(last*blockSize, end); err != nil {
			return 0, 0, err
		}
	}
	return first, last, nil
}

func (ss *session) punch(ctx context.Context, t *tx, n *node, in *layout.Inode, off, end uint64) error {
	first, last, err := ss.zeroEdges(ctx, t, n, off, end)
	if err != nil || first == last {
		return err
	}
	there, err := ss.present(ctx, n, first, last-first)
	if err != nil || there == 0 {
		return err
	}
	in.Blocks -= there
	t.trims = append(t.trims, txTrim{span: wal.Span{VDisk: n.ino, Block: first, Count: last - first}})
	t.marks = append(t.marks, txMark{n: n, first: first, count: last - first})
	return nil
}

func (ss *session) zeroRange(ctx context.Context, t *tx, n *node, in *layout.Inode, off, end uint64) error {
	first, last, err := ss.zeroEdges(ctx, t, n, off, end)
	if err != nil {
		return err
	}
	if first < last {
		there, err := ss.present(ctx, n, first, last-first)
		if err != nil {
			return err
		}
		in.Blocks += last - first - there
		t.zero(n, first, last-first)
	}
	// The ends are allocated too.
	for _, b := range [...]uint64{off / blockSize, (end - 1) / blockSize} {
		if b < first || b >= last {
			if err := ss.fillHoles(ctx, t, n, in, b, b+1); err != nil {
				return err
			}
			if off/blockSize == (end-1)/blockSize {
				break
			}
		}
	}
	return nil
}

// zero makes whole blocks present, holding zeros.
func (t *tx) zero(n *node, first, count uint64) {
	t.trims = append(t.trims, txTrim{span: wal.Span{VDisk: n.ino, Block: first, Count: count}, zero: true})
	t.marks = append(t.marks, txMark{n: n, first: first, count: count, present: true})
}

// fillHoles makes the absent blocks of [first, last) present.
func (ss *session) fillHoles(ctx context.Context, t *tx, n *node, in *layout.Inode, first, last uint64) error {
	if t.spilled(n, first) {
		first++
	}
	for b := first; b < last; {
		c, err := ss.presenceOf(ctx, n, b/presenceChunkBlocks)
		if err != nil {
			return err
		}
		base := b / presenceChunkBlocks * presenceChunkBlocks
		stop := min(last-base, presenceChunkBlocks)
		from := c.next(b-base, stop, false)
		to := c.next(from, stop, true)
		if from < to {
			in.Blocks += to - from
			t.zero(n, base+from, to-from)
		}
		b = base + to
	}
	return nil
}

// Seek answers SEEK_DATA and SEEK_HOLE by which blocks are present.
func (s *Server) Seek(ctx context.Context, id Handle, off uint64, whence int) (at uint64, err error) {
	h, err := s.handles.get(id)
	if err != nil {
		return 0, err
	}
	if whence != seekData && whence != seekHole {
		return 0, errors.Of(errors.KindInvalid)
	}
	err = s.do(ctx, func(ss *session) error {
		return ss.do1(ctx, shared(h.ino), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err != nil {
				return err
			}
			if off >= in.Size {
				return errors.Of(errors.KindNoDevice)
			}
			if at, err = ss.seek(ctx, n, in, off, whence == seekData); err != nil {
				return err
			}
			return ss.answer(ctx, false)
		})
	})
	return at, err
}

func (ss *session) seek(ctx context.Context, n *node, in *layout.Inode, off uint64, data bool) (uint64, error) {
	if in.Flags&layout.FlagInline != 0 || in.IsDir() {
		if data {
			return off, nil
		}
		return in.Size, nil
	}
	last := (in.Size + blockSize - 1) / blockSize
	for b := off / blockSize; b < last; {
		if dataBlocks(in) == 0 {
			break
		}
		if data {
			next, err := ss.nextPresent(ctx, n, b, last)
			if err != nil {
				return 0, err
			}
			if b = next; b == last {
				break
			}
		}
		c, err := ss.presenceOf(ctx, n, b/presenceChunkBlocks)
		if err != nil {
			return 0, err
		}
		base := b / presenceChunkBlocks * presenceChunkBlocks
		stop := min(last-base, presenceChunkBlocks)
		if i := c.next(b-base, stop, data); i < stop {
			return max(off, (base+i)*blockSize), nil
		}
		b = base + stop
	}
	if data {
		return 0, errors.Of(errors.KindNoDevice)
	}
	if dataBlocks(in) == 0 {
		return off, nil
	}
	return in.Size, nil
}

// copyStep is how much CopyRange moves at a time.
const copyStep = 1 << 20

// CopyRange copies bytes between files on the server's side. Like the system call it may copy less than asked
// for, at the end of the source.
func (s *Server) CopyRange(ctx context.Context, from Handle, fromOff uint64, to Handle, toOff, length uint64) (uint64, error) {
	src, err := s.handles.get(from)
	if err != nil {
		return 0, err
	}
	dst, err := s.handles.get(to)
	if err != nil {
		return 0, err
	}
	switch {
	case src.dir || dst.dir:
		return 0, errors.Of(errors.KindIsDir)
	case !src.mayRead() || !dst.mayWrite() || dst.flags&syscall.O_APPEND != 0:
		return 0, errors.Of(errors.KindBadHandle)
	case src.ino == dst.ino && fromOff < toOff+length && toOff < fromOff+length:
		return 0, errors.Of(errors.KindInvalid)
	case toOff > layout.MaxFileSize || length > layout.MaxFileSize-toOff:
		return 0, errors.Of(errors.KindFileTooBig)
	}
	buf := make([]byte, min(length, copyStep))
	for done := uint64(0); ; {
		if done == length {
			return done, nil
		}
		n, err := s.ReadIO(ctx, from, buf[:min(length-done, copyStep)], fromOff+done, IODirect)
		if err == nil && n > 0 {
			step := writing{kind: IODirect, killPriv: dst.killPriv, part: done+uint64(n) < length && n == len(buf), copied: done + uint64(n)}
			_, err = s.write(ctx, dst, buf[:n], toOff+done, step)
		}
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
		if n == 0 {
			return done, nil
		}
		done += uint64(n)
	}
}
