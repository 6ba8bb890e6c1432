package fs

import (
	"context"
	"syscall"

	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/wal"
)

const (
	// writeStep is how many bytes of data one record of a write carries at most.
	writeStep = 256 << 10
	// writeHold is how many bytes are written under one holding of the lock.
	writeHold = 4 << 20
)

// Write writes all of data. It goes in steps of at most writeStep bytes, each a record that has its data and the size
// that goes with it; an O_APPEND write of up to writeHold bytes is contiguous.
func (s *Server) Write(ctx context.Context, id Handle, data []byte, off uint64, killPriv bool) (at uint64, err error) {
	h, err := s.handles.get(id)
	if err != nil {
		return 0, err
	}
	return s.write(ctx, h, data, off, writing{killPriv: killPriv, atEnd: h.flags&syscall.O_APPEND != 0})
}

// WriteAs is Write that appends if and only if atEnd.
func (s *Server) WriteAs(ctx context.Context, id Handle, data []byte, off uint64, killPriv, atEnd bool) (at uint64, err error) {
	return s.WriteIO(ctx, id, data, off, IOPages, killPriv, atEnd)
}

// WriteIO implements KernelIO.
func (s *Server) WriteIO(ctx context.Context, id Handle, data []byte, off uint64, kind IOKind, killPriv, atEnd bool) (at uint64, err error) {
	h, err := s.handles.get(id)
	if err != nil {
		return 0, err
	}
	return s.write(ctx, h, data, off, writing{kind: kind, killPriv: killPriv, atEnd: atEnd})
}

// writing says how to write.
type writing struct {
	kind     IOKind
	killPriv bool
	atEnd    bool
	part     bool   // of a copy: not its end
	copied   uint64 // of a copy: bytes done with this
}

func (s *Server) write(ctx context.Context, h *handle, data []byte, off uint64, w writing) (at uint64, err error) {
	if !h.mayWrite() || h.dir {
		return 0, errors.Of(errors.KindBadHandle)
	}
	if err := h.takeLost(); err != nil {
		return 0, err
	}
	at = off
	for done := 0; done < len(data) || done == 0; {
		piece := data[done:min(len(data), done+writeHold)]
		var start uint64
		err := s.do(ctx, func(ss *session) (err error) {
			h.hold(ss)
			how := w
			how.part = w.part || done+len(piece) < len(data)
			start, err = ss.writePiece(ctx, h, piece, off+uint64(done), how)
			return err
		})
		if err != nil {
			return at, err
		}
		if done == 0 {
			at = start
		}
		if done += len(piece); len(piece) == 0 {
			break
		}
	}
	if h.sync() {
		return at, s.fsync(ctx, h)
	}
	return at, nil
}

// writeUse is how a write of these bytes uses the inode.
func (ss *session) writeUse(h *handle, r span, w writing) use {
	u := use{ino: h.ino, exclusive: true}
	if ss.s.opts.Invalidator == nil || w.atEnd || r.from == r.to {
		return u
	}
	u.io = r
	u.kind = [...]ioUse{IOPages: ioWrite, IODirect: ioPast, IOWriteBack: ioWriteBack}[w.kind]
	return u
}

