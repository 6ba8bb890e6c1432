// Package simdisk is a machine's disk in memory, for tests that take its power away, let it fail, fill up, hang or rot. A Disk
// stands in for the files of the device (Volume), the directory of the Raft log (Log) and, as raftstore.Power, for what decides
// about the files that stay on the host.
//
// # Fault model
//
// Every write, sync, change of a size or name, and every Commit is an operation: an Op. Within one of them the power of a Power,
// which several disks may share, can fail; every later one fails with ErrPower. What Lose(Torn) then leaves is this:
//
//   - A sector of 512 bytes of a file that was written since the file's last Sync holds any one of the versions that it had since then,
//     the synced one among them. So a write may be torn in any way, and later writes may survive without earlier ones. A
//     file's size likewise. Now and then all that a file was not synced of is lost, or nothing: a host writes back in bursts.
//   - A durable write of the log (O_DSYNC) is on the disk when it has returned nil; one that the power failed in is torn as above.
//   - Of the names made, renamed and removed in the log's directory since its last SyncDir a prefix survives. Files of the device are
//     created durably, or not at all.
//   - A sync that the power failed in has done nothing for certain: what it was asked for is lost or not, as before.
//   - What Commit changes (term and vote, the chunk map, manifests, node.json) changes whole or not at all: where the power failed
//     in it, either. The packages that write those files are trusted to do so.
//
// Lose(Everything) leaves what was synced alone, Lose(Nothing) all, as of a process that was killed.
//
// Without a loss of power: an operation that ErrorsIn names fails with EIO and does nothing (a durable write that failed so has not begun).
// A disk whose room is set has ENOSPC for a write that needs more, which then does nothing. While one hangs, writes, syncs and
// commits wait. Rot turns over a bit of what is synced. Reads never fail.
//
// All that is drawn comes from the generator that the Power was given, and is drawn in an order that the operations alone decide:
// the same operations and the same seed leave the same disk (TestKeptChoices holds it to that, for the seeds that tests keep).
//
// # Crash points
//
// A disk that records keeps its operations. With Clone, Redo and Crash the disk at each moment is made again from a copy of it as it was
// before, crashed within the next operation, and told from others by its Sum.
package simdisk
