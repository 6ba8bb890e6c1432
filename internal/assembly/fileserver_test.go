package assembly

import (
	"testing"

	"dfs/fs"
)

// adapter is an Invalidator with all that a kernel's adapter can tell: no.
type adapter struct{ fs.Invalidator }

func (adapter) Knows(fs.Ino) bool { return false }
func (adapter) MapsDirect() bool  { return false }

// plain is an Invalidator that tells nothing.
type plain struct{ fs.Invalidator }

// TestLateInvalidator: what the kernel's adapter tells reaches the file server.
func TestLateInvalidator(t *testing.T) {
	var l lateInvalidator
	if l.Knows(1) || !l.MapsDirect() {
		t.Error("without a kernel: an inode is known, or mappings are restricted")
	}
	l.set(plain{})
	if !l.Knows(1) || !l.MapsDirect() {
		t.Error("an Invalidator that tells nothing is taken for one that says no")
	}
	l.set(adapter{})
	if l.Knows(1) || l.MapsDirect() {
		t.Error("what the adapter tells is lost")
	}
}
