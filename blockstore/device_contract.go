package blockstore

import (
	"io"

	"dfs/wal"
)

// ChunkID names a chunk: the unit in which the local device lays out windows,
// remembers the last change, and is copied to a replica that is behind.
// Chunk 0 of a vdisk are its blocks 0..15, chunk 1 its blocks 16..255, and chunk n > 1 its
// blocks (n-1)*256 .. (n-1)*256+255.
type ChunkID struct {
	VDisk uint64
	Chunk uint64
}

// ChunkInfo is what a listing tells of a chunk that has at least one present block.
type ChunkInfo struct {
	ChunkID
	LastIndex uint64 // the log index that changed it last
}

// ChunkData is one chunk's content: a presence bitmap (LSB first, one bit a block of
// the chunk) and the data of the present blocks in order.
type ChunkData struct {
	ChunkInfo
	Present []byte
	Data    []byte
}

// BadBlock is a block whose stored checksum does not fit.
type BadBlock struct {
	wal.Addr
	LastIndex uint64 // of its chunk when it was found
	Suspect   bool   // a redo met it already damaged (torn by a crash): content is known to be incomplete
	Sum       uint32 // the stored checksum that its content does not fit, for Fits; 0: it is not known
}

// Device is a node's local store of blocks: what raftstore drives. *device.Device implements
// it. Apply, Checkpoint-begin and PutChunk come from one goroutine; reads are concurrent with them.
type Device interface {
	// Apply redoes rec as of log index. Calls come in rising order of index; an index at or below
	// Applied() must not be given. What it changed is seen by every call that begins after it returns, although it may still be on
	// its way to the disk. After an error the device is dead and the process must stop; an error of a write
	// that is on its way is told by the next call.
	Apply(index uint64, rec *wal.Record) error
	// Advance sets the applied index without a change of blocks.
	Advance(index uint64)
	// Applied is the index of the last Apply or Advance.
	Applied() uint64
	// EndRedo says that everything that was applied before the device was opened has been redone: called once, between the last
	// Apply of the redo and the first behind it, and before any read. From then on lost checksums are not taken for a crash's.
	EndRedo()
	// Read reads count blocks from block on into dst, checking every checksum; present gets the bitmap. Blocks
	// that do not fit are returned in bad (their dst bytes are undefined, but for a Suspect one: what redo made of it).
	Read(span wal.Span, dst, present []byte) (bad []BadBlock, err error)
	Presence(span wal.Span, present []byte) error
	// SkipAbsent returns the first block at or after block that may be present, MaxUint64 if there is none: what is between is absent.
	SkipAbsent(vdisk, block uint64) (uint64, error)
	// Repair puts data in place of a bad block if its chunk's last index is still bad.LastIndex and
	// the block is still bad; done tells whether it did.
	Repair(bad BadBlock, data []byte, present bool) (done bool, err error)
	// Fits tells whether data has the checksum that bad was to have: it is what the block held then, from wherever it comes. For
	// a Suspect one only if it rotted, was changed in part after the redo was over, and the device was not opened anew since: else its
	// checksum is of what redo made of it, and nothing fits.
	Fits(bad BadBlock, data []byte) bool
	// Checkpoint makes everything applied so far durable together with meta (the state machine's encoded
	// state at exactly that index) and returns that index. Begin runs between two Applies and is quick; finish does the slow part
	// (fsync) while Applies go on. After an error the device is dead.
	Checkpoint(meta []byte) (index uint64, finish func() error, err error)
	// CheckpointWanted tells that what only a checkpoint makes needless has grown large on the disk.
	CheckpointWanted() bool
	// Meta returns the meta and the index of the last finished checkpoint (index 0: none).
	Meta() (index uint64, meta []byte)
	// Chunks lists chunks with present blocks in ascending order after `after` (nil: from the start), up to max.
	Chunks(after *ChunkID, max int) ([]ChunkInfo, error)
	// ReadChunk returns a chunk's content, checked; bad blocks are left out of Present and listed.
	ReadChunk(id ChunkID) (ChunkData, []BadBlock, error)
	// PutChunk replaces a chunk's content (catch-up); a chunk with no present block is removed.
	PutChunk(c ChunkData) error
	// ResetTo declares the device's content to be that of index with meta (end of a catch-up): a finished checkpoint.
	ResetTo(index uint64, meta []byte) error
	// ScrubNext checks the next few chunks after `after` and returns bad blocks and the next position (nil at the end).
	ScrubNext(after *ChunkID, maxChunks int) (bad []BadBlock, next *ChunkID, err error)
	// Usage tells what the device takes on the host's disk.
	Usage() (DeviceUsage, error)
	io.Closer
}

// DeviceUsage is what a device takes on the host's disk, in bytes.
type DeviceUsage struct {
	Used       uint64 // in all
	Scratch    uint64 // of Used: for other than blocks and what describes them
	ScratchMax uint64 // about what Scratch may grow to
	Free       uint64 // on that disk
}
