package fs

import (
	"context"
	"sync"
	"syscall"
	"time"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
)

// readRun is how many blocks one store read of file data asks for (1 MiB).
const readRun = 256

// frameRun is a scratch of frame references.
type frameRun [readRun]*frame

var runPool = sync.Pool{New: func() any { return new(frameRun) }}

// Read fills dst from off.
func (s *Server) Read(ctx context.Context, id Handle, dst []byte, off uint64) (int, error) {
	return s.ReadIO(ctx, id, dst, off, IOPages)
}

// ReadIO implements KernelIO.
func (s *Server) ReadIO(ctx context.Context, id Handle, dst []byte, off uint64, kind IOKind) (int, error) {
	h, err := s.handles.get(id)
	if err != nil {
		return 0, err
	}
	if !h.mayRead() || h.dir {
		return 0, errors.Of(errors.KindBadHandle)
	}
	if err := h.fail(); err != nil {
		return 0, err
	}
	for {
		ss, err := s.session(ctx)
		if err != nil {
			return 0, err
		}
		if !ss.enter() {
			s.cur.CompareAndSwap(ss, nil)
			continue
		}
		n, err := ss.readHandle(ctx, h, dst, off, kind)
		ss.leave()
		if err == nil || !isSessionEnd(err) {
			return n, err
		}
		if err := s.awaitEnd(ctx, ss); err != nil {
			return 0, err
		}
	}
}

// lockRead takes the lock of a read.
func (ss *session) lockRead(ctx context.Context, h *handle, r span, kind IOKind) (pin, error) {
	if kind == IOPages && ss.s.opts.Invalidator != nil {
		return ss.lockFill(ctx, h, r)
	}
	return ss.lockSingle(ctx, shared(h.ino))
}

func (ss *session) readHandle(ctx context.Context, h *handle, dst []byte, off uint64, kind IOKind) (int, error) {
	l, err := ss.lockRead(ctx, h, span{off, off + uint64(len(dst))}, kind)
	if err != nil {
		return 0, err
	}
	n, touch := l.n, false
	defer func() { // before the answer, behind the locks: it waits for nothing
		ss.unlockSingle(l)
		if touch {
			ss.touchAtime(h.ino)
		}
	}()
	first, end := off/blockSize, (off+uint64(len(dst))+blockSize-1)/blockSize
	in, err := ss.loadAlong(ctx, n, first, end-min(first, end))
	if err != nil {
		return 0, err
	}
	n.noteRead(first, end-min(first, end))
	got, err := ss.readAt(ctx, n, in, dst, off)
	if err != nil {
		return 0, err
	}
	if in.Flags&layout.FlagInline == 0 {
		ss.readAhead(h, n, in, off, uint64(got))
	}
	if err := ss.answer(ctx, false); err != nil {
		return 0, err
	}
	touch = !ss.s.opts.NoAtime && h.flags&syscall.O_NOATIME == 0 && n.needsAtime(in, ss.s.opts.Now())
	return got, nil
}

// lockSingle is lock for one inode.
func (ss *session) lockSingle(ctx context.Context, u use) (pin, error) {
	n := ss.node(u.ino)
	admitted, err := ss.pinOne(ctx, n, u)
	if err != nil {
		ss.put(n)
		return pin{}, err
	}
	if err := ss.lockLocal(ctx, n, u.exclusive); err != nil {
		ss.unpin(pin{n: n, admitted: admitted})
		ss.put(n)
		return pin{}, err
	}
	return pin{n, u.exclusive, admitted, u.leaves()}, nil
}

func (ss *session) unlockSingle(l pin) {
	l.n.lk.unlock(l.exclusive)
	ss.unpin(l)
	ss.put(l.n)
}

