package seglog

import (
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"time"

	"dfs/internal/errors"
)

// segmentBytesLimit bounds Options.SegmentBytes and what a header may claim.
const segmentBytesLimit = 1 << 30

// Options of a log. The zero value of a field means its default.
type Options struct {
	// SegmentBytes is the size of a segment (default 64 MiB, a multiple of Block, 64 KiB to 1 GiB).
	// It may change between runs; old segments keep their size until they are recycled.
	SegmentBytes int64
	// GroupBytes is about how much one write carries at most (default 8 MiB and a bit, so that 16 entries of
	// 512 KiB go in one). A longer Append is written as several groups, one after another.
	GroupBytes int64
	// FreeMax is how many free segments are kept for reuse (default 6); more are removed.
	FreeMax int
	// SpareAfter is how many bytes must stand in the active segment before a
	// spare one is filled with zeros in the background (default 1 MiB).
	SpareAfter int64
	// FillBytesPerSecond limits that filling (default 200 MB/s).
	FillBytesPerSecond int64
	// IdleRelease is after how long without use the buffers are given back (default 5 s).
	IdleRelease time.Duration
	// VerifyAll makes Open check the bytes of every entry, not only of the active segment.
	VerifyAll bool
	// Buffered writes through the page cache and fdatasync even where O_DIRECT works.
	Buffered bool
	// Logger is required to be told of torn tails and the write mode; nil discards.
	Logger *slog.Logger
	// FS replaces the directory of the host (tests). Open's dir is then only a name.
	FS FS
	// Salt draws the salt of a segment's use (tests); default: crypto/rand.
	Salt func() uint64

	manual bool // no background goroutine: tests call fillOne themselves
}

// Validate fills in defaults and refuses what makes no sense (KindInvalid).
func (o *Options) Validate() error {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.GroupBytes == 0 {
		o.GroupBytes = 8<<20 + 64<<10
	}
	if o.FreeMax == 0 {
		o.FreeMax = 6
	}
	if o.SpareAfter == 0 {
		o.SpareAfter = min(1<<20, o.SegmentBytes/4)
	}
	if o.FillBytesPerSecond == 0 {
		o.FillBytesPerSecond = 200e6
	}
	if o.IdleRelease == 0 {
		o.IdleRelease = 5 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Salt == nil {
		o.Salt = randomSalt
	}
	switch {
	case o.SegmentBytes < 64<<10 || o.SegmentBytes > segmentBytesLimit || o.SegmentBytes%Block != 0:
		return errors.New(errors.KindInvalid, "log segment size %d: must be a multiple of %d from 64 KiB to %d bytes", o.SegmentBytes, Block, segmentBytesLimit)
	case o.GroupBytes < Block || o.FreeMax < 0 || o.SpareAfter < 0 || o.FillBytesPerSecond < 1<<20 || o.IdleRelease < 0:
		return errors.New(errors.KindInvalid, "log options out of range: %+v", *o)
	}
	return nil
}

func randomSalt() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return binary.LittleEndian.Uint64(b[:])
}
