// Package layout is the on-disk format of the file system: pure encoders,
// decoders and algorithms over blocks. No I/O, no locks, no goroutines.
//
// # Where things lie
//
// The block store is a set of sparse virtual disks (vdisks) of 4 KiB blocks.
//
//	vdisk                      block               holds
//	ino (1 .. 1<<61-1)         0 .. 1<<48-1        a file's bytes, offset/4096; a long symlink target (block 0)
//	ino of a directory         0 .. buckets-1      its hash buckets
//	ino of a directory         1<<50 ..            overflow blocks of buckets
//	ino                        1<<51 + 16*slot ..  the value of a large extended attribute
//	1<<61                      0                   the superblock
//	1<<62 | writer             page                that writer's orphan list
//	1<<63 | ino>>40            ino & (1<<40-1)     the inode, one block each
//
// # Contract
//
// An absent block reads as zeros; an inode block that is absent (all zeros) is
// a free inode. The checksum of every block is kept by the block store, seeded
// with the block's address; therefore the blocks here, which change a few
// bytes at a time, carry a magic, a version and their owner, but no checksum of
// their own (the superblock, which never changes a few bytes at a time, does).
//
// Every decoder checks everything that a later step relies on and tells three
// errors apart: KindForeign (not our magic), KindTooNew (a version or feature
// that this binary does not know) and KindCorrupt. None panics on garbage.
//
// Functions that change an Inode and blocks through the Blocks interface
// either return one of the errors their comment lists as "nothing changed", or
// may leave both half changed: the caller then drops the operation and what
// it collected.
//
// Inode.Blocks counts the present blocks of the inode's own vdisk, exactly.
// Directory and attribute functions keep it; for file data the file server
// does. So the change in allocated blocks of an operation is the sum of the
// changes of Inode.Blocks, plus inode blocks and orphan pages made or freed.
package layout