// readAt reads the bytes of a locked inode; it returns fewer than asked for only at the end.
func (ss *session) readAt(ctx context.Context, n *node, in *layout.Inode, dst []byte, off uint64) (int, error) {
	if in.IsDir() {
		return 0, errors.Of(errors.KindIsDir)
	}
	if off >= in.Size {
		return 0, nil
	}
	dst = dst[:min(uint64(len(dst)), in.Size-off)]
	if in.Flags&layout.FlagInline != 0 {
		return copy(dst, in.Inline[off:]), nil
	}
	if in.Blocks == 0 {
		clear(dst)
		return len(dst), nil
	}
	for done := 0; done < len(dst); {
		at := off + uint64(done)
		step := min(len(dst)-done, readRun*blockSize-int(at%blockSize))
		if err := ss.readBlocks(ctx, n, dst[done:done+step], at); err != nil {
			return 0, err
		}
		done += step
	}
	return len(dst), nil
}

// readBlocks reads at most readRun blocks.
func (ss *session) readBlocks(ctx context.Context, n *node, dst []byte, off uint64) error {
	first := off / blockSize
	count := int((off+uint64(len(dst))-1)/blockSize - first + 1)
	run := runPool.Get().(*frameRun)
	frames := run[:count]
	hits := ss.cache.getRun(layout.DataAddr(n.ino, first), frames)
	for i, f := range frames {
		if f != nil {
			copyBlock(dst, off, first+uint64(i), f.buf)
		}
	}
	var err error
	if hits < count {
		err = ss.readMisses(ctx, n, dst, off, first, frames)
	}
	ss.cache.unref(frames...)
	clear(frames)
	runPool.Put(run)
	return err
}

// copyBlock copies what dst (which stands for the bytes from off on) wants of a block.
func copyBlock(dst []byte, off, block uint64, data []byte) {
	start := block * blockSize
	if start >= off {
		copy(dst[start-off:], data)
	} else {
		copy(dst, data[off-start:])
	}
}

// readMisses reads the blocks without a frame: holes that are known are zeros, others come from the store,
// in runs, one request for each block at a time.
func (ss *session) readMisses(ctx context.Context, n *node, dst []byte, off, first uint64, frames []*frame) error {
	for i := 0; i < len(frames); {
		b := first + uint64(i)
		if frames[i] != nil {
			i++
			continue
		}
		if n.pres.knownAbsent(b) {
			copyBlock(dst, off, b, zeroBlock[:])
			i++
			continue
		}
		want := 1
		for i+want < len(frames) && frames[i+want] == nil && !n.pres.knownAbsent(b+uint64(want)) {
			want++
		}
		got, err := ss.fillRun(ctx, n, b, want, func(j int, data []byte) { copyBlock(dst, off, b+uint64(j), data) })
		if err != nil {
			return err
		}
		i += got
	}
	return nil
}

// fillRun brings the first blocks of a run into the cache, at least one, and shows them to see.
func (ss *session) fillRun(ctx context.Context, n *node, first uint64, want int, see func(i int, data []byte)) (int, error) {
	a := layout.DataAddr(n.ino, first)
	for {
		f, err := ss.cache.get(ctx, a)
		if err != nil {
			return 0, ss.waited(ctx, err, "waiting for a read")
		}
		if f != nil {
			see(0, f.buf)
			ss.cache.unref(f)
			return 1, nil
		}
		if got, err := ss.fetchRun(ctx, n, first, want, see); got > 0 || err != nil {
			return got, err
		}
	}
}

// fetchRun reads blocks that are neither cached nor being read, from first on; 0 if the first one is.
func (ss *session) fetchRun(ctx context.Context, n *node, first uint64, want int, see func(i int, data []byte)) (int, error) {
	// Blocks that a pending record zeroes are not in the cache: the store must have them first.
	if err := ss.flushZeros(ctx, n); err != nil {
		return 0, err
	}
	l := &load{done: make(chan struct{})}
	frames := ss.cache.claim(layout.DataAddr(n.ino, first), want, l)
	if len(frames) == 0 {
		return 0, nil
	}
	res, err := ss.read(ctx, []blockstore.ReadSpan{{VDisk: n.ino, Block: first, Count: uint64(len(frames))}}, ss.minIndex(n.id()))
	if err == nil {
		for i, f := range frames {
			copy(f.buf, res[0].Data[i*blockSize:])
		}
	}
	ss.cache.loaded(frames, l, err)
	if err != nil {
		return 0, err
	}
	if see != nil {
		for i := range frames {
			see(i, res[0].Data[i*blockSize:(i+1)*blockSize])
		}
	}
	ss.cache.unref(frames...)
	return len(frames), nil
}

