package fuse

import (
	"path/filepath"
	"testing"
	"time"

	"dfs/fs"
)

// TestAnswerOnItsWay: a revoke waits for the answer from which the kernel learns of the inode, as long as it may take.
func TestAnswerOnItsWay(t *testing.T) {
	m := mountFake(t, &fakeFS{})
	c := m.conn
	c.lookups.named(1234) // as the answer is made, which takes its time to arrive
	c.names.fresh(c.names.begin(), 1234, time.Minute)
	began := time.Now()
	c.DropAttr(1234)
	if took := time.Since(began); took < settleUnknown*time.Millisecond {
		t.Errorf("a revoke waited %v for an answer on its way", took)
	}
	c.lookups.forgotten(1234, 1)
	if c.lookups.any(1234) || len(c.lookups.left) != 0 {
		t.Error("an answer that arrived and was forgotten is taken for one on its way")
	}
}

// TestLookupsCount: what is counted here is what the kernel counts.
func TestLookupsCount(t *testing.T) {
	f := &fakeFS{perName: true}
	m := mountFake(t, f)
	path := filepath.Join(m.Dir(), "5")
	for range 3 {
		lstat(t, path)
		m.conn.DropNames(fs.RootIno)
	}
	if !m.conn.lookups.any(1000) {
		t.Fatal("an inode that the kernel has is not counted")
	}
	f.revoke(func() { m.conn.DropNames(fs.RootIno) })
	lstat(t, path) // another inode has the name: the kernel forgets the first
	for end := time.Now().Add(20 * time.Second); m.conn.lookups.any(1000); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the kernel has forgotten fewer answers than were given")
		}
	}
}

// TestLookupsUncounted: where more inodes are known than are counted, a revoke of one that is not waits for a shorter time, and of one that is
// counted as ever.
func TestLookupsUncounted(t *testing.T) {
	l := newLookups()
	l.named(1)
	l.full = true
	for ino, want := range map[uint64]int{1: settleUnknown, 2: settleUncounted} {
		if got := l.looks(ino); got != want || !l.any(ino) {
			t.Errorf("inode %d is looked for %d times", ino, got)
		}
	}
	l.full = false
	if l.looks(2) != 0 || l.any(2) {
		t.Error("an inode that nobody was told of is looked for")
	}
}
