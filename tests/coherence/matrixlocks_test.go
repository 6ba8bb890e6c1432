package coherence

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// File locks in the matrix: they are set and let go through a view's fd, and tried and asked for through its probe, another descriptor.

// fileLock sets or lets go a lock: cmd is F_SETLK or F_OFD_SETLK.
func fileLock(fd, cmd int, typ int16, start, length int64) error {
	return unix.FcntlFlock(uintptr(fd), cmd, &unix.Flock_t{Type: typ, Start: start, Len: length})
}

// ofdLock is a step of a change: a lock of the open file description of a view.
func ofdLock(typ int16, start, length int64) func(v *view) error {
	return func(v *view) error { return fileLock(v.fd, unix.F_OFD_SETLK, typ, start, length) }
}

func posixLock(typ int16, start, length int64) func(v *view) error {
	return func(v *view) error { return fileLock(v.fd, unix.F_SETLK, typ, start, length) }
}

func flock(how int) func(v *view) error {
	return func(v *view) error { return unix.Flock(v.fd, how|unix.LOCK_NB) }
}

// holdLocks sets locks that changes of other things must leave alone.
func holdLocks(v *view) error {
	if err := ofdLock(unix.F_WRLCK, 10, 100)(v); err != nil {
		return err
	}
	return flock(unix.LOCK_SH)(v)
}

var lockChanges = []change{
	{name: "fcntl write lock", do: ofdLock(unix.F_WRLCK, 10, 100), lock: true},
	{name: "fcntl read lock", do: ofdLock(unix.F_RDLCK, 10, 100), lock: true},
	{name: "fcntl read lock for a write lock", before: ofdLock(unix.F_WRLCK, 0, 0), do: ofdLock(unix.F_RDLCK, 0, 0), lock: true},
	{name: "fcntl unlock", before: ofdLock(unix.F_WRLCK, 10, 100), do: ofdLock(unix.F_UNLCK, 0, 0), lock: true},
	{name: "fcntl unlock in the middle", before: ofdLock(unix.F_WRLCK, 10, 100), do: ofdLock(unix.F_UNLCK, 40, 20), lock: true},
	{name: "fcntl lock of the process", do: posixLock(unix.F_WRLCK, 10, 0), lock: true},
	{name: "fcntl unlock of the process", before: posixLock(unix.F_WRLCK, 10, 0), do: posixLock(unix.F_UNLCK, 0, 0), lock: true},
	{name: "close with a lock of the process", before: posixLock(unix.F_WRLCK, 10, 0), lock: true, do: func(v *view) error {
		return withFile(v.path("f"), unix.O_RDONLY, func(int) error { return nil }) // any descriptor's close lets go
	}},
	{name: "flock", do: flock(unix.LOCK_EX), lock: true},
	{name: "shared flock", do: flock(unix.LOCK_SH), lock: true},
	{name: "shared flock for an exclusive one", before: flock(unix.LOCK_EX), do: flock(unix.LOCK_SH), lock: true},
	{name: "flock let go", before: flock(unix.LOCK_EX), do: flock(unix.LOCK_UN), lock: true},
}

var lockObservations = []observation{
	{name: "F_GETLK", lock: true, look: func(v *view) string {
		var found []string
		for _, at := range []int64{0, 15, 50, 105, 1 << 40} {
			found = append(found, foundLock(v.probe, at))
		}
		return strings.Join(found, ", ")
	}},
	{name: "F_SETLK", lock: true, look: func(v *view) string {
		err := fileLock(v.probe, unix.F_OFD_SETLK, v.locks, 0, 0)
		if err != nil {
			return errnoText(err)
		}
		return fmt.Sprint("got it, let it go: ", fileLock(v.probe, unix.F_OFD_SETLK, unix.F_UNLCK, 0, 0))
	}},
	{name: "flock", lock: true, look: func(v *view) string {
		return fmt.Sprintf("shared: %s; exclusive: %s", triedFlock(v.probe, unix.LOCK_SH), triedFlock(v.probe, unix.LOCK_EX))
	}},
}

// foundLock is what F_GETLK tells of the lock that is in the way of one of a byte.
func foundLock(fd int, at int64) string {
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: at, Len: 1}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &l); err != nil {
		return errnoText(err)
	}
	if l.Type == unix.F_UNLCK {
		return "free"
	}
	return fmt.Sprintf("type %d from %d, %d bytes", l.Type, l.Start, l.Len)
}

func triedFlock(fd, how int) string {
	if err := unix.Flock(fd, how|unix.LOCK_NB); err != nil {
		return errnoText(err)
	}
	return fmt.Sprint("got it, let it go: ", unix.Flock(fd, unix.LOCK_UN))
}
