package fs

import (
	"syscall"
	"time"

	"dfs/lockserver"
)

// A file that several mounts write, or one writes and others read, at the same time would lose its pages with each hand-over of
// its lock. So while that goes on it is opened for direct I/O: a read asks for the Shared lock and is answered from the cache of blocks, a write
// leaves no page behind, and a hand-over costs what the lock and the log cost. How a descriptor reads and writes the kernel decides at its open, so
// one opened before stays cached: right, and slower.

// sharingQuiet is how long nobody else must have asked for the lock for the file to be opened cached again.
const sharingQuiet = 5 * time.Second

// noteHandOver notes that the lock of a file in use here is taken away: by one who writes, or by one who reads while it is written here.
func (s *Server) noteHandOver(n *node, to lockserver.Mode) {
	all, writable := s.handles.count(n.ino)
	if all == 0 || to != lockserver.None && (writable == 0 || n.rv.held.Load() != uint32(lockserver.Exclusive)) {
		return
	}
	n.rv.mu.Lock()
	defer n.rv.mu.Unlock()
	n.rv.handed = [2]time.Time{time.Now(), n.rv.handed[0]}
}

// shared reports whether other mounts use the file, too, and somebody writes: the lock was taken away twice, and lately.
func (rv *revocation) shared(now time.Time) bool {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	return now.Sub(rv.handed[0]) < sharingQuiet && rv.handed[0].Sub(rv.handed[1]) < sharingQuiet
}

// mapsDirect reports whether the kernel can map files shared that are open past its page cache.
func (s *Server) mapsDirect() bool {
	m, ok := s.opts.Invalidator.(DirectMapper)
	return !ok || m.MapsDirect()
}

// contended reports whether the lock was taken away lately.
func (rv *revocation) contended(now time.Time) bool {
	rv.mu.Lock()
	defer rv.mu.Unlock()
	return now.Sub(rv.handed[0]) < sharingQuiet
}

// appends reports whether a descriptor is opened to append. Through the page cache the kernel would put the data where it believes the end
// to be, and split a write at the border of a page.
func appends(flags uint32) bool {
	return flags&syscall.O_APPEND != 0 && flags&syscall.O_ACCMODE != syscall.O_RDONLY
}
