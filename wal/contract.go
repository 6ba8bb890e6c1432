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
package wal

import "context"

// Gen numbers running transactions, from 1, rising by one with each sealed record.
type Gen uint64

// Sink takes encoded records in order; see blockstore.Sink, which has the same
// method and states the contract.
type Sink interface {
	Submit(record []byte, done func(index uint64, err error))
}

// Log is what a file server needs of its write-ahead log. *Writer implements it.
type Log interface {
	// Admit waits until `bytes` more may be pending (dirty bytes are bounded by
	// Options.PendingBytesMax). Call it before locks that a flush may need are taken... and
	// never between Commit calls of one step. It returns ctx's error, or the sink's final one.
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
