// Package device is the local block device of one node: the blocks of every
// virtual disk, kept in sparse files of the host, with a checksum for each.
//
// # Contract
//
// The Raft log is the redo log. Apply changes blocks in place and syncs nothing; a
// checkpoint makes everything up to an index durable, together with the state
// machine's state at that index; after a crash the log is redone from there. What
// was applied after the last finished checkpoint may be on the disk whole, in
// part or not at all, in 512-byte sectors: redo brings each block to its exact content. Blocks that were changed
// in part are put back from the double-write area first (double.go). Where that is damaged, those that were torn are marked as
// suspect in the checksum file and told as bad until another replica's content is put in
// their place (Repair), or they are rewritten whole or trimmed.
//
// A read checks every block. A block is never torn to a reader, nor seen with
// the checksum of another version. Any error of a write, a sync or the map makes the
// device dead: every later call returns that error, and the process must stop.
//
// # Layout
//
//	lock            held by flock while the device is open; names the process
//	device.meta     header: which node of which cluster (header.go)
//	map.db          bbolt: (vdisk, chunk) -> window, last index, present blocks; index and
//	                meta of the last checkpoint (chunkmap.go)
//	small.NNNN.data windows of 16 blocks, for chunk 0 of each vdisk; 1 TiB a file
//	large.NNNN.data windows of 256 blocks, for all other chunks; 1 TiB a file
//	*.NNNN.sum      4 bytes for each block of the data file (sum.go)
//	double.0, .1    images of blocks that were changed in part since the last checkpoint (double.go)
//
//	              window 0            window 1            window 2
//	large.0000.data ├─ 256 x 4096 B ──┼─ 256 x 4096 B ────┼──── … sparse: holes where nothing is present
//	large.0000.sum  ├─ 256 x 4 B ─────┼─ 256 x 4 B ───────┼──── … 0: absent
//
// Chunk 1 has 240 blocks and leaves the rest of its window unused. Slot i of a window is block i of its chunk.
//
// # Rules of the layout
//
//   - A window that no chunk has is empty: its sums are 0, so a chunk that gets it starts absent. Its data is a hole, but for a number of spare
//     windows that keep theirs for the next chunk to write over (spare.go).
//   - A window that the last finished checkpoint names stays untouched by other chunks until a
//     checkpoint that does not name it is finished (quarantine). So redo always meets the chunk's own past.
//   - The map in memory is the committed one, overlaid by the frozen delta (a checkpoint being finished), overlaid by
//     the delta since.
//   - Counts are made from the sums, which may be ahead of the map after a crash, never from the map; where both
//     differ in a chunk that redo does not touch, sums were lost (doubt.go).
//
// # Recovery
//
//  1. Lock the directory, check the header against node and cluster.
//  2. Open the map: the chunks and the state of the last finished checkpoint.
//  3. Mark the windows it names; two owners, or one beyond the files' end, is damage.
//  4. Empty every other window, data and sums: what a crash left there belongs to nobody.
//  5. Put torn blocks back from the double-write area (a device in the midst of a catch-up needs none).
//  6. The caller redoes the log from Meta's index. A range inside a block whose
//     sum does not fit is applied all the same and the block marked as suspect, unless it comes to fit the
//     sum by that (suspects.go).
//
// Until the redo has passed the last index that the log held at the start, the content may be newer than
// Applied in places: serve no read before.
//
// # Catch-up
//
// The first PutChunk writes what is late or behind, and makes a mark durable, before it changes anything; from then on the device is
// incomplete, also after a restart: it serves no reads and applies nothing until ResetTo has made the new content, index and
// meta durable in one step.
//
// # Locks
//
// Order: Device.life (shared; alone in Close), commitMu, a chunk's mu, double.mu (over the I/O of a save), then any one of behind.mu, cache.mu, late.mu, mapMu, suspects.mu,
// fileSet.mu, which are held for a few instructions. A chunk's lock is held over the I/O of that chunk alone, never two at once.
//
// # Direct I/O
//
// Runs of 128 KiB and more are not waited for: they are gathered up to the end of their chunk and written past the page cache
// (O_DIRECT) beside the next Applies (behind.go). Up to 16 blocks of a chunk, and all that are changed in part, are kept in memory, 4 MiB of them at most, until others take their
// place or a checkpoint comes (late.go). The rest goes through the cache at once. So little is left for a
// checkpoint's sync to write in one burst beside the log's. The kernel keeps the two coherent; a chunk's lock keeps
// them from meeting in one range.
package device
