package raftstore

import (
	stderrors "errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"dfs/internal/errors"
	"dfs/internal/simdisk"
)

// A follower's disk fills: while a record is applied, while the log is appended to, while a spare segment is filled with zeros,
// during a checkpoint, wherever the given number of pages ends. The replica stops and says why, or goes on where nothing is lost
// by that (a spare segment); the group goes on; once there is room again the replica starts and has everything.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, spare := range []int{0, 1, 3, 6, 12, 25, 40} {
		inVirtualTime(t, fmt.Sprint(spare), func(t *testing.T) {
			c := newCluster(t, "a", "b", "c")
			p := newPower(uint64(spare))
			c.disks = map[string]*simdisk.Disk{"a": simdisk.New(p), "b": simdisk.New(p), "c": simdisk.New(p)}
			c.limit.TrailingBytes = 1
			c.startAll()
			w := c.writer('x')
			w.write(7, 0, 4, 'A', 4)
			c.caughtUp(w.last)
			f := c.follower()
			c.disks[f.id].SetRoom(spare)
			died := make(chan error, 1)
			go func() { // a node with a full disk ends, as its process would: it may be the leader by then
				err := <-f.fatal
				c.stop(f.id)
				died <- err
			}()
			var failed error
			n := uint64(4)
			for ; failed == nil && n < 200; n++ {
				w.write(7, n, 1, 'A', 1)
				if n%8 == 0 {
					_ = f.Checkpoint(c.ctx(time.Second))
				}
				select {
				case failed = <-died:
				case <-time.After(time.Millisecond):
				}
			}
			if failed == nil {
				t.Fatal("a replica goes on with a full disk")
			}
			if !errors.Is(failed, errors.KindNoSpace) || !stderrors.Is(failed, syscall.ENOSPC) {
				t.Errorf("what it says of a full disk: %v", failed)
			}
			w.write(7, n, 1, 'B', 1)                      // the others go on
			if tn, err := c.open(f.id, nil); err == nil { // still full: it may start, or say so
				tn.Close()
				tn.mux.Close()
				tn.dev.Close()
			} else if !stderrors.Is(err, syscall.ENOSPC) {
				t.Errorf("a start with a full disk: %v", err)
			}
			c.disks[f.id].SetRoom(-1)
			f = c.start(f.id)
			c.caughtUp(w.last)
			f.check(t, w.last, 7, 0, n, 'A')
			f.check(t, w.last, 7, n, 1, 'B')
			sameStates(t, c, w.last)
		})
	}
}
