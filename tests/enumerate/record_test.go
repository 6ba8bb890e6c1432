package enumerate

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/fs"
	"dfs/fs/fsck"
	"dfs/internal/errors"
	"dfs/internal/fstest"
	"dfs/wal"
)

// clock tells a time that rises by a millisecond with each look.
type clock struct{ ticks atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(c.ticks.Add(1)) * time.Millisecond)
}

// laterClock is one that begins after what was there before.
func laterClock() *clock {
	c := new(clock)
	c.ticks.Store(100_000)
	return c
}

func options(c *clock) fs.Options {
	return fs.Options{CacheBytes: 4 << 20, InodeBatch: 64, ReserveBatch: 1024, OrphanInterval: time.Second, Now: c.now, RootUID: 1, RootGID: 2}
}

// fileServer is one on a fake store.
type fileServer struct {
	*client
	server *fs.Server
	store  *fstest.Store
	clerk  *fstest.Clerk
	log    *wal.Writer
}

func mountFake(d *fstest.Disk, clock *clock) (*fileServer, error) {
	s, err := fs.New(options(clock))
	if err != nil {
		return nil, err
	}
	m := &fileServer{client: &client{FileSystem: s, ctx: background()}, server: s, store: d.Open()}
	m.clerk = fstest.NewLocks().NewClerk(m.store, s)
	if m.log, err = wal.NewWriter(m.store, wal.Options{}); err != nil {
		return nil, err
	}
	return m, s.Attach(m.ctx, fs.Backend{Store: m.store, Clerk: m.clerk, Log: m.log})
}

func (m *fileServer) close() error {
	m.closeAll()
	err := m.server.Close(m.ctx)
	_ = m.clerk.Close(m.ctx)
	m.store.Close()
	_ = m.log.Close()
	return err
}

// settle lets the file server take up what those before it left.
func (m *fileServer) settle() error {
	for range 60 {
		time.Sleep(time.Second)
		if left, err := m.store.Retired(m.ctx); err != nil || len(left) == 0 {
			return err
		}
	}
	return errors.New(errors.KindTimeout, "orphan lists are left after a minute")
}

// check is fsck.
func check(r fsck.Reader, used *uint64, orphans bool) error {
	rep, err := fsck.Check(background(), r, fsck.Options{UsedBlocks: used})
	switch {
	case err != nil:
		return err
	case !rep.Clean():
		return fmt.Errorf("fsck: %v", rep.Problems)
	case !orphans && rep.Orphans > 0:
		return fmt.Errorf("fsck: %d orphans are left", rep.Orphans)
	}
	return nil
}

func checkFake(d *fstest.Disk, orphans bool) error {
	_, _, used := d.Counts()
	blocks := uint64(used)
	if err := check(d.Checked(), &blocks, orphans); err != nil {
		return err
	}
	return d.Defect()
}

// TestRecords crashes the file server behind each of its records.
func TestRecords(t *testing.T) {
	rng, seed := draw(t)
	t.Logf("DFS_SEED=%d", seed)
	list, end := chosen(t, rng, false, 250)
	base := fstest.NewDisk(1 << 20)
	inBubble(t, func() error {
		m, err := mountFake(base, new(clock))
		if err != nil {
			return err
		}
		if err := m.setUp(); err != nil {
			return err
		}
		return m.close()
	})
	each(t, seed, list, end, "records", func(_ int, s sequence, n *counts) (err error) {
		inBubble(t, func() error { err = records(base, s, n); return nil })
		return err
	})
}

// inBubble runs f in virtual time.
func inBubble(t *testing.T, f func() error) {
	synctest.Test(t, func(t *testing.T) {
		if err := f(); err != nil {
			t.Error(err)
		}
	})
}

// records runs one sequence and all its crashes.
func records(base *fstest.Disk, s sequence, n *counts) error {
	d, clock := base.Clone(), laterClock()
	m, err := mountFake(d, clock)
	if err != nil {
		return err
	}
	if err := m.settle(); err != nil {
		return err
	}
	d.Keep()
	o, err := s.run(m.client, func() int { return len(d.Kept()) - 1 })
	kept := d.Kept()
	if cerr := m.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	n.writes.Add(int64(len(kept) - 1))
	for i, k := range kept {
		n.points.Add(1)
		if err := afterCrash(k, o, i, clock); err != nil {
			return fmt.Errorf("crash behind %d of %d records: %w", i, len(kept)-1, err)
		}
	}
	return nil
}

// afterCrash mounts what a crash behind so many records left.
func afterCrash(d *fstest.Disk, o *oracle, writes int, clock *clock) error {
	if err := checkFake(d, true); err != nil {
		return wrap(err, "before anybody mounts it")
	}
	m, err := mountFake(d, clock)
	if err != nil {
		return wrap(err, "mount")
	}
	err = m.judge(o, writes)
	if err == nil {
		err = wrap(m.settle(), "orphans")
	}
	if cerr := m.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return wrap(checkFake(d, false), "after the unmount")
}

// judge looks at what there is, and whether it can be worked with.
func (c *client) judge(o *oracle, writes int) error {
	got, err := c.look()
	if err != nil {
		return wrap(err, "looking at what there is")
	}
	if wrong := o.judge(writes, got); wrong != "" {
		return errors.New(errors.KindCorrupt, "%s", wrong)
	}
	const p = "A/after"
	dir := p
	if _, err := c.at("A"); err != nil {
		dir = "after"
	}
	for _, o := range []*op{mkdir(dir), create(dir+"/f", 0o600), write(dir+"/f", 0, 5000, 'z')} {
		if err := o.do(c); err != nil {
			return wrap(err, "%s after the crash", o.name)
		}
	}
	return wrap(c.SyncAll(c.ctx), "fsync after the crash")
}
