// Package seglog is a segmented log file: entries with consecutive indexes are
// appended in groups, each durable when Append returns, and truncated at both
// ends. It knows nothing of Raft.
//
// # Contract
//
//   - Append returns nil only when every entry it was given is on stable storage.
//     After a crash everything acknowledged is there; of an Append that was under
//     way, a prefix may be. Nothing else: no entry of an earlier use of a file, and
//     none that a truncation removed.
//   - TruncateFront, TruncateBack are durable when they return.
//   - Indexes are consecutive. Only an empty log may be given any index next.
//   - After a failed write, sync or rename the log is dead: nothing is tried again and
//     every call but Stats, First, Last and Close returns that error. A failed
//     preparation of a spare segment is only logged.
//   - Methods are safe for concurrent use; one Append or truncation runs at a time,
//     and Get does not wait for them.
//
// # Layout
//
// A log is a directory, locked by its one user:
//
//	seg-<n>    segment n of the log, n in hexadecimal, rising
//	free-<n>   a file written over its whole length once, waiting to become a segment; all of them have a quarter at most of what would be free on the disk without them
//	fill-<n>   the same, not finished: worth nothing after a restart
//	newest-<n> empty; segment n was begun (0: none was)
//
// All segments have one size (Options.SegmentBytes). Block 0 is the header, groups
// follow, each from a 4 KiB boundary on, so that no block that holds an acknowledged
// entry is ever written again:
//
//	0        4096                                       SegmentBytes
//	┌────────┬─────────────────┬───────┬─────────────┬───────────────────┐
//	│ header │ group           │ group │ group       │ zeros or older use│
//	└────────┴─────────────────┴───────┴─────────────┴───────────────────┘
//	          └ head 64 │ table: 8 bytes an entry │ entry bytes │ zeros to 4 KiB
//
// The header carries a salt drawn for this use of the file; every group repeats it,
// with its own position and the checksum of the group before (the chain). So what an
// older use left behind is never taken for new. The header also names the segment
// before (its number, where its groups end, and its chain there) and its own first
// index, from which on it overrides all older segments: that is how TruncateBack works.
//
// A plain append writes into blocks that were all written before and so changes no
// metadata of the host file system; that is what makes its sync cheap. Correctness does
// not rest on it: a segment used before a filled one was ready is a sparse file, and
// O_DSYNC (or fdatasync) makes the allocation durable too.
//
// # Recovery
//
//  1. List the directory; remove fill-*; note free-*. Read the header of every seg-*.
//     A header is durable before the file gets its seg- name, so a bad one is damage.
//     A newest-<n> without a segment of that number or a greater one means that the newest
//     segment was lost: damage. It may be less after a crash, and is made right.
//  2. The segment with the greatest number is the active one. From it follow the
//     "segment before" numbers. Segments not reached are void (truncated away, the
//     rename not done yet) and are recycled. A segment that is named but missing is
//     damage, unless the log's first index says it was truncated at the front.
//  3. Walk the groups of the reached segments, oldest first. A sealed segment must hold
//     good groups up to exactly the end and chain that its successor names: else
//     KindCorrupt, with file, offset and index.
//  4. The active segment is synced first, so that what is read is what would survive.
//     Its groups are checked whole, entries too. At the first that is not good, the
//     rest of the segment is searched for a good group head of this use: one found
//     means damage (KindCorrupt); none means a torn tail, and the log ends there.
//  5. Entries at or above a successor's first index are dropped from older segments, and
//     those below the newest recorded first index of the log.
//
// Entry bytes of sealed segments are verified when they are read (or at Open with
// Options.VerifyAll).
//
// # Memory
//
// 12 bytes an entry of index (an entry takes at least 8 bytes of the log beside its own, so who bounds the
// log's bytes bounds the index); one write buffer up to the greatest group, one read
// window; both buffers are given back to the system after Options.IdleRelease without use. There is
// no cache of entries here: a caller that has the entries decoded keeps those, and what Run returns is the caller's.
//
// # Lock order
//
// wmu before fmu before mu; rmu is taken with none of them held but wmu.
package seglog
