// Package wal is the data-mode write-ahead log of a file server: the record
// and its codec, the running transaction into which operations put their block
// changes, group commit, and redo of a record onto a device. It knows nothing
// of Raft, gRPC, files or locks.
//
// # Contract
//
// An operation collects its changes in an Op and hands it to Log.Commit, which
// adds the whole Op to the running transaction: never split over two
// records. The running transaction is sealed into a record when it is full, when somebody
// waits for it (Flush), or when it is old; sealed records go to the sink in
// order, several in flight. So what survives a crash of the file server is a
// prefix of its operations, each whole.
//
//	Commit ──► running transaction ──seal──► queue ──► sink ──► acknowledged, in order
//	           (memory, one)                 (one goroutine)    Durable, OnDurable, Flush returns
//	           └──────────── bounded by Admit: PendingBytesMax ─────────┘
//
// What Commit took is in memory alone; what Flush returned for is durable as
// the sink says it is (blockstore.Sink: fsynced in the logs of a majority). With a sink that
// works nothing stays in memory longer than Options.FlushAfter and one
// acknowledgement. A sink's error is final: the Writer takes nothing more, what was not
// acknowledged is lost, and everybody is told.
//
// # Locks
//
// A Writer has one mutex. It is held to copy an operation's bytes (the one
// copy there is) and to keep the books; no checksum is made, no callback called and nothing
// waited for under it. The sink is called by the Writer's own goroutine, so
// Commit never waits for the network, nor for a sink that is slow to take a record.
//
// # Recovery
//
// A file server keeps nothing on a disk of its own, so recovery is the replica's:
//
//  1. It finds the index of its last checkpoint.
//  2. For each log entry behind it, in order, the state machine says whether the entry's record applies.
//  3. DecodeRecord checks it; one that cannot be decoded stops the node.
//  4. Redo puts it on the device. Redo is physical, hence idempotent, so a
//     device that was ahead of its checkpoint, even torn, ends up right in all bytes that the records name.
//
// The format of a record stands beside its encoder, in codec.go.
package wal

import "context"

// Gen numbers running transactions, from 1, rising by one with each sealed record.
type Gen uint64

// Sink takes encoded records in order; see blockstore.Sink, which has the same
// method and states the contract.
type Sink interface {
	Submit(record []byte, done func(index uint64, err error))
}

// Releaser is a Sink that tells of records to which nothing refers any more on its side, so that their memory can hold others.
// It tells of a record once, after its done was called without an error, and need not tell of every one. OnRelease is called
// before the first Submit.
type Releaser interface {
	Sink
	OnRelease(f func(record []byte))
}

// Log is what a file server needs of its write-ahead log. *Writer implements it.
type Log interface {
	// Admit waits until `bytes` more may be pending (dirty bytes are bounded by
	// Options.PendingBytesMax), and promises them to the next Commit. Call it before taking
	// locks that a flush may need, and never between the Commit calls of one step. It returns
	// ctx's error, or the sink's final one.
	Admit(ctx context.Context, bytes int) error
	// Commit adds op, whole, to the running transaction and returns its
	// generation. It copies what op refers to. It does not wait.
	Commit(op *Op) (Gen, error)
	// Flush returns when every transaction up to gen is durable (gen 0: everything
	// committed so far), or with ctx's error (the records stay pending), or the sink's final error.
	Flush(ctx context.Context, gen Gen) error
	// Durable is the newest generation g such that all up to g are durable.
	Durable() Gen
	// LastIndex is the greatest index that the sink has acknowledged.
	LastIndex() uint64
}

// Device is where records are redone. Errors are final for the device.
type Device interface {
	// Trim makes the blocks absent.
	Trim(Span) error
	// Zero makes the blocks present, holding zeros.
	Zero(Span) error
	// Write applies ranges in order. Ranges that follow each other in address
	// order and cover whole blocks may be written in one go.
	Write([]Range) error
}
