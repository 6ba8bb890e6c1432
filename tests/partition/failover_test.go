package partition

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// limit is what is promised of a machine that has nothing else to do, which only a long run is held to.
func limit(promised time.Duration) time.Duration {
	if onTime() {
		return promised
	}
	return patience
}

// TestFailover: the leader dies; writes go on soon, and the locks of living clients stay theirs. A client dies; its locks go to
// others when its lease is over. In a long run that has the machine for itself throughput is measured, too.
func TestFailover(t *testing.T) {
	w := start(t, 1, serverArgs, nil)
	times := 2
	if soak() > 0 {
		times = 10
	}
	for i := range times {
		w.leaderDies(fmt.Sprintf("leader-%d", i))
	}
	w.clientDies()
	w.finish()
	if onTime() {
		figures(t)
	}
}

// locked opens a file through a mount and takes its flock.
func (w *world) locked(m *harness.Mount, name string, how int) (*os.File, error) {
	w.t.Helper()
	f, err := os.OpenFile(m.Path(name), os.O_RDWR|os.O_CREATE, 0o644)
	must(w.t, err)
	w.open = append(w.open, f)
	_, err = retried(func() (int, error) { return 0, unix.Flock(int(f.Fd()), how) })
	return f, err
}

func (w *world) leaderDies(name string) {
	w.t.Helper()
	held, err := w.locked(w.mounts[0], name+"-lock", unix.LOCK_EX)
	must(w.t, err)
	f, err := os.Create(w.mounts[1].Path(name))
	must(w.t, err)
	defer f.Close()
	var stop atomic.Bool
	var last atomic.Int64 // when the last write became durable
	var slowest time.Duration
	began := time.Now()
	ended := make(chan error)
	go func() {
		for n := int64(0); !stop.Load(); n++ {
			asked := time.Now()
			_, err := f.WriteAt(filled(uint64(n)), n%64*blockSize)
			if err == nil {
				err = f.Sync()
			}
			if err != nil {
				ended <- err
				return
			}
			slowest = max(slowest, time.Since(asked))
			last.Store(int64(asked.Sub(began)))
		}
		ended <- nil
	}()
	written := func(after time.Duration) func() bool { return func() bool { return last.Load() > int64(after) } }
	harness.Eventually(w.t, patience, "the first writes", written(0))
	leader := w.c.WaitLeader()
	died := time.Since(began)
	leader.Kill()
	harness.Eventually(w.t, limit(3*time.Second), "a write after the leader's death", written(died))
	w.tally.most("longest pause of writes after a leader's death (ms)", (time.Since(began) - died).Milliseconds())
	w.tally.add("leaders killed under a writer", 1)
	w.tally.add("kills", 1)
	if _, err := w.locked(w.mounts[2], name+"-lock", unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		w.t.Errorf("a lock that is held was given to another after the leader's death: %v", err)
	}
	_, err = held.WriteAt([]byte("still mine"), 0)
	must(w.t, err)
	must(w.t, held.Sync())
	must(w.t, unix.Flock(int(held.Fd()), unix.LOCK_UN))
	if _, err := w.locked(w.mounts[2], name+"-lock", unix.LOCK_EX); err != nil {
		w.t.Errorf("a lock that was let go: %v", err)
	}
	stop.Store(true)
	must(w.t, <-ended)
	w.t.Logf("the slowest write with the leader's death took %v", slowest.Round(time.Millisecond))
	leader.Start()
	w.c.WaitReady()
	w.tally.save(w.t)
}

func (w *world) clientDies() {
	w.t.Helper()
	_, err := w.locked(w.mounts[3], "of-the-dead", unix.LOCK_EX)
	must(w.t, err)
	if _, err := w.locked(w.mounts[0], "of-the-dead", unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		w.t.Fatalf("a lock that is held was given to another: %v", err)
	}
	w.mounts[3].Kill()
	w.tally.add("kills", 1)
	died := time.Now()
	_, err = w.locked(w.mounts[0], "of-the-dead", unix.LOCK_EX)
	must(w.t, err)
	took := time.Since(died)
	w.tally.most("longest wait for a dead client's lock (ms)", took.Milliseconds())
	w.t.Logf("the lock of a dead client with a lease of %v went to another after %v", lease, took.Round(time.Millisecond))
	if took > limit(lease+time.Second) {
		w.t.Errorf("the lock of a dead client with a lease of %v went to another after %v", lease, took)
	}
	w.mounts[3].Start()
}
