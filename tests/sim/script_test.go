package sim

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dfs/fs"
	"dfs/internal/errors"
)

// script runs a script on three nodes and a file server, in virtual time. What the seeds found is told again here, in its shortest form.
func script(t *testing.T, f func(w *world, m *mount)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer func() {
			for _, line := range w.failed {
				t.Error(line)
			}
		}()
		defer w.shutDown()
		for _, n := range w.nodes {
			if err := n.start(); err != nil {
				t.Fatal(err)
			}
		}
		w.startMount(w.newMount("m0"))
		if w.begin() {
			f(w, w.mounts[0])
		}
	})
}

// TestWriteCrashRead: what was fsynced is there after the leader lost its power, on another file server.
func TestWriteCrashRead(t *testing.T) {
	script(t, func(w *world, m *mount) {
		ctx := context.Background()
		s, life, _ := m.now()
		task := w.tasks[1]
		h, _, err := s.Open(ctx, nobody, w.space.regs[0].ino, rdwr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(ctx, h, twice(7), 0, false); err != nil {
			t.Fatal(err)
		}
		if err := s.Fsync(ctx, h, false); err != nil {
			t.Fatal(err)
		}
		task.release(s, h)
		leader, _ := w.leader()
		leader.crash(0, true)
		other := w.newMount("m1")
		w.startMount(other)
		s2, _, _ := other.now()
		task.read(ctx, s2, m.owner(life), w.space.regs[0])
		if last := w.history[len(w.history)-1]; last.val != 7 || !last.sure {
			t.Errorf("read %v", last)
		}
		if err := leader.start(); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseWithoutQuorum: a file server that is closed while no majority runs gives up in its time. The locks that it gives
// back were flushed for, which waited for ever.
func TestCloseWithoutQuorum(t *testing.T) {
	script(t, func(w *world, m *mount) {
		s, _, _ := m.now()
		ctx := context.Background()
		if _, err := s.Mkdir(ctx, nobody, fs.RootIno, "late", 0o700); err != nil { // under a lock that is given back
			t.Fatal(err)
		}
		for _, n := range w.nodes {
			n.crash(0, true)
		}
		done := make(chan error, 1)
		go func() { done <- m.stop() }()
		select {
		case err := <-done:
			if err == nil {
				t.Error("closed without a word, and what was written is lost")
			}
		case <-time.After(3 * time.Minute):
			t.Error("a file server without a quorum is not closed within three minutes")
			for _, n := range w.nodes {
				_ = n.start()
			}
			<-done
		}
	})
}

// TestCreatesWithoutQuorum: creates that need fresh inode numbers end together when there is no majority, not one after
// another, and at once when their caller is gone.
func TestCreatesWithoutQuorum(t *testing.T) {
	script(t, func(w *world, m *mount) {
		s, _, _ := m.now()
		dir := w.space.dirs[0]
		create := func(ctx context.Context, name string) error {
			_, h, _, err := s.Create(ctx, nobody, dir, name, 0o600, rdwr)
			if err == nil {
				err = s.Release(ctx, h)
			}
			return err
		}
		if err := create(context.Background(), "first"); err != nil {
			t.Fatal(err)
		}
		for _, n := range w.nodes {
			n.crash(0, true)
		}
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 200 { // more than the numbers at hand
			wg.Go(func() { _ = create(context.Background(), fmt.Sprint("n", i)) })
		}
		time.Sleep(100 * time.Millisecond)
		gone, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		wg.Go(func() {
			if err := create(gone, "gone"); err == nil || time.Since(begin) > 2*time.Second {
				t.Errorf("a create whose caller was gone after 1s ended after %v: %v", time.Since(begin), err)
			}
		})
		wg.Wait()
		if took := time.Since(begin); took > 70*time.Second {
			t.Errorf("creates without a quorum, which may wait 20s each time they do, took %v", took)
		}
	})
}

// TestCheckpointWaits: a checkpoint that is asked for while another one hangs ends with its context.
func TestCheckpointWaits(t *testing.T) {
	script(t, func(w *world, m *mount) {
		n := w.nodes[0]
		if l, _ := w.leader(); l == n {
			n = w.nodes[1]
		}
		n.disk.excused()
		n.disk.Hang()
		ask := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			return n.replica().Checkpoint(ctx)
		}
		first := make(chan error, 1)
		go func() { first <- ask(3 * time.Second) }()
		time.Sleep(100 * time.Millisecond)
		begin := time.Now()
		err := ask(time.Second)
		if took := time.Since(begin); !errors.Is(err, errors.KindUnavailable) || took > 2*time.Second {
			t.Errorf("the second one ended after %v: %v", took, err)
		}
		<-first
		n.disk.Resume()
		time.Sleep(10 * time.Second)
	})
}
