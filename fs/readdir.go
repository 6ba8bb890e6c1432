package fs

import (
	"cmp"
	"context"
	"slices"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

const (
	// readDirBatch is how many entries are looked at under one holding of the directory's lock, and how many children are fetched at once.
	readDirBatch = 256
	// plusStep is how many children are told of at once: a kernel asks for 20 to 200.
	plusStep = 64
)

// ReadDir lists a directory from a cookie on. The entries are collected in batches and
// yield is called with nothing held.
func (s *Server) ReadDir(ctx context.Context, id Handle, cookie uint64, plus bool, yield func(DirEntry) bool) error {
	h, err := s.handles.get(id)
	if err != nil {
		return err
	}
	if !h.dir {
		return errors.Of(errors.KindNotDir)
	}
	for {
		var batch []DirEntry
		var end bool
		err := s.do(ctx, func(ss *session) (err error) {
			batch, end, err = ss.readDirBatch(ctx, h, cookie, plus)
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range batch {
			if !yield(e) {
				return nil
			}
			cookie = e.Cookie
		}
		if end {
			return nil
		}
	}
}

// readDirBatch returns the next entries, and whether they are the last. Where a child is not at hand, those behind it are fetched with it.
func (ss *session) readDirBatch(ctx context.Context, h *handle, cookie uint64, plus bool) (out []DirEntry, end bool, err error) {
	batch, dirIndex, nameCacheable, err := ss.listNames(ctx, h.ino, cookie)
	end = len(batch) < readDirBatch
	if err != nil || !plus {
		return batch, end, err
	}
	step := batch[:min(len(batch), plusStep)]
	if !ss.atHand(step) {
		ahead := batch
		if ss.nodes.limit < 2*readDirBatch {
			ahead = step // a cache so small would lose them before they are told of
		}
		if err := ss.warmInodes(ctx, ahead, lockserver.Shared, dirIndex); err != nil {
			return nil, false, err
		}
	}
	end = end && len(step) == len(batch)
	out = step[:0]
	for _, e := range step {
		if e.Name != "." && e.Name != ".." {
			ent, err := ss.plusEntry(ctx, entryAt{h.ino, e.Name}, uint64(e.Ino), dirIndex, h.check)
			switch {
			case errors.Is(err, errors.KindStale):
				// Removed meanwhile: without attributes the kernel looks it up for itself.
			case err != nil:
				return nil, false, err
			default:
				ent.NameCacheable = nameCacheable
				e.Entry = &ent
			}
		}
		out = append(out, e)
	}
	return out, end, ss.answer(ctx, false)
}

// atHand reports whether all children are locked here and loaded.
func (ss *session) atHand(batch []DirEntry) bool {
	for _, e := range batch {
		if e.Name == "." || e.Name == ".." {
			continue
		}
		if ss.be.Clerk.Held(lockserver.LockID(e.Ino)) == lockserver.None {
			return false
		}
		n := ss.node(uint64(e.Ino))
		loaded := n.in.Load() != nil
		ss.put(n)
		if !loaded {
			return false
		}
	}
	return true
}

// listNames collects entries under the directory's lock. index is one at which all of them are there.
func (ss *session) listNames(ctx context.Context, ino, cookie uint64) (batch []DirEntry, index uint64, nameCacheable bool, err error) {
	var p pins
	if err := ss.lock(ctx, &p, shared(ino)); err != nil {
		return nil, 0, false, err
	}
	defer p.unlock()
	n := p.of(ino)
	t := ss.newTx()
	defer t.done()
	d, err := ss.openDir(ctx, t, n)
	if err != nil {
		return nil, 0, false, err
	}
	if d.In.Nlink == 0 {
		return nil, 0, false, nil // removed: it lists nothing, as on Linux
	}
	if err := ss.readAheadDir(ctx, n, d, cookie); err != nil {
		return nil, 0, false, err
	}
	err = d.Iterate(cookie, func(e layout.Entry) bool {
		batch = append(batch, DirEntry{Name: e.Name, Ino: Ino(e.Ino), Type: e.Type & typeMask, Cookie: e.Cookie})
		return len(batch) < readDirBatch
	})
	if err == nil {
		err = ss.answer(ctx, false)
	}
	// Names are not handed out as cacheable here: the locks of a kernel's READDIRPLUS answer are let go before it is written.
	return batch, ss.minIndex(n.id()), err == nil && ss.nameCacheable(&p, n), err
}

// readAheadDir fetches the next buckets in one read.
func (ss *session) readAheadDir(ctx context.Context, n *node, d *layout.Dir, cookie uint64) error {
	blocks := d.BlocksAfter(cookie, 64)
	for i := 0; i < len(blocks); i++ {
		a := layout.DataAddr(n.ino, blocks[i])
		if ss.cache.has(a) {
			continue
		}
		// One missing: fetch all that miss.
		return ss.fetchScattered(ctx, n, blocks[i:])
	}
	return nil
}

// fetchScattered brings blocks of n's vdisk into the cache in one request.
func (ss *session) fetchScattered(ctx context.Context, n *node, blocks []uint64) error {
	l := &load{done: make(chan struct{})}
	var frames []*frame
	var spans []blockstore.ReadSpan
	for _, b := range blocks {
		fs := ss.cache.claim(wal.Addr{VDisk: n.ino, Block: b}, 1, l)
		if len(fs) == 0 {
			continue
		}
		frames = append(frames, fs[0])
		spans = append(spans, blockstore.ReadSpan{VDisk: n.ino, Block: b, Count: 1})
	}
	if len(frames) == 0 {
		return nil
	}
	res, err := ss.read(ctx, spans, ss.minIndex(n.id()))
	if err == nil {
		for i, f := range frames {
			copy(f.buf, res[i].Data)
		}
	}
	ss.cache.loaded(frames, l, err)
	if err != nil {
		return err
	}
	for _, f := range frames {
		ss.cache.protect(f)
	}
	ss.cache.unref(frames...)
	return nil
}

// warmInodes gets the locks of the children that are not held in that mode with one Acquire, and their inodes with few reads.
// Locks that others use are not waited for long; their attributes are then read without a lock, uncacheable (see Lookup).
func (ss *session) warmInodes(ctx context.Context, batch []DirEntry, mode lockserver.Mode, dirIndex uint64) error {
	var reqs []lockserver.Request
	for _, e := range batch {
		if id := lockserver.LockID(e.Ino); e.Name != "." && e.Name != ".." && ss.be.Clerk.Held(id) < mode {
			reqs = append(reqs, lockserver.Request{ID: id, Mode: mode})
		}
	}
	// Several links of one file are one request, because Acquire pins it once.
	slices.SortFunc(reqs, func(a, b lockserver.Request) int { return cmp.Compare(a.ID, b.ID) })
	reqs = slices.Compact(reqs)
	if len(reqs) > 0 {
		wctx, cancel := context.WithTimeout(ctx, 5*childWait)
		err := ss.be.Clerk.Acquire(wctx, reqs...)
		cancel()
		if err == nil {
			ids := make([]lockserver.LockID, 0, len(reqs))
			for _, r := range reqs {
				ids = append(ids, r.ID)
			}
			defer ss.be.Clerk.Unpin(ids...)
		} else if isSessionEnd(err) || ctx.Err() != nil {
			return err
		}
	}
	return ss.loadMany(ctx, batch, dirIndex)
}

// loadMany reads the inodes of the children whose lock is free to use and that are not at hand.
func (ss *session) loadMany(ctx context.Context, batch []DirEntry, dirIndex uint64) error {
	var nodes []*node
	var spans []blockstore.ReadSpan
	index := dirIndex
	defer func() {
		for _, n := range nodes {
			n.lk.unlock(false)
			ss.be.Clerk.Unpin(n.id())
			ss.put(n)
		}
	}()
	for _, e := range batch {
		id := lockserver.LockID(e.Ino)
		if e.Name == "." || e.Name == ".." || !ss.be.Clerk.TryAcquire(lockserver.Request{ID: id, Mode: lockserver.Shared}) {
			continue
		}
		n := ss.node(uint64(e.Ino))
		if n.in.Load() != nil || !n.lk.tryLock(false) {
			ss.be.Clerk.Unpin(id)
			ss.put(n)
			continue
		}
		n.rv.note(lockserver.Shared)
		nodes = append(nodes, n)
		a := layout.InodeAddr(n.ino)
		spans = append(spans, blockstore.ReadSpan{VDisk: a.VDisk, Block: a.Block, Count: 1})
		index = max(index, ss.minIndex(id))
	}
	if len(spans) == 0 {
		return nil
	}
	res, err := ss.read(ctx, spans, index)
	if err != nil {
		return err
	}
	for i, n := range nodes {
		in, err := decodeInode(n.ino, res[i].Data)
		if err != nil {
			continue // told by plusEntry, for that entry alone
		}
		if n.in.Load() == nil {
			n.loaded(in)
		}
	}
	return nil
}

// plusEntry is the entry of one child. A kernel gets attributes that may be old, and may not be kept, where the child's lock is not
// to be had at once (see Lookup); strict waits for it, with nothing else held.
func (ss *session) plusEntry(ctx context.Context, at entryAt, ino, dirIndex uint64, strict bool) (e Entry, err error) {
	if e, ok, err := ss.childHeld(ctx, at, ino); ok || err != nil {
		return e, err
	}
	if strict {
		err = ss.do1(ctx, shared(ino), func(n *node) error {
			in, err := ss.load(ctx, n)
			if err == nil {
				e = Entry{Attr: attrOf(in)}
			}
			return err
		})
		return e, err
	}
	in, err := ss.fetchInode(ctx, ino, max(dirIndex, ss.minIndex(lockserver.LockID(ino))))
	if err != nil {
		return Entry{}, err
	}
	return Entry{Attr: attrOf(in)}, nil
}
