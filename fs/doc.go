// Package fs is the file server: the only place that knows inodes and
// directories. The same code runs inside `dfs mount` and, for thin clients, on the nodes.
//
// # Contract
//
// A FileSystem is used through one interface (vfs.go). Once a changing call has
// returned, every later call on any file server of the cluster sees the change. It
// is durable when Fsync (of the file), FsyncDir (of the directory; of the root: everything
// before it) or SyncAll has returned, or at once with O_SYNC and O_DSYNC. A crash of
// the file server leaves a prefix of its operations, each whole; what the
// log holds back is never older than its FlushAfter and one acknowledgement.
//
// Data that was acknowledged and then lost, because the session with the cluster was ended, is
// told as EIO once to every descriptor of that file. A cluster that does not answer is waited for,
// bounded by Options.QuorumWait; then the call fails with EIO and what is dirty stays.
//
// # How it works
//
//	operation ──► locks (pin.go, ilock.go) ──► tx (tx.go): copies of inodes and blocks
//	                                             │ commit: reserve space, wal.Log.Commit, swap the copies in
//	                                             ▼
//	          cache (cache.go), nodes (node.go) ── answers, as long as the lease lives
//
// Inodes, directories and attributes are encoded by package layout; a file's
// bytes are block offset/4096 of the vdisk of its inode number, or stand in its inode while it is small.
// The template of every operation is at Server, the order of locks in pin.go, the steps of
// a revoke in revoke.go, orphans in orphan.go.
//
// # Recovery
//
// A file server keeps nothing on a disk of its own. When its session was ended it drops its caches, tells
// the loss, and goes on with the next Backend that Attach gives it; open files stay open. What a dead one left (unlinked files,
// truncations in steps) stands in its orphan list, which any other adopts.
package fs