func (ss *session) writePiece(ctx context.Context, h *handle, data []byte, off uint64, w writing) (uint64, error) {
	u := ss.writeUse(h, span{off, off + uint64(len(data))}, w)
	var pending *pendingWrite
	if u.kind == ioWrite || u.kind == ioPast {
		n := ss.node(h.ino)
		defer ss.put(n)
		pending = n.rv.beginWrite(u.io)
		defer n.rv.endWrite(pending)
		if u.kind == ioWrite && !w.part {
			defer n.rv.settle()
		}
	}
	if err := ss.admit(ctx, len(data)+admitSmall); err != nil {
		return 0, err
	}
	l, err := ss.lockWrite(ctx, u, pending)
	if err != nil {
		return 0, err
	}
	defer ss.unlockSingle(l)
	n := l.n
	if w.kind == IOPages {
		n.kernelPages.Store(true) // they stay there, without a read
	}
	in, err := ss.loadForWrite(ctx, n, data, off, w.atEnd)
	if err != nil {
		return 0, err
	}
	if !in.IsRegular() {
		return 0, errors.Of(errors.KindInvalid)
	}
	resumed := uint64(0) // bytes of an append that are there already
	if w.atEnd {
		off = in.Size
		if resumed, err = resumedAppend(ctx, in.Size, len(data)); err != nil {
			return 0, err
		}
	}
	if off > layout.MaxFileSize || uint64(len(data)) > layout.MaxFileSize-off {
		return 0, errors.Of(errors.KindFileTooBig)
	}
	if len(data) == 0 {
		return off, ss.answer(ctx, false)
	}
	if err := ss.settleTruncate(ctx, n); err != nil {
		return 0, err
	}
	if wal.Gen(n.lastGen.Load()) <= ss.be.Log.Durable() {
		n.pres.forget()
	}
	committed, err := ss.writeSteps(ctx, n, data[resumed:], off, resumed, w)
	n.tail.Store(off - resumed + uint64(len(data)))
	if err != nil {
		if committed && isSessionEnd(err) {
			err = errors.New(errors.KindIO, "the session with the cluster ended during a write: %w", err)
		}
		return 0, err
	}
	return off - resumed, ss.answer(ctx, true)
}

// loadForWrite loads the inode, and along with it the block that a small write changes in part: of an append the one in which
// the last append here ended, and those that others may have filled since. Which blocks are present is asked at the same time.
func (ss *session) loadForWrite(ctx context.Context, n *node, data []byte, off uint64, atEnd bool) (*layout.Inode, error) {
	const filledMax = 8
	if n.in.Load() != nil || !n.inBlocks.Load() || len(data) >= blockSize || len(data) == 0 {
		return ss.load(ctx, n)
	}
	first, count := off/blockSize, uint64(1)
	if atEnd {
		first, count = n.tail.Load()/blockSize, filledMax
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = ss.presenceOf(ctx, n, first/presenceChunkBlocks) // an error is met again by whoever needs it
	}()
	in, err := ss.loadAlong(ctx, n, first, count)
	<-asked
	return in, err
}

// resumedAppend is how many bytes of a thin client's append are the last ones of the file: another server wrote them, before it failed.
// KindIO if the file went on growing since.
func resumedAppend(ctx context.Context, size uint64, length int) (uint64, error) {
	q := onceOf(ctx)
	if q == nil || q.found.State != layout.ClientPart || q.found.Number != q.r.Number {
		return 0, nil
	}
	if size != q.found.At+q.found.Done || q.found.Done > uint64(length) {
		return 0, errors.New(errors.KindIO, "the first %d bytes of this append were written at %d before a file server failed, and the file has changed since: the rest was not", q.found.Done, q.found.At)
	}
	return q.found.Done, nil
}

// writeSteps writes data at off, behind the resumed bytes of an append.
func (ss *session) writeSteps(ctx context.Context, n *node, data []byte, off, resumed uint64, w writing) (committed bool, err error) {
	for done := 0; done < len(data); {
		at := off + uint64(done)
		step := min(len(data)-done, writeStep-int(at%blockSize))
		t := ss.newTx()
		switch end := done+step == len(data) && !w.part; {
		case end && w.copied > 0:
			t.completes(completion{at: w.copied})
		case end:
			t.completes(completion{at: off - resumed})
		case w.atEnd:
			t.completion = completion{state: layout.ClientPart, at: off - resumed, done: resumed + uint64(done+step)}
		}
		err := ss.writeInto(ctx, t, n, data[done:done+step], at, w.killPriv)
		if err == nil {
			err = t.commit(ctx)
		}
		t.done()
		if err != nil {
			return committed, err
		}
		committed = true
		done += step
	}
	return committed, nil
}