// readAhead is a handle's guess at what comes next. Guarded by handle.mu.
type readAhead struct {
	next   uint64 // where the next sequential read begins
	ahead  uint64 // up to where blocks were asked for
	window uint64 // bytes
}

// The read-ahead window grows from raMin; a read this far from the expected place is still sequential (a kernel
// sends its own read-ahead in parallel).
const (
	raMin   = 256 << 10
	raSlack = 1 << 20
)

func (ss *session) readAhead(h *handle, n *node, in *layout.Inode, off, got uint64) {
	limit := ss.s.opts.ReadAheadBytes
	if limit <= 0 || got == 0 {
		return
	}
	end := off + got
	h.mu.Lock()
	r := &h.ra
	if off+raSlack < r.next || off > r.next+raSlack || off != 0 && r.next == 0 {
		*r = readAhead{next: end}
		h.mu.Unlock()
		return
	}
	if end > r.next {
		r.next = end
	}
	r.window = min(max(2*r.window, raMin), uint64(limit))
	from, to := max(r.ahead, end), min(end+r.window, in.Size)
	if from >= to || to-from < r.window/2 && to < in.Size {
		h.mu.Unlock()
		return
	}
	r.ahead = to
	h.mu.Unlock()
	first, last := from/blockSize, (to+blockSize-1)/blockSize
	for first < last {
		count := min(readRun-first%readRun, last-first)
		ss.prefetch(n.ino, first, count)
		first += count
	}
}

// prefetch reads blocks in the background if their lock is free to use.
func (ss *session) prefetch(ino, first, count uint64) {
	if ss.cache.limit < 4*readRun {
		return // a cache so small would lose them before they are read
	}
	select {
	case ss.raSlots <- struct{}{}:
	default:
		return
	}
	ss.spawn(func(ctx context.Context) {
		defer func() { <-ss.raSlots }()
		id := lockserver.LockID(ino)
		if !ss.be.Clerk.TryAcquire(lockserver.Request{ID: id, Mode: lockserver.Shared}) {
			return
		}
		defer ss.be.Clerk.Unpin(id)
		n := ss.node(ino)
		defer ss.put(n)
		if !n.lk.tryLock(false) {
			return
		}
		defer n.lk.unlock(false)
		for i := uint64(0); i < count; i++ {
			b := first + i
			if n.pres.knownAbsent(b) || ss.cache.has(layout.DataAddr(ino, b)) {
				continue
			}
			got, err := ss.fetchRun(ctx, n, b, int(count-i), nil)
			if err != nil {
				return
			}
			i += uint64(max(got, 1)) - 1
		}
	})
}

// needsAtime is relatime: atime moves if it is not after mtime and ctime, or a day old.
func (n *node) needsAtime(in *layout.Inode, now time.Time) bool {
	if in.Mtime.Before(in.Atime) && in.Ctime.Before(in.Atime) && now.Unix()-in.Atime.Sec < 86400 {
		return false
	}
	last := n.atimeTried.Load()
	return now.Unix()-last >= 60 && n.atimeTried.CompareAndSwap(last, now.Unix())
}

// touchAtime sets atime if the exclusive lock is at hand and nobody else works on the inode. It does not wait.
func (ss *session) touchAtime(ino uint64) {
	id := lockserver.LockID(ino)
	if !ss.be.Clerk.TryAcquire(lockserver.Request{ID: id, Mode: lockserver.Exclusive}) {
		return
	}
	defer ss.be.Clerk.Unpin(id)
	n := ss.node(ino)
	defer ss.put(n)
	n.rv.note(lockserver.Exclusive)
	if !n.lk.tryLock(true) {
		return
	}
	defer n.lk.unlock(true)
	in := n.in.Load()
	if in == nil || in == freedInode {
		return
	}
	t := ss.newTx()
	defer t.done()
	e := t.edit(n)
	e.Atime = layout.Later(e.Atime, ss.now())
	defer n.wrote.Store(n.wrote.Load()) // reading makes no writer
	if err := t.commit(ss.ctx); err != nil {
		ss.s.log.Debug("setting an access time", "inode", ino, "err", err)
	}
}
