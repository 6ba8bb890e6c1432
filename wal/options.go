package wal

import (
	"time"

	"dfs/internal/errors"
)

// Options of a Writer. The zero value of a field means its default.
type Options struct {
	// RecordBytesTarget is the size in bytes at which a record is sealed; an operation
	// greater than it goes in a record of its own, up to RecordBytesMax. Default 272 KiB:
	// two writes of 128 KiB, or one of 256 KiB, with their metadata.
	RecordBytesTarget int
	// PendingBytesMax bounds the bytes that are not durable yet, through Admit. Default 32 MiB.
	PendingBytesMax int64
	// FlushAfter is the age at which the running transaction is sealed. Default 1 s, at most 4 s.
	FlushAfter time.Duration
	// FlushesInFlight is the number of records in flight up to which a Flush seals at
	// once; beyond, it waits for the next acknowledgement, so that more waiters share the record. Default 4.
	FlushesInFlight int
	// OnDurable, if set, is called with each generation that became durable, in order, from the sink's
	// goroutine and with no lock held. Durable tells of the generation then already; Flush returns afterwards. It must be
	// quick, and must not wait for the Log.
	OnDurable func(Gen)
}

// Validate checks the values: KindInvalid.
func (o *Options) Validate() error {
	switch {
	case o.RecordBytesTarget < 0 || o.RecordBytesTarget > RecordBytesMax:
		return errors.New(errors.KindInvalid, "wal: RecordBytesTarget %d is not within 0 and %d", o.RecordBytesTarget, RecordBytesMax)
	case o.PendingBytesMax != 0 && o.PendingBytesMax < 2*RecordBytesMax:
		return errors.New(errors.KindInvalid, "wal: PendingBytesMax %d is below two records of %d", o.PendingBytesMax, RecordBytesMax)
	case o.FlushAfter < 0 || o.FlushAfter > 4*time.Second:
		return errors.New(errors.KindInvalid, "wal: FlushAfter %v is not within 0 and 4s", o.FlushAfter)
	case o.FlushesInFlight < 0:
		return errors.New(errors.KindInvalid, "wal: FlushesInFlight %d is negative", o.FlushesInFlight)
	}
	return nil
}

func (o *Options) setDefaults() {
	if o.RecordBytesTarget == 0 {
		o.RecordBytesTarget = 272 << 10
	}
	if o.PendingBytesMax == 0 {
		o.PendingBytesMax = 32 << 20
	}
	if o.FlushAfter == 0 {
		o.FlushAfter = time.Second
	}
	if o.FlushesInFlight == 0 {
		o.FlushesInFlight = 4
	}
}

// Stats tells what a Writer has done and holds. Counters rise from its start.
type Stats struct {
	PendingBytes   int64  // running and sealed, not durable yet
	PromisedBytes  int64  // admitted and not committed yet
	InFlight       int    // records sealed and not durable yet
	AdmitWaiters   int    // callers of Admit that wait
	Ops            uint64 // operations committed
	OpBytes        uint64 // what they would have been as records of their own
	AbsorbedBytes  uint64 // changed in place in the running transaction
	Records        uint64 // sealed
	RecordBytes    uint64 // of those, encoded
	SealedFull     uint64 // records sealed because they were full
	SealedConflict uint64 // ... because a trim or a zeroing met bytes in it
	SealedWanted   uint64 // ... because of a Flush or an Admit
	SealedOld      uint64 // ... because of their age
}
