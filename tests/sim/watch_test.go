package sim

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/fs"
	"dfs/fs/fsck"
	"dfs/lockserver"
	"dfs/wal"
)

// watch looks at what must hold at every moment, until end is closed.
func (w *world) watch(end <-chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(10 * time.Millisecond):
		}
		w.oneHolder()
		w.oneLeader()
	}
}

// oneHolder: a lock held exclusive by a living lease is held by nobody else.
func (w *world) oneHolder() {
	ids := []lockserver.LockID{lockserver.LockID(fs.RootIno), lockserver.LockRename}
	if sp := w.space; sp != nil {
		for _, r := range sp.regs {
			ids = append(ids, lockserver.LockID(r.ino))
		}
		for _, a := range sp.appends {
			ids = append(ids, lockserver.LockID(a.ino))
		}
		ids = append(ids, lockserver.LockID(sp.dirs[0]), lockserver.LockID(sp.dirs[1]))
	}
	type holder struct {
		m *mount
		c lockserver.Clerk
	}
	var live []holder
	for _, m := range w.mounts {
		if s, _, _ := m.now(); s != nil {
			if c := s.Clerk(); c.LeaseLeft() > 0 {
				live = append(live, holder{m, c})
			}
		}
	}
	for _, id := range ids {
		var first holder
		var mode lockserver.Mode
		for _, h := range live {
			got := h.c.Held(id)
			if got == lockserver.None {
				continue
			}
			if mode != lockserver.None && (got == lockserver.Exclusive || mode == lockserver.Exclusive) {
				w.fail("lock %d is held by %s in mode %d and by %s in mode %d", id, first.m.name, mode, h.m.name, got)
			}
			first, mode = h, got
		}
	}
}

// oneLeader: a term has one leader.
func (w *world) oneLeader() {
	for _, n := range w.everyNode() {
		if r := n.replica(); r != nil {
			if l := r.Leadership(); l.Self {
				w.mu.Lock()
				other, known := w.leaders[l.Term]
				w.leaders[l.Term] = n.id
				w.mu.Unlock()
				if known && other != n.id {
					w.fail("%s and %s both led in term %d", other, n.id, l.Term)
				}
			}
		}
	}
}

// leader is the node that leads, nil if none does.
func (w *world) leader() (*node, *raftstore.Node) {
	for _, n := range w.everyNode() {
		if r := n.replica(); r != nil && r.Leadership().Self {
			return n, r
		}
	}
	return nil, nil
}

// compareNow holds two followers at one index and compares them, while the rest goes on.
func (w *world) compareNow() {
	l, lr := w.leader()
	if l == nil {
		return
	}
	at := lr.Applied() + 3
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	type held struct {
		n    *node
		r    *raftstore.Node
		done func()
	}
	got := make(chan held, 8)
	asked := 0
	for _, n := range w.members() {
		r := n.replica()
		if n == l || r == nil {
			continue
		}
		asked++
		go func() {
			release, err := r.HoldAt(ctx, at)
			if err != nil {
				got <- held{}
				return
			}
			got <- held{n, r, release}
		}()
	}
	var all []held
	for range asked {
		if h := <-got; h.r != nil {
			all = append(all, h)
		}
	}
	var images []*image
	var ids []string
	for _, h := range all {
		img, err := imageOf(ctx, h.r)
		if err == nil && !h.n.repaired(h.r) && h.r.Held() && h.r.Applied() == at && h.n.replica() == h.r {
			images, ids = append(images, img), append(ids, h.n.id)
		}
	}
	for _, h := range all {
		h.done()
	}
	if len(images) > 1 {
		w.mu.Lock()
		w.compared++
		w.mu.Unlock()
		w.same(ids, images)
	}
}

// repaired tells whether the replica repaired blocks since it was asked last: those are as new as where they came from,
// and may be ahead of the index.
func (n *node) repaired(r *raftstore.Node) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	was, now := n.repairs, r.Status().Repairs.Repaired
	n.repairs = now
	return was != now
}

// image is a replica's blocks and state.
type image struct {
	applied uint64
	state   []byte
	used    uint64
	chunks  []blockstore.ChunkData
}

// imageOf reads a replica whose apply stands still.
func imageOf(ctx context.Context, r *raftstore.Node) (*image, error) {
	img := &image{}
	r.View(func(s *blockstore.State, applied uint64) {
		img.applied, img.state, img.used = applied, s.Encode(), s.Used()
	})
	var after *blockstore.ChunkID
	for {
		list, _, err := r.ServeChunks(ctx, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			data, _, err := r.ServeChunk(ctx, c.ChunkID, 0)
			if err != nil {
				return nil, err
			}
			if len(data.Data) > 0 {
				img.chunks = append(img.chunks, data)
			}
			id := c.ChunkID
			after = &id
		}
		if len(list) < 1000 {
			return img, nil
		}
	}
}

// same compares images.
func (w *world) same(ids []string, images []*image) {
	for i := 1; i < len(images); i++ {
		a, b := images[0], images[i]
		if a.applied != b.applied {
			w.fail("%s is at index %d, %s at %d", ids[0], a.applied, ids[i], b.applied)
			continue
		}
		if !bytes.Equal(a.state, b.state) {
			w.fail("the states of %s and %s differ at index %d", ids[0], ids[i], a.applied)
		}
		if d := differ(a, b); d != "" {
			w.fail("the blocks of %s and %s differ at index %d: %s", ids[0], ids[i], a.applied, d)
		}
	}
}

