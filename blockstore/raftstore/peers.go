package raftstore

import (
	"context"

	"dfs/blockstore"
	"dfs/wal"
)

// PeerBlock is a block as a replica holds it.
type PeerBlock struct {
	Data    []byte // 4096 bytes, or nil if the block is absent
	Present bool
	Applied uint64 // what the replica had applied when it read the block
	// Copying, of FetchSuspect alone: the replica is itself being made a copy of others, so it has nothing to say.
	Copying bool
}

// PeerUsage tells how full a replica is.
type PeerUsage struct {
	Used uint64 // bytes of the host's disk that the replica's device uses for blocks
	Free uint64 // bytes free there
	FSID string // names the host file system; replicas with the same one share its free space
	// LogToCome is how many of the free bytes this replica's log, and its device's double-write area, may yet take.
	LogToCome uint64
}

// PeerFetcher reads from other replicas. blockrpc implements it over gRPC; its server answers with the
// Node's Serve methods, which have the same shapes. addr is a node's host:port. Calls are bounded by ctx alone. Errors:
// KindUnavailable, KindNotReached (the replica has not applied minApplied), KindCorrupt (it has no good copy itself).
type PeerFetcher interface {
	// FetchChunks lists up to max chunks after `after` (nil: from the start), ascending, and what the replica had applied
	// after it made the list.
	FetchChunks(ctx context.Context, addr string, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, uint64, error)
	// FetchChunk returns one chunk, every block checked, and what the replica had applied
	// after it read it. A chunk without a present block comes back empty.
	FetchChunk(ctx context.Context, addr string, id blockstore.ChunkID, minApplied uint64) (blockstore.ChunkData, uint64, error)
	// FetchBlock returns one block, checked.
	FetchBlock(ctx context.Context, addr string, block wal.Addr, minApplied uint64) (PeerBlock, error)
	// AppliedIndex tells what the replica has applied (and may be read at).
	AppliedIndex(ctx context.Context, addr string) (uint64, error)
	// Usage tells how full the replica is.
	Usage(ctx context.Context, addr string) (PeerUsage, error)
}

// SuspectFetcher is what a PeerFetcher may offer besides: without it a block that a power failure tore on all
// replicas stays damaged.
type SuspectFetcher interface {
	// FetchSuspect returns a block even if it is suspect there (torn by a crash, then redone): its content is what redo
	// made of it. KindCorrupt if it is damaged otherwise. A replica that is being copied to says so instead. Node.ServeSuspect answers it.
	FetchSuspect(ctx context.Context, addr string, block wal.Addr, minApplied uint64) (PeerBlock, error)
}
