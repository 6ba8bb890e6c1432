// Package check judges what clients of a file system saw while faults were made: are there an order in which the
// operations could have been done one after the other, each between its call and its return, and are their answers those of
// that order (linearizability)? The search is porcupine's.
//
// # The models
//
//	Registers    write, read of a block: a read gives what was last written
//	Appends      append to a file, read of the whole file: everything that was appended, in one order for all
//	Existence    exclusive create, unlink, stat of a name
//	Names        symlink (a create with content), rename, unlink and readlink in one directory
//	Counters     read, increment and write back under a file lock: no number is given twice, none is left out
//
// # Unknown outcomes
//
// An operation that failed with EIO, or whose mount died, may have been done, at any time after its call, or never. It stays
// in the history with an open end (Operation.Unknown). A failed read tells nothing and changes nothing, so it is taken out
// (Operation.Void).
//
// What a mount answered before it was durable may be lost if that mount dies, or loses its lease: R3 and R5 promise a
// prefix and an error, no more. Unsynced keeps those operations: when an fsync succeeded they are kept, when an error was told
// their effects become unknown, and what was read meanwhile through the same mount is void.
package check
