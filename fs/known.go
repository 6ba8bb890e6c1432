package fs

import (
	"maps"
	"slices"
	"sync"
)

// knownTable holds the inodes that lost their last name through this server's kernel and that it has not forgotten yet: directories
// removed, inodes replaced by a rename, files unlinked while open. They are orphans that nobody needs to have open any more: a process may have one
// as its working directory, as an O_PATH descriptor, or be between looking a name up, which leads to something at any time, and opening what it led to.
type knownTable struct {
	mu  sync.Mutex
	set map[uint64]struct{}
}

// note adds ino if the tx, committed, left it to the kernel. The inode is locked exclusive.
func (k *knownTable) note(t *tx, ino uint64) {
	if !t.known {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil {
		k.set = map[uint64]struct{}{}
	}
	k.set[ino] = struct{}{}
}

func (k *knownTable) has(ino uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.set[ino]
	return ok
}

// remove tells whether ino was there.
func (k *knownTable) remove(ino uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.set[ino]
	delete(k.set, ino)
	return ok
}

func (k *knownTable) all() []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.set))
}

// inUse reports whether ino is open here, or known to the kernel though it has no name.
func (s *Server) inUse(ino uint64) bool { return s.handles.isOpen(ino) || s.known.has(ino) }

// unknown asks the kernel about an inode that it has not forgotten, as it never does one that it did not know: its name
// led elsewhere for it. Such a one is taken for forgotten.
func (s *Server) unknown(ino uint64) bool {
	k, ok := s.opts.Invalidator.(Knower)
	if !ok || s.handles.isOpen(ino) || k.Knows(Ino(ino)) {
		return false
	}
	return s.known.remove(ino)
}

// Forgotten frees an unlinked inode that the kernel has let go of, in the background.
func (s *Server) Forgotten(ino Ino) {
	if !s.known.remove(uint64(ino)) || s.handles.isOpen(uint64(ino)) {
		return
	}
	if ss := s.cur.Load(); ss != nil {
		ss.reapLater(uint64(ino))
	}
}