func differ(a, b *image) string {
	if len(a.chunks) != len(b.chunks) {
		return fmt.Sprintf("%d and %d chunks", len(a.chunks), len(b.chunks))
	}
	for i, c := range a.chunks {
		o := b.chunks[i]
		switch {
		case c.ChunkID != o.ChunkID:
			return fmt.Sprintf("chunk %v against %v", c.ChunkID, o.ChunkID)
		case !bytes.Equal(c.Present, o.Present):
			return fmt.Sprintf("chunk %v: present are %x and %x", c.ChunkID, c.Present, o.Present)
		case !bytes.Equal(c.Data, o.Data):
			return fmt.Sprintf("chunk %v: its content", c.ChunkID)
		}
	}
	return ""
}

// The image as fsck reads it.
var _ fsck.Reader = (*image)(nil)

func (m *image) Chunks(_ context.Context, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, error) {
	var out []blockstore.ChunkInfo
	for _, c := range m.chunks {
		if after != nil && compareChunks(c.ChunkID, *after) <= 0 {
			continue
		}
		if out = append(out, c.ChunkInfo); len(out) == max {
			break
		}
	}
	return out, nil
}

func compareChunks(a, b blockstore.ChunkID) int {
	switch {
	case a.VDisk != b.VDisk && a.VDisk < b.VDisk, a.VDisk == b.VDisk && a.Chunk < b.Chunk:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// chunkOf is the chunk of a block, and its place in it.
func chunkOf(vdisk, block uint64) (blockstore.ChunkID, int) {
	switch {
	case block < 16:
		return blockstore.ChunkID{VDisk: vdisk}, int(block)
	case block < 256:
		return blockstore.ChunkID{VDisk: vdisk, Chunk: 1}, int(block - 16)
	}
	return blockstore.ChunkID{VDisk: vdisk, Chunk: block/256 + 1}, int(block % 256)
}

func (m *image) block(vdisk, block uint64) []byte {
	id, slot := chunkOf(vdisk, block)
	i, ok := slices.BinarySearchFunc(m.chunks, id, func(c blockstore.ChunkData, id blockstore.ChunkID) int { return compareChunks(c.ChunkID, id) })
	if !ok {
		return nil
	}
	c, at := m.chunks[i], 0
	for s := range slot + 1 {
		if s/8 >= len(c.Present) || c.Present[s/8]>>(s%8)&1 == 0 {
			if s == slot {
				return nil
			}
			continue
		}
		if s == slot {
			return c.Data[at : at+wal.BlockSize]
		}
		at += wal.BlockSize
	}
	return nil
}

func (m *image) Presence(_ context.Context, span wal.Span) ([]byte, error) {
	out := make([]byte, (span.Count+7)/8)
	for i := range span.Count {
		if m.block(span.VDisk, span.Block+i) != nil {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out, nil
}

func (m *image) Read(ctx context.Context, span wal.Span) (data, present []byte, err error) {
	present, _ = m.Presence(ctx, span)
	data = make([]byte, span.Count*wal.BlockSize)
	for i := range span.Count {
		copy(data[i*wal.BlockSize:], m.block(span.VDisk, span.Block+i))
	}
	return data, present, nil
}

// checkAtRest compares all replicas when nothing is done any more, and checks the file system.
func (w *world) checkAtRest() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var images []*image
	var ids []string
	for try := 0; ; try++ {
		var err error
		if images, ids, err = w.imagesAtRest(ctx); err == nil {
			break
		}
		if try == 20 || ctx.Err() != nil {
			w.fail("the cluster does not come to rest: %v", err)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
	w.same(ids, images)
	rep, err := fsck.Check(ctx, images[0], fsck.Options{UsedBlocks: &images[0].used})
	if err != nil {
		w.fail("fsck: %v", err)
	} else if !rep.Clean() {
		var b strings.Builder
		_, _ = rep.WriteTo(&b)
		w.fail("fsck finds:\n%s", b.String())
	}
}

// imagesAtRest reads every replica, healed, at one index.
func (w *world) imagesAtRest(ctx context.Context) (images []*image, ids []string, err error) {
	_, lr := w.leader()
	if lr == nil {
		return nil, nil, fmt.Errorf("no leader")
	}
	if err := lr.ProveLeadership(ctx); err != nil {
		return nil, nil, err
	}
	top := lr.Applied()
	for _, n := range w.members() {
		r := n.replica()
		if r == nil {
			return nil, nil, fmt.Errorf("node %s does not run", n.id)
		}
		if err := r.WaitApplied(ctx, top); err != nil {
			return nil, nil, err
		}
		if sum, err := r.Scrub(ctx, nil); err != nil || sum.Failed > 0 {
			return nil, nil, fmt.Errorf("node %s is not whole: %+v %v", n.id, sum, err)
		}
		img, err := imageOf(ctx, r)
		if err != nil {
			return nil, nil, fmt.Errorf("node %s: %w", n.id, err)
		}
		images, ids = append(images, img), append(ids, n.id)
	}
	for i, img := range images {
		if img.applied != images[0].applied {
			return nil, nil, fmt.Errorf("%s is at index %d, %s at %d", ids[0], images[0].applied, ids[i], img.applied)
		}
	}
	return images, ids, nil
}
