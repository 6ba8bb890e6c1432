// Package blockstore is a replicated block device: a set of sparse virtual
// disks of 4 KiB blocks, kept on every node of one Raft group.
//
// # Contract
//
// A block is named by (vdisk, block). One never written is absent and reads as
// zeros. Changes come as records (package wal), sent by writers. A record that
// was acknowledged is fsynced in the Raft logs of a majority of the nodes. The
// records of one writer apply in the order of their sequence numbers, each
// exactly once, whole or not at all; a writer that was fenced or closed changes
// nothing any more, from that log index on.
//
// This package holds the contract and the pure state machine; device holds the
// local block files, raftstore the Raft node, blockrpc the gRPC service and the
// client that file servers use.
package blockstore

import (
	"context"

	"dfs/wal"
)

// WriterID numbers a writer (the session of one file server). Never reused;
// 0 is no writer.
type WriterID uint64

// Epoch numbers a reign of the lock service: the Raft term of the leader that
// began it. Rises; 0 is none.
type Epoch uint64

// Token is a writer's random secret; without it nobody can act for the writer.
type Token [16]byte

// InodeRange is a run of inode numbers, [First, First+Count), given to one
// writer and never to another.
type InodeRange struct {
	First uint64
	Count uint64
}

// Session names a writer as its owner knows it.
type Session struct {
	Writer WriterID
	Token  Token
}

// ReadSpan asks for Count whole blocks from Block on in VDisk.
// 0 < Count <= ReadBlocksMax.
type ReadSpan = wal.Span

// ReadBlocksMax bounds the blocks of one Read call over all its spans
// (256 blocks are 1 MiB).
const ReadBlocksMax = 1024

// ReadResult is what one span of a Read gave.
type ReadResult struct {
	// Data holds Count*4096 bytes; absent blocks are zeros.
	Data []byte
	// Present has bit i (LSB first) set where block i of the span is present.
	Present []byte
}

// Reader reads blocks.
//
// Read returns the blocks of every span as of one applied index that is at
// least minIndex, and that index. Every block's checksum was verified. It goes
// to the nearest replica, and to the leader where that one lags; it waits and
// retries until ctx ends (KindUnavailable or KindTimeout then).
//
// Presence returns, for Count blocks from Block on (Count at most 1<<20), a
// bitmap of the blocks that are present, LSB first.
//
// SkipAbsent returns the first block at or after block that may be present, MaxUint64 if there is none:
// what is between is absent. So a sparse vdisk of any size is walked in steps of what is there.
type Reader interface {
	Read(ctx context.Context, spans []ReadSpan, minIndex uint64) ([]ReadResult, uint64, error)
	Presence(ctx context.Context, span ReadSpan, minIndex uint64) ([]byte, uint64, error)
	SkipAbsent(ctx context.Context, vdisk, block, minIndex uint64) (uint64, error)
}

// Sink takes the records of one writer, in order.
//
// Submit hands over the next record (encoded; the sink owns the slice from now
// on) and returns at once; the sink numbers it, keeps it until it is
// acknowledged, and sends it again under the same number through lost
// connections, leader changes and changes of epoch. done is called exactly
// once for every record, in order, from one goroutine: with the Raft index at
// which it is durable, or with an error once the record can never be applied
// (KindDeadWriter, KindWrongToken: the session is over, and every later record
// fails alike). A lost quorum is not an error here: the record is kept and
// sent again; waiters bound their own waiting. The caller bounds the bytes in flight.
type Sink interface {
	Submit(record []byte, done func(index uint64, err error))
}

// Space is what Store.Space tells, in blocks of 4 KiB.
type Space struct {
	CapacityBlocks uint64 // admitted capacity (about 90% of the smallest replica)
	UsedBlocks     uint64 // present blocks, counted exactly by the state machine
	ReservedBlocks uint64 // reserved by live writers and not used yet
}

// Store is the block store as one file server uses it: bound to a Session.
// Every call retries by itself, under the same request number, until ctx ends.
type Store interface {
	Reader
	Sink
	// TakeInodes gives a fresh range of n inode numbers, 0 < n <= 1<<20.
	TakeInodes(ctx context.Context, n uint64) (InodeRange, error)
	// Reserve adds n blocks to what the writer may allocate by its records
	// (each block of a positive AllocDelta uses one up; a negative AllocDelta gives space back
	// to the store, not to the reservation). KindNoSpace if they are not there.
	Reserve(ctx context.Context, n uint64) error
	// Unreserve gives up to n unused reserved blocks back.
	Unreserve(ctx context.Context, n uint64) error
	// Space tells capacity and use.
	Space(ctx context.Context) (Space, error)
	// Retired lists writers that ended and may have left an orphan list.
	Retired(ctx context.Context) ([]WriterID, error)
	// ForgetRetired strikes a writer whose orphan list has been emptied.
	ForgetRetired(ctx context.Context, w WriterID) error
	// LastIndex is the index of this writer's newest acknowledged record, 0 before the first.
	LastIndex() uint64
}
