package fs

import (
	"log/slog"
	"time"

	"dfs/fs/layout"
	"dfs/internal/errors"
)

const blockSize = layout.BlockSize

// Options are a Server's settings. The zero value of a field means its default.
type Options struct {
	// CacheBytes bounds the block cache, in bytes (default 256 MiB); at least one block.
	// Dirty blocks may exceed it for a moment (their bytes are bounded by the log's own limit).
	CacheBytes int64
	// CacheBlocks, if not 0, is the bound in blocks instead.
	CacheBlocks int
	// CacheInodes bounds the decoded inodes kept beside it (default 16384), open files not counted.
	CacheInodes int
	// ReadAheadBytes is the greatest read-ahead of one sequential reader (default 4 MiB; negative: none).
	ReadAheadBytes int
	// QuorumWait bounds every wait for the cluster in one call; then EIO (default 60 s; negative: for ever).
	QuorumWait time.Duration
	// InodeBatch is how many inode numbers are taken at a time (default 4096).
	InodeBatch uint64
	// ReserveBatch is how many blocks are reserved at a time (default 16384, 64 MiB).
	ReserveBatch uint64
	// RootUID, RootGID, RootMode are those of the root directory if this server makes it (default mode 0755).
	RootUID, RootGID, RootMode uint32
	// OrphanInterval is how often left orphans and retired writers are looked at (default 30 s; negative: never).
	OrphanInterval time.Duration
	// NoAtime leaves access times alone (the mount options noatime and ro).
	NoAtime bool
	// Invalidator drops kernel caches; nil: there is no kernel.
	Invalidator Invalidator
	// SessionEnded, if not nil, is called (on a goroutine of its own) when the session was ended for good:
	// open a new one and call Server.Attach.
	SessionEnded func(cause error)
	// Now is the clock for time stamps (default time.Now).
	Now func() time.Time
	// Logger; nil discards.
	Logger *slog.Logger
}

// Validate fills in the defaults and refuses what makes no sense (KindInvalid).
func (o *Options) Validate() error {
	if o.CacheBytes < 0 || o.CacheBlocks < 0 || o.CacheInodes < 0 {
		return errors.New(errors.KindInvalid, "fs: a cache limit is negative")
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 256 << 20
	}
	if o.CacheBlocks == 0 {
		o.CacheBlocks = int(max(1, o.CacheBytes/blockSize))
	}
	if o.CacheInodes == 0 {
		o.CacheInodes = 16384
	}
	if o.ReadAheadBytes == 0 {
		o.ReadAheadBytes = 4 << 20
	}
	if o.QuorumWait == 0 {
		o.QuorumWait = 60 * time.Second
	}
	if o.InodeBatch == 0 {
		o.InodeBatch = 4096
	}
	if o.InodeBatch > 1<<20 {
		return errors.New(errors.KindInvalid, "fs: InodeBatch %d is above %d", o.InodeBatch, 1<<20)
	}
	if o.ReserveBatch == 0 {
		o.ReserveBatch = 16384
	}
	if o.RootMode == 0 {
		o.RootMode = 0o755
	}
	if o.RootMode&^0o7777 != 0 {
		return errors.New(errors.KindInvalid, "fs: RootMode %#o has more than permission bits", o.RootMode)
	}
	if o.OrphanInterval == 0 {
		o.OrphanInterval = 30 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
