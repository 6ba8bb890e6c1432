package fs

import (
	"syscall"
	"testing"

	"dfs/internal/errors"
)

// setLock sets a lock, without waiting.
func (m *mount) setLock(h Handle, l FileLock) error { return m.SetLock(ctx, h, l, false) }

// TestPosixLockGoesWithAnyClose: a process that closes any descriptor of a file loses its POSIX locks on it,
// those it set through another descriptor, too.
func TestPosixLockGoesWithAnyClose(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	ino, h := m.create(RootIno, "f")
	other, _, err := m.Open(ctx, root, ino, syscall.O_RDWR)
	m.must(err)
	mine, theirs := FileLock{Owner: 1, End: 1<<63 - 1, Type: LockWrite}, FileLock{Owner: 2, End: 1<<63 - 1, Type: LockWrite}
	m.must(m.setLock(h, mine))
	want(t, "a second owner", m.setLock(other, theirs), syscall.EAGAIN)
	m.must(m.Flush(ctx, other, 2))
	want(t, "after a close by another process", m.setLock(other, theirs), syscall.EAGAIN)
	m.must(m.Flush(ctx, other, 1))
	want(t, "after a close of the other descriptor", m.setLock(other, theirs), 0)
}

// TestDescriptorLocksGoWithRelease: flocks and open file description locks end with the last close, of which
// only Release tells.
func TestDescriptorLocksGoWithRelease(t *testing.T) {
	for _, flock := range []bool{false, true} {
		w := newWorld(t, 1<<16)
		m := w.mount(Options{})
		ino, h := m.create(RootIno, "f")
		other, _, err := m.Open(ctx, root, ino, syscall.O_RDWR)
		m.must(err)
		l := FileLock{Owner: 7, End: 1<<63 - 1, Type: LockWrite, Flock: flock}
		m.must(m.setLock(h, l))
		m.must(m.Flush(ctx, h, 1)) // the owner of a description lock is the description, not the process
		l.Owner = 8
		want(t, "before", m.setLock(other, l), syscall.EAGAIN)
		m.must(m.Release(ctx, h))
		want(t, "after", m.setLock(other, l), 0)
	}
}

// TestLockModes: a lock asks for the descriptor's mode, a question about one does not.
func TestLockModes(t *testing.T) {
	w := newWorld(t, 1<<16)
	m := w.mount(Options{})
	ino, _ := m.create(RootIno, "f")
	r, _, err := m.Open(ctx, root, ino, syscall.O_RDONLY)
	m.must(err)
	l := FileLock{Owner: 1, End: 1<<63 - 1, Type: LockWrite}
	want(t, "a write lock through a descriptor for reading", m.setLock(r, l), syscall.EBADF)
	found, err := m.TestLock(ctx, r, l)
	m.must(err)
	if found.Type != LockUnlock {
		t.Errorf("found %+v", found)
	}
}

// TestLostLocks: when the session ends, descriptors through which a lock is held fail from then on; those that never had one, or have let
// it go, do not, nor does one that still waits for its lock.
func TestLostLocks(t *testing.T) {
	w := newWorld(t, 1<<16)
	m, other := w.mount(Options{}), w.mount(Options{})
	ino, never := m.create(RootIno, "f")
	open := func() Handle {
		h, _, err := m.Open(ctx, root, ino, syscall.O_RDWR)
		m.must(err)
		return h
	}
	whole := func(owner uint64, typ LockType, flock bool) FileLock {
		return FileLock{Owner: owner, End: 1<<63 - 1, Type: typ, Flock: flock}
	}
	holds, part, letGo, refused, waits := open(), open(), open(), open(), open()
	m.must(m.setLock(holds, whole(1, LockWrite, true)))
	m.must(m.setLock(part, FileLock{Owner: 2, Start: 0, End: 9, Type: LockRead}))
	m.must(m.setLock(part, FileLock{Owner: 2, Start: 5, End: 9, Type: LockUnlock}))
	m.must(m.setLock(letGo, FileLock{Owner: 3, Start: 100, End: 109, Type: LockWrite}))
	m.must(m.setLock(letGo, whole(3, LockUnlock, false)))
	want(t, "a lock in the way", m.setLock(refused, whole(4, LockWrite, true)), syscall.EAGAIN)
	_, h2, _, err := other.Create(ctx, root, RootIno, "f", 0o644, syscall.O_RDWR)
	other.must(err)
	other.must(other.setLock(h2, FileLock{Owner: 1, Start: 1000, End: 1009, Type: LockWrite}))
	m.must(m.SyncAll(ctx))
	waited := make(chan error, 1)
	go func() {
		waited <- m.SetLock(ctx, waits, FileLock{Owner: 5, Start: 1000, End: 1000, Type: LockWrite}, true)
	}()
	m.clerk.End(errors.Of(errors.KindSessionEnded))
	w.attach(m)
	for range 2 {
		for name, h := range map[string]Handle{"a flock": holds, "a part of a range": part} {
			_, err := m.Read(ctx, h, make([]byte, 1), 0)
			want(t, "reading through what held "+name, err, syscall.EIO)
			_, err = m.Write(ctx, h, []byte("x"), 0, false)
			want(t, "writing through what held "+name, err, syscall.EIO)
			want(t, "a new lock through what held "+name, m.setLock(h, whole(1, LockWrite, true)), syscall.EIO)
			want(t, "fsync of what held "+name, m.Fsync(ctx, h, false), syscall.EIO)
		}
		for name, h := range map[string]Handle{"never locked": never, "let go": letGo, "was refused": refused} {
			_, err := m.Write(ctx, h, []byte("x"), 0, false)
			want(t, "writing through what "+name, err, 0)
		}
	}
	other.must(other.setLock(h2, whole(1, LockUnlock, false)))
	if err := <-waited; err != nil {
		t.Errorf("a wait for a lock, over the end of the session: %v", err)
	}
	_, err = m.Write(ctx, waits, []byte("x"), 0, false)
	want(t, "writing under the lock that was waited for", err, 0)
}
