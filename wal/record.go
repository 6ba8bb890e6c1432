package wal

// BlockSize is the size in bytes of a block of a virtual disk.
const BlockSize = 4096

// RecordBytesMax is the greatest encoded size of one record, in bytes.
// An operation that could exceed it goes in steps (see fs).
const RecordBytesMax = 512 << 10

// Addr names one block: block number Block of virtual disk VDisk.
type Addr struct {
	VDisk uint64
	Block uint64
}

// Range is a change of bytes inside one block: Data replaces the bytes from
// Off on. Off+len(Data) <= BlockSize, len(Data) > 0. A block that was absent
// reads as zeros before the change. A whole block is the range 0..4096. Data of
// a decoded record aliases the encoding: neither change it nor append to it.
type Range struct {
	Addr
	Off  uint32
	Data []byte
	// Sum is the CRC32C of Data, a whole block, if DecodeRecord came by it; 0: unknown. Encoding does not look at it.
	Sum uint32
}

// Span is a run of whole blocks: Count blocks from Block on, in VDisk.
// Count > 0, Block+Count <= BlocksMax.
type Span struct {
	VDisk uint64
	Block uint64
	Count uint64
}

// Record is one atomic change of the block store: it is applied whole or not
// at all. Its parts take effect in the order of the fields: first every Trim,
// then every Zero, then every Range in order.
type Record struct {
	// Trims gives runs of blocks back: they become absent and read as zeros.
	Trims []Span
	// Zeros makes runs of blocks present, holding zeros (an fallocate), without
	// carrying their bytes. What the blocks held before is gone.
	Zeros []Span
	// Ranges are changes inside blocks; a block that was absent becomes present.
	Ranges []Range
	// AllocDelta is the change in the number of present blocks that this
	// record makes; its writer knows it exactly. The state machine counts
	// with it and never with what a device happens to hold.
	AllocDelta int64
}