// writeInto puts a write of at most writeStep bytes into the tx: the data and the inode.
func (ss *session) writeInto(ctx context.Context, t *tx, n *node, data []byte, off uint64, killPriv bool) error {
	in := t.edit(n)
	end := off + uint64(len(data))
	if err := ss.clearPriv(ctx, t, n, in, killPriv); err != nil {
		return err
	}
	ss.stampChange(in, true)
	size := max(in.Size, end)
	if in.Flags&layout.FlagInline != 0 {
		if end <= uint64(in.InlineRoom()) {
			fresh := make([]byte, size)
			copy(fresh, in.Inline)
			copy(fresh[off:], data)
			in.Inline, in.Size = fresh, size
			return nil
		}
		if err := spillFile(ctx, t, n, in); err != nil {
			return err
		}
	}
	in.Size = size
	return ss.writeBlocks(ctx, t, n, in, data, off)
}

// clearPriv clears set-id bits (if asked) and file capabilities, as a change of content does.
func (ss *session) clearPriv(ctx context.Context, t *tx, n *node, in *layout.Inode, killPriv bool) error {
	if killPriv {
		in.Mode = layout.KillPriv(in.Mode)
	}
	if in.HasXattrs() {
		return dropCapability(ctx, t, n, in)
	}
	return nil
}

// spillFile moves the inline data of a file into block 0.
func spillFile(ctx context.Context, t *tx, n *node, in *layout.Inode) error {
	had := len(in.Inline) > 0
	if err := in.SpillInline(&vdisk{ctx, t, n, false}); err != nil {
		return err
	}
	if had {
		t.block(layout.DataAddr(n.ino, 0)).absent = true
		t.marks = append(t.marks, txMark{n: n, first: 0, count: 1, present: true})
	}
	return nil
}

// spilled reports whether the tx itself made block 0 of the file.
func (t *tx) spilled(n *node, block uint64) bool {
	if block != 0 {
		return false
	}
	b := t.block(layout.DataAddr(n.ino, 0))
	return b != nil && b.absent && b.data != nil
}

// writeBlocks writes data into blocks: whole ones straight, the ends through copies.
func (ss *session) writeBlocks(ctx context.Context, t *tx, n *node, in *layout.Inode, data []byte, off uint64) error {
	first, last := off/blockSize, (off+uint64(len(data))-1)/blockSize
	have, err := ss.present(ctx, n, first, last-first+1)
	if err != nil {
		return err
	}
	if t.spilled(n, first) {
		have++
	}
	in.Blocks += last - first + 1 - have
	for len(data) > 0 {
		b, at := off/blockSize, int(off%blockSize)
		step := min(len(data), blockSize-at)
		switch {
		case step == blockSize && !t.spilled(n, b):
			whole := len(data) / blockSize * blockSize
			t.data = append(t.data, txData{addr: layout.DataAddr(n.ino, b), data: data[:whole]})
			step = whole
		default:
			if err := ss.patch(ctx, t, n, b, at, data[:step]); err != nil {
				return err
			}
		}
		data, off = data[step:], off+uint64(step)
	}
	t.marks = append(t.marks, txMark{n: n, first: first, count: last - first + 1, present: true})
	return nil
}

// patch changes bytes of a block through the overlay; the block need not be present.
func (ss *session) patch(ctx context.Context, t *tx, n *node, block uint64, at int, data []byte) error {
	v := &vdisk{ctx, t, n, false}
	a := layout.DataAddr(n.ino, block)
	absent := false
	if t.block(a) == nil {
		there, err := ss.isPresent(ctx, n, block)
		if err != nil {
			return err
		}
		absent = !there
	}
	if there := !absent; there && n.zeroGen.Load() != 0 && t.block(a) == nil {
		// As in fetchRun: zeros that the store may not have yet.
		if err := ss.flushZeros(ctx, n); err != nil {
			return err
		}
	}
	fresh := make([]byte, blockSize)
	if !absent {
		old, err := v.Get(block)
		if err != nil {
			return err
		}
		copy(fresh, old)
	}
	copy(fresh[at:], data)
	v.Put(block, fresh)
	if absent {
		t.block(a).absent = true
	}
	return nil
}
