package lockserver

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"dfs/blockstore"
)

// movable is a link that can tell whether another node leads.
type movable struct {
	*link
	dials, asked atomic.Int32
	moved        atomic.Bool
}

type movableEnd struct {
	ClientStream
	m *movable
}

func (m *movable) Dial(ctx context.Context) (ClientStream, error) {
	m.dials.Add(1)
	s, err := m.link.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return movableEnd{s, m}, nil
}

func (e movableEnd) Moved(context.Context) bool {
	e.m.asked.Add(1)
	return e.m.moved.Load()
}

// TestSlowLeaderIsKept: a leader that takes long to renew the lease is kept as long as no other one is known, so the lease goes on
// without a new stream; it is left when there is another one, and when it does not renew at all.
func TestSlowLeaderIsKept(t *testing.T) {
	sim(t, 1, func(t *testing.T, c *fakeCluster) {
		var silent atomic.Bool
		k := &movable{link: &link{c: c}}
		k.onDown = func(m *ServerMsg) bool {
			if silent.Load() {
				m.Renewed = 0
			}
			return true
		}
		a, err := NewClerk(k, ClerkOptions{TTL: 3 * time.Second, Holder: &fakeHolder{open: map[LockID]bool{}}, Clock: simClock(),
			Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer a.abandon()
		time.Sleep(10 * time.Second)
		dials := k.dials.Load()
		silent.Store(true)
		time.Sleep(1800 * time.Millisecond)
		silent.Store(false)
		time.Sleep(1500 * time.Millisecond)
		if k.asked.Load() == 0 {
			t.Fatal("the lease was renewed meanwhile: this test shows nothing")
		}
		if k.dials.Load() != dials || a.LeaseLeft() <= 0 {
			t.Errorf("a slow leader was left: %d streams, lease %v", k.dials.Load(), a.LeaseLeft())
		}
		silent.Store(true)
		k.moved.Store(true)
		time.Sleep(2700 * time.Millisecond)
		if k.dials.Load() != dials+1 {
			t.Errorf("another node leads: %d streams", k.dials.Load())
		}
		k.moved.Store(false)
		time.Sleep(30 * time.Second)
		if k.dials.Load() < dials+2 {
			t.Error("a leader that never renews is kept for ever")
		}
	})
}

// TestEndsAreLogged: how loudly the leader tells of a session's end.
func TestEndsAreLogged(t *testing.T) {
	table, now := NewTable(TableOptions{}, 1, 0), time.Now()
	level := map[blockstore.WriterID]slog.Level{}
	for id := blockstore.WriterID(1); id <= 3; id++ {
		table.Expect(now, id, time.Second, false)
		if err := table.Attach(now, id, uint64(id)); err != nil {
			t.Fatal(err)
		}
	}
	table.Ended(now, 1, 7, true)
	table.Ended(now, 2, 8, false)
	table.End(3, "session 3 lies")
	for _, o := range table.Drain() {
		if o.Close != nil {
			level[o.Session] = o.closeLevel()
		}
	}
	if level[1] != slog.LevelInfo || level[2] != slog.LevelWarn || level[3] != slog.LevelError || len(level) != 3 {
		t.Errorf("closed, fenced, ended early: %v", level)
	}
}
