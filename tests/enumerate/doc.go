// Package enumerate crashes short sequences of operations at every point there is, one after the other, and looks at what a
// restart finds: in the manner of ACE and CrashMonkey, without a kernel.
//
// # What is enumerated
//
// A sequence is one or two operations on a small tree (A/, A/foo, A/bar, B/, B/foo and an empty directory), each followed by one of:
// nothing, fsync, fdatasync or fsync of the directory of what it changed, fsync of the root. The same sequence on a server that does
// not crash is the oracle: what it shows after each operation, with all attributes but the access time, are the only states that a crash may leave.
//
//   - TestRecords: the file server crashes behind each record that it wrote. Another mounts what the store holds then.
//   - TestWrites: the machine loses power at each write, sync, rename or commit that reaches the disk below the Raft log, the device
//     and their small files. Of what was not synced nothing survives, or all (the process alone died), or a part (see internal/simdisk). The node starts,
//     another file server mounts.
//
// After each: the mount works, what it shows is one of the oracle's states, not older than what an fsync had acknowledged (R2, R3);
// fsck finds nothing, before the orphans are freed and behind it.
//
// The short run takes all sequences of length one, and some of length two, by a seed that is printed. With DFS_SOAK_MINUTES set all of length two
// are taken (no longer than that), and the counts printed.
package enumerate
