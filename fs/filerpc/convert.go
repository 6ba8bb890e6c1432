package filerpc

import (
	"encoding/binary"
	"time"

	"dfs/fs"
	"dfs/internal/wire/filepb"
)

func timeToWire(t time.Time) *filepb.Time {
	return &filepb.Time{Seconds: t.Unix(), Nanos: uint32(t.Nanosecond())}
}

func timeFromWire(t *filepb.Time) *time.Time {
	if t == nil {
		return nil
	}
	out := time.Unix(t.GetSeconds(), int64(t.GetNanos()))
	return &out
}

func attrToWire(a *fs.Attr) *filepb.Attr {
	return &filepb.Attr{
		Ino: uint64(a.Ino), Mode: a.Mode, Nlink: a.Nlink, Uid: a.UID, Gid: a.GID, Rdev: a.Rdev, Size: a.Size, Blocks: a.Blocks,
		Atime: timeToWire(a.Atime), Mtime: timeToWire(a.Mtime), Ctime: timeToWire(a.Ctime), Btime: timeToWire(a.Btime),
	}
}

// ownerOf is the owner that the file server sees: those of different clients differ, whatever they call themselves.
func ownerOf(client []byte, owner uint64) uint64 {
	if len(client) < 8 {
		return owner
	}
	return owner ^ binary.LittleEndian.Uint64(client)
}

func lockFromWire(l *filepb.Lock) fs.FileLock {
	return fs.FileLock{Owner: l.GetOwner(), Start: l.GetStart(), End: l.GetEnd(), Type: fs.LockType(l.GetType()), PID: l.GetPid(), Flock: l.GetFlock()}
}

func lockToWire(l fs.FileLock) *filepb.Lock {
	return &filepb.Lock{Owner: l.Owner, Start: l.Start, End: l.End, Type: uint32(l.Type), Pid: l.PID, Flock: l.Flock}
}

func timeOf(t *filepb.Time) time.Time { return time.Unix(t.GetSeconds(), int64(t.GetNanos())) }

func attrFromWire(a *filepb.Attr) fs.Attr {
	return fs.Attr{
		Ino: fs.Ino(a.GetIno()), Mode: a.GetMode(), Nlink: a.GetNlink(), UID: a.GetUid(), GID: a.GetGid(), Rdev: a.GetRdev(), Size: a.GetSize(),
		Blocks: a.GetBlocks(), Atime: timeOf(a.GetAtime()), Mtime: timeOf(a.GetMtime()), Ctime: timeOf(a.GetCtime()), Btime: timeOf(a.GetBtime()),
	}
}

// optionalTime is the wire's form of a time that may be missing.
func optionalTime(t *time.Time) *filepb.Time {
	if t == nil {
		return nil
	}
	return timeToWire(*t)
}
