package filerpc

import (
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

func lockFromWire(l *filepb.Lock) fs.FileLock {
	return fs.FileLock{Owner: l.GetOwner(), Start: l.GetStart(), End: l.GetEnd(), Type: fs.LockType(l.GetType()), PID: l.GetPid(), Flock: l.GetFlock()}
}

func lockToWire(l fs.FileLock) *filepb.Lock {
	return &filepb.Lock{Owner: l.Owner, Start: l.Start, End: l.End, Type: uint32(l.Type), Pid: l.PID, Flock: l.Flock}
}
