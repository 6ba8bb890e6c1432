package fs

import (
	"context"
	"sync"
	"sync/atomic"

	"dfs/blockstore"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/lockserver"
	"dfs/wal"
)

// node is what a session keeps of one inode.
type node struct {
	ino  uint64
	lk   ilock // taken after the cluster lock of the same inode
	refs int   // guarded by nodeTable.mu, as are the next two
	prev *node
	next *node

	// in is the decoded inode as last committed; nil: not loaded. Loaded under lk shared,
	// changed under lk exclusive. What it points to never changes.
	in atomic.Pointer[layout.Inode]
	// inBlocks: when the inode was read last, its bytes stood in blocks; tail: where the last write here ended; lastRead: see noteRead.
	// Guesses, kept over a revoke.
	inBlocks       atomic.Bool
	tail, lastRead atomic.Uint64
	// lastGen is the generation of the last record that touched this inode; 0: none in this session.
	lastGen atomic.Uint64
	pres    presence
	// zeroGen is the generation of the last record with Zeros; such blocks are not in the cache.
	zeroGen atomic.Uint64

	rv revocation
	// wrote: the inode was changed since its lock came; intent: it was in the time before that, see pinOne.
	wrote, intent atomic.Bool
	// What the kernel may have of it since the last revoke.
	kernelPages, kernelNames, kernelAttr atomic.Bool
	atimeTried                           atomic.Int64 // unix seconds of the last relatime attempt

	ahead atomic.Pointer[ahead] // of a directory: see fetchAhead

	at atomic.Pointer[entryAt] // the name under which it was met last, for messages
}

func (n *node) id() lockserver.LockID { return lockserver.LockID(n.ino) }

// touched notes that gen changed the inode.
func (n *node) touched(gen wal.Gen) {
	n.wrote.Store(true)
	for {
		old := n.lastGen.Load()
		if uint64(gen) <= old || n.lastGen.CompareAndSwap(old, uint64(gen)) {
			return
		}
	}
}

// nodeTable holds the nodes of a session: all that are referenced, and the
// most recently used of the others. A node that is not durable is not forgotten.
type nodeTable struct {
	mu    sync.Mutex
	limit int
	nodes map[uint64]*node
	idle  int
	head  *node // of the idle ones, newest first
	tail  *node
	// forgot is set once a node that had changes was forgotten: a revoke of an unknown inode then answers with floor.
	floor uint64
}

func (ss *session) node(ino uint64) *node {
	t := &ss.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	if n == nil {
		n = &node{ino: ino}
		n.pres.reset()
		if ss.be.Clerk.Held(n.id()) != lockserver.None { // known before, and forgotten
			n.kernelPages.Store(true)
			n.kernelNames.Store(true)
			n.kernelAttr.Store(true)
		}
		t.nodes[ino] = n
	} else if n.refs == 0 {
		t.unlink(n)
	}
	n.refs++
	return n
}

// put gives a reference back.
func (ss *session) put(n *node) {
	t := &ss.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.refs--; n.refs > 0 {
		return
	}
	if n.refs < 0 {
		panic("fs: node reference count below zero")
	}
	t.link(n)
	if t.idle <= t.limit {
		return
	}
	durable := uint64(ss.be.Log.Durable())
	for v, tries := t.tail, 0; v != nil && t.idle > t.limit && tries < 16; tries++ {
		before := v.prev
		if v.lastGen.Load() <= durable {
			if v.lastGen.Load() != 0 {
				t.floor = max(t.floor, ss.be.Store.LastIndex(), ss.be.Log.LastIndex())
			}
			t.unlink(v)
			delete(t.nodes, v.ino)
		}
		v = before
	}
}

func (t *nodeTable) link(n *node) {
	n.prev, n.next = nil, t.head
	if t.head != nil {
		t.head.prev = n
	} else {
		t.tail = n
	}
	t.head = n
	t.idle++
}

func (t *nodeTable) unlink(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		t.head = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		t.tail = n.prev
	}
	n.prev, n.next = nil, nil
	t.idle--
}

// minIndex is the least index at which a replica must be read by the holder of id.
func (ss *session) minIndex(id lockserver.LockID) uint64 {
	return max(ss.be.Clerk.MinIndex(id), ss.be.Store.LastIndex(), ss.be.Log.LastIndex())
}

// load returns the inode, from the store if need be. The caller has n pinned and
// locked. KindStale if it is free.
func (ss *session) load(ctx context.Context, n *node) (*layout.Inode, error) {
	if in := n.in.Load(); in == freedInode {
		return nil, staleInode(n.ino)
	} else if in != nil {
		return in, nil
	}
	in, err := ss.fetchInode(ctx, n.ino, ss.minIndex(n.id()))
	if err != nil {
		return nil, err
	}
	n.loaded(in)
	return in, nil
}

// fetchInode reads an inode at or after minIndex. KindStale if it is free.
func (ss *session) fetchInode(ctx context.Context, ino, minIndex uint64) (*layout.Inode, error) {
	block, err := ss.fetchBlock(ctx, layout.InodeAddr(ino), minIndex)
	if err != nil {
		return nil, err
	}
	return decodeInode(ino, block)
}

func decodeInode(ino uint64, block []byte) (*layout.Inode, error) {
	in, err := layout.DecodeInode(ino, block)
	if errors.Is(err, errors.KindNotExist) {
		return nil, staleInode(ino)
	}
	return in, err
}

// freedInode stands in node.in for an inode that this session freed: the store may not know yet.
var freedInode = new(layout.Inode)

func staleInode(ino uint64) error {
	return errors.New(errors.KindStale, "inode %d does not exist any more", ino)
}

// fetchBlock reads one block past the cache.
func (ss *session) fetchBlock(ctx context.Context, a wal.Addr, minIndex uint64) ([]byte, error) {
	res, err := ss.read(ctx, []blockstore.ReadSpan{{VDisk: a.VDisk, Block: a.Block, Count: 1}}, minIndex)
	if err != nil {
		return nil, err
	}
	return res[0].Data, nil
}

// read is Store.Read, bounded in time.
func (ss *session) read(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, error) {
	bctx, cancel := ss.bound(ctx)
	defer cancel()
	res, _, err := ss.be.Store.Read(bctx, spans, minIndex)
	if err != nil {
		return nil, ss.waited(ctx, err, "reading blocks")
	}
	if len(res) != len(spans) {
		return nil, errors.New(errors.KindIO, "the store answered %d of %d spans", len(res), len(spans))
	}
	for i, r := range res {
		if uint64(len(r.Data)) != spans[i].Count*blockSize {
			return nil, errors.New(errors.KindIO, "the store answered %d bytes for %d blocks", len(r.Data), spans[i].Count)
		}
	}
	return res, nil
}
