package fs

import (
	"syscall"
	"testing"
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
