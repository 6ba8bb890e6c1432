// Package lockserver is the lease-based distributed lock service that guards
// inodes and the block cache of the file servers.
//
// A file server opens a session (which is a writer of the block store) and
// keeps it alive under a lease. Locks are named by number, shared or
// exclusive, and sticky: a session keeps a lock after use until another wants
// it. The service runs on the Raft leader, its table is in memory; what must
// survive a leader is told again by the clients (claims) or stands in the
// replicated state machine (writers, inode ranges, epochs).
//
// Rules, in short (docs/architecture.md has them in full): a session that is given up for dead is
// fenced in the replicated log AND its lease is over before any of its locks
// goes to another; a client looks at its own lease when it answers, not when the request
// began; grants, revokes and releases carry an epoch and a number and only the current one counts.
package lockserver

import (
	"context"
	"time"

	"dfs/blockstore"
)

// LockID names a lock: an inode number, or one of the fixed names below.
type LockID uint64

// Fixed lock names lie above every inode number.
const (
	// LockRename is held exclusive by cross-directory moves of directories.
	LockRename LockID = 1 << 63
	// LockOrphans + WriterID guards the adoption of a dead writer's orphan list.
	LockOrphans LockID = 1<<63 | 1<<62
)

// Before is the agreed order in which an operation takes its locks: the fixed
// names first (the rename lock, then orphan lists), then inodes, each by number.
func (id LockID) Before(other LockID) bool {
	if fixed, otherFixed := id.Fixed(), other.Fixed(); fixed != otherFixed {
		return fixed
	}
	return id < other
}

// Fixed reports whether id is a fixed name and not an inode number.
func (id LockID) Fixed() bool { return id >= LockRename }

// Mode is how a lock is held.
type Mode uint8

// The modes; a greater mode allows all that a smaller one does.
const (
	None Mode = iota
	Shared
	Exclusive
)

// Request asks for one lock.
type Request struct {
	ID   LockID
	Mode Mode
}

// Clerk is the client side of the lock service, one per file server session.
// All methods are safe for concurrent use.
type Clerk interface {
	// Acquire pins every lock asked for, in at least the mode asked for, and
	// returns when all are pinned. It takes them in the agreed order (LockID.Before) whatever the
	// order of reqs, and removes doubles (the greater mode wins). A lock that is
	// held already in a sufficient mode costs no message. It waits until ctx ends;
	// on error nothing is pinned. An operation that
	// holds pins may call Acquire again only for IDs that come after all it has pinned.
	// Asking for Exclusive while oneself pins Shared is a defect: the pin may keep
	// another's request waiting that stands before one's own. Such a wait ends with KindDeadlock
	// after ClerkOptions.DeadlockAfter: unpin, and acquire again. Pins do not exclude each
	// other within one session: a file server orders its own operations by locks of its own.
	// Errors: KindTimeout, KindInterrupted, KindSessionEnded, KindDeadlock.
	Acquire(ctx context.Context, reqs ...Request) error
	// TryAcquire pins the lock if it is held already in that mode and not being revoked,
	// without any message or waiting.
	TryAcquire(req Request) bool
	// Unpin undoes one Acquire of exactly these ids (one pin of each).
	Unpin(ids ...LockID)
	// Held tells the mode in which this session holds id now (pinned or not); the answer
	// may be old as soon as it is given unless the caller holds a pin.
	Held(id LockID) Mode
	// MinIndex is the least index at which a replica must be read by a holder of id:
	// the greatest index any release of it brought (the sink's LastIndex is the caller's to add).
	MinIndex(id LockID) uint64
	// LeaseLeft is how long, from now on, answers from caches are allowed,
	// by CLOCK_BOOTTIME and less the margin; <= 0 when the lease is over. A caller
	// looks at it when the answer is made.
	LeaseLeft() time.Duration
	// WaitLease waits until the lease is live again (re-attached) or the
	// session has ended for good (KindSessionEnded) or ctx is done.
	WaitLease(ctx context.Context) error
	// OwnInodes tells the clerk of a fresh range: its locks are held Exclusive without a message.
	OwnInodes(r blockstore.InodeRange)
	// OpenElsewhere reports whether, when id was last granted, another session had told
	// (in a Release) that it still has the inode open.
	OpenElsewhere(id LockID) bool
	// GiveBack lets a lock go that nobody has asked for: through Holder.Revoke, once no pin is left. The next
	// Acquire gets a new grant, and with it what is true by then (OpenElsewhere). It returns when the lock has been let go.
	GiveBack(ctx context.Context, id LockID) error
	// Session names the writer.
	Session() blockstore.Session
	// Epoch is the epoch to which the session was attached last.
	Epoch() blockstore.Epoch
	// FileLock sets or lets go (Type FileUnlock) a byte-range lock or flock of inode id, cluster-wide.
	// Without wait a lock in the way is KindAgain; with wait it waits until ctx ends (KindInterrupted,
	// KindTimeout) and tells KindDeadlock where waiting would close a circle of POSIX owners.
	// KindSessionEnded once the session is over: every file lock it held is lost.
	FileLock(ctx context.Context, id LockID, l FileLock, wait bool) error
	// TestFileLock returns the first lock of another owner in the way of l, or l with Type FileUnlock.
	TestFileLock(ctx context.Context, id LockID, l FileLock) (FileLock, error)
	// ReleaseFileLocks lets go every lock of owner on inode id: flocks if flock is set, else POSIX locks.
	ReleaseFileLocks(id LockID, owner uint64, flock bool)
	// Close flushes through Holder.Revoke whatever is held, releases it, and closes the writer.
	Close(ctx context.Context) error
}

// FileLockType is the kind of a file lock, numbered as in package fs.
type FileLockType uint8

// File lock types.
const (
	FileRead FileLockType = iota
	FileWrite
	FileUnlock
)

// FileLock is a POSIX byte-range lock or (Flock) a whole-file flock of one owner in one session.
// POSIX locks and flocks do not see each other, as on Linux.
type FileLock struct {
	Owner      uint64 // the kernel's lock owner; means something within its session only
	Start, End uint64 // bytes, both inclusive, Start <= End; ignored for flocks
	Type       FileLockType
	PID        uint32
	Flock      bool
}

// RevokePreparer may be implemented by a Holder too. PrepareRevoke is called
// before Revoke for the same id and mode, while pins are still given out as if there
// were no revoke: in it the holder can drop what the kernel has cached even
// though that waits for requests under way, and those need pins. It runs at most once per revoke, must return in
// bounded time, and Revoke follows when it has returned and all pins are gone.
type RevokePreparer interface {
	PrepareRevoke(id LockID, to Mode)
}

// Holder is what a file server does for its clerk. The clerk calls with no
// lock of its own held, from goroutines of its own; none of these may call
// Acquire or wait for anything that could wait for another revoke.
type Holder interface {
	// Revoke gives id up down to mode `to` (None or Shared). It is called when no pin
	// is left and no new pin of a mode above `to` is given out until it returns. It commits the dirty state of that
	// inode, drops or downgrades cached copies (the kernel's too) and returns the
	// index of the last record that touched it (0: none) and whether the inode is
	// still open here. It retries inside; it returns an error only when the session is over.
	Revoke(id LockID, to Mode) (index uint64, open bool, err error)
	// LeaseExpired is called when the lease ran out (it may come back): nothing
	// may be answered from caches until WaitLease returns nil.
	LeaseExpired()
	// SessionEnded is called once when the session is over for good (fenced): all
	// caches are void, dirty data is lost and must be reported, a new session is to be opened.
	SessionEnded(cause error)
}
