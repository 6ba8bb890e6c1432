// Package fsck checks a file system: it reads one replica's blocks, changes
// nothing, and reports what does not fit together.
//
// # Contract
//
// The blocks must not change during a check: check a stopped node's device, or a replica
// whose applying is held. Check looks at
//
//  1. the superblock;
//  2. every inode block: format, number, attributes;
//  3. orphan lists: an inode is listed as unlinked if and only if its link count is 0, and
//     as truncating (or unlinked) if its flag says so;
//  4. every vdisk: that an inode owns it, that the inode counts its present blocks
//     exactly, that blocks are where its type, size and flags allow, and that bytes past the end of a file are zeros;
//  5. every directory: its structure, what its names lead to, types, "..";
//  6. link counts, inodes without a name, directories that cannot be reached from the root;
//  7. the number of present blocks against the state machine's counter.
//
// A store without a single present block, of which the state machine says the same, was never mounted: Report.Empty.
//
// Memory: about 80 bytes an inode, and the bounded list of problems.
package fsck

import (
	"context"
	"fmt"
	"io"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// Reader reads one replica. It is used from one goroutine.
type Reader interface {
	// Chunks lists up to max chunks that have present blocks, ascending, after `after` (nil: from the start).
	Chunks(ctx context.Context, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, error)
	// Presence returns a bitmap, LSB first, of the present blocks of a span of at most 256 blocks.
	Presence(ctx context.Context, span wal.Span) ([]byte, error)
	// Read returns the blocks of a span of at most 256, absent ones as zeros, and their bitmap. KindCorrupt
	// if a block's checksum does not fit.
	Read(ctx context.Context, span wal.Span) (data, present []byte, err error)
}

// Options of a check. The zero value checks everything but the counter.
type Options struct {
	// UsedBlocks is the state machine's count of present blocks; nil: do not compare.
	UsedBlocks *uint64
	// ProblemsMax bounds Report.Problems; 0 means 1000.
	ProblemsMax int
	// SkipData leaves out the reading of the last block of every file (bytes past the end).
	SkipData bool
	// Progress, if set, is called now and then with the step and what has been done of it (in its own units).
	Progress func(step string, done uint64)
}

// Validate checks the options. KindInvalid.
func (o Options) Validate() error {
	if o.ProblemsMax < 0 {
		return errors.New(errors.KindInvalid, "fsck: ProblemsMax is %d; give 0 or more", o.ProblemsMax)
	}
	return nil
}

// Kind classifies a problem.
type Kind string

// The kinds of problem.
const (
	BadSuper       Kind = "superblock"       // missing or unreadable superblock
	BadBlock       Kind = "bad block"        // a checksum does not fit
	BadInode       Kind = "bad inode"        // an inode does not decode
	BadOrphans     Kind = "bad orphan list"  // a page does not decode, or lists an inode twice
	OrphanMismatch Kind = "orphan mismatch"  // listed though linked, or unlinked though not listed
	BadDir         Kind = "bad directory"    // structure of a directory
	Dangling       Kind = "dangling entry"   // a name leads to no inode
	BadType        Kind = "wrong entry type" // an entry's type is not its inode's
	BadParent      Kind = "wrong parent"     // ".." leads elsewhere
	DirTwice       Kind = "directory linked twice"
	LinkCount      Kind = "link count"
	Unreferenced   Kind = "unreferenced"     // an inode that no name leads to
	Unreachable    Kind = "unreachable"      // a directory cut off from the root
	BlockCount     Kind = "block count"      // an inode's counter of present blocks is wrong
	Misplaced      Kind = "misplaced blocks" // blocks where the inode has none
	StaleData      Kind = "stale data"       // bytes past the end of a file are not zeros
	Ownerless      Kind = "ownerless blocks" // blocks of a vdisk that nobody owns
	UsedCount      Kind = "used space"       // the state machine's counter is wrong
	NotEmpty       Kind = "not empty"        // an unlinked directory with names
)

// Problem is one thing that does not fit.
type Problem struct {
	Kind Kind
	Ino  uint64 // the inode concerned, 0 if none
	Path string // of it from the root, if a name leads to it
	Text string
}

// String is one line for people.
func (p Problem) String() string {
	switch {
	case p.Ino == 0:
		return fmt.Sprintf("%s: %s", p.Kind, p.Text)
	case p.Path == "":
		return fmt.Sprintf("%s: inode %d: %s", p.Kind, p.Ino, p.Text)
	}
	return fmt.Sprintf("%s: inode %d (%s): %s", p.Kind, p.Ino, p.Path, p.Text)
}

// Report is what a check found.
type Report struct {
	Problems []Problem
	Dropped  uint64 // problems beyond Options.ProblemsMax

	Files, Dirs, Symlinks, Others uint64 // linked inodes
	Orphans                       uint64 // inodes that are unlinked and listed
	Bytes                         uint64 // sum of the sizes of files
	UsedBlocks                    uint64 // present blocks of all vdisks
	Empty                         bool   // there is no file system yet: the first mount makes it
}

// Clean reports whether no problem was found.
func (r *Report) Clean() bool { return len(r.Problems) == 0 && r.Dropped == 0 }

// WriteTo writes the problems, a line each, and the summary.
func (r *Report) WriteTo(w io.Writer) (int64, error) {
	var total int64
	line := func(format string, args ...any) error {
		n, err := fmt.Fprintf(w, format+"\n", args...)
		total += int64(n)
		return err
	}
	if r.Empty {
		return total, line("the store is empty: there is no file system yet, the first mount makes it; 0 problems")
	}
	for _, p := range r.Problems {
		if err := line("%s", p); err != nil {
			return total, err
		}
	}
	if r.Dropped > 0 {
		if err := line("and %d problems more", r.Dropped); err != nil {
			return total, err
		}
	}
	err := line("%d files, %d directories, %d symlinks, %d others, %d orphans; %d bytes in files, %d blocks used; %d problems",
		r.Files, r.Dirs, r.Symlinks, r.Others, r.Orphans, r.Bytes, r.UsedBlocks, uint64(len(r.Problems))+r.Dropped)
	return total, err
}

// Check checks the file system that r reads. Damage is reported; the error is one of ctx or of reading.
func Check(ctx context.Context, r Reader, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.ProblemsMax == 0 {
		o.ProblemsMax = 1000
	}
	if o.UsedBlocks != nil && *o.UsedBlocks == 0 {
		if chunks, err := r.Chunks(ctx, nil, 1); err != nil || len(chunks) == 0 {
			return &Report{Empty: err == nil}, err
		}
	}
	c := &checker{ctx: ctx, r: r, o: o, rep: &Report{}, orphans: map[uint64]orphanState{}}
	for _, step := range []func() error{
		c.super, c.tables, c.fixedVDisks, c.inodeVDisks, c.directories, c.links, c.reachable, c.paths,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if o.UsedBlocks != nil && *o.UsedBlocks != c.rep.UsedBlocks {
		c.problem(UsedCount, 0, "the state machine counts %d blocks, %d are present", *o.UsedBlocks, c.rep.UsedBlocks)
	}
	return c.rep, nil
}

// deviceReader reads a node's device.
type deviceReader struct{ dev blockstore.Device }

// FromDevice makes a Reader of a node's device.
func FromDevice(dev blockstore.Device) Reader { return deviceReader{dev} }

func (d deviceReader) Chunks(ctx context.Context, after *blockstore.ChunkID, max int) ([]blockstore.ChunkInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.dev.Chunks(after, max)
}

func (d deviceReader) Presence(ctx context.Context, span wal.Span) ([]byte, error) {
	present := make([]byte, (span.Count+7)/8)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return present, d.dev.Presence(span, present)
}

func (d deviceReader) Read(ctx context.Context, span wal.Span) (data, present []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	data, present = make([]byte, span.Count*wal.BlockSize), make([]byte, (span.Count+7)/8)
	bad, err := d.dev.Read(span, data, present)
	if err == nil && len(bad) > 0 {
		err = errors.New(errors.KindCorrupt, "%d blocks of vdisk %#x from %d on do not fit their checksums", len(bad), span.VDisk, bad[0].Block)
	}
	return data, present, err
}
