package enumerate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"dfs/fs/fsck"
	"dfs/internal/simdisk"
)

var fsckDevice = fsck.FromDevice

// shortWrites is how many sequences of each length the short run takes.
const shortWrites = 8

// TestWrites loses the power of a node at each write, sync, rename and commit that reaches its disk.
func TestWrites(t *testing.T) {
	rng, seed := draw(t)
	t.Logf("DFS_SEED=%d", seed)
	list, end := chosen(t, rng, true, shortWrites)
	if end.IsZero() && len(list) > shortWrites {
		list = append(sample(rng, list[:len(list)-shortWrites], shortWrites), list[len(list)-shortWrites:]...)
	}
	var bases [2]*simdisk.Disk // without a checkpoint, and with one
	for i := range bases {
		inBubble(t, func() (err error) {
			bases[i], err = baseDisk(i > 0)
			return err
		})
	}
	if t.Failed() {
		return
	}
	each(t, seed, list, end, "writes", func(nth int, s sequence, n *counts) (err error) {
		r := rand.New(rand.NewPCG(uint64(seed), uint64(nth)+2))
		inBubble(t, func() error { err = writes(t, bases[r.IntN(2)], s, r, n); return nil })
		return wrap(err, "DFS_SEED=%d DFS_FROM=%d draws the same again", seed, nth)
	})
}

// baseDisk is the disk of a node with the tree that sequences begin with.
func baseDisk(checkpoint bool) (*simdisk.Disk, error) {
	m, err := start(simdisk.New(simdisk.NewPower(nil)))
	if err != nil {
		return nil, err
	}
	defer m.stop()
	if err := m.mount(new(clock)); err != nil {
		return nil, err
	}
	if err := m.setUp(); err != nil {
		return nil, err
	}
	time.Sleep(10 * time.Second) // a spare segment is filled
	if checkpoint {
		if err := m.node.Checkpoint(background()); err != nil {
			return nil, err
		}
	}
	return m.disk.Clone(nil)
}

// writes runs one sequence and all its crashes.
func writes(t *testing.T, base *simdisk.Disk, s sequence, rng *rand.Rand, n *counts) error {
	clock := laterClock()
	o, at, ops, err := recorded(base, s, rng.IntN(3), clock) // at: with all operations below i
	if err != nil {
		return err
	}
	n.writes.Add(int64(len(ops)))
	seen := map[uint64]bool{}
	for i := range len(ops) + 1 {
		var e *simdisk.Op
		what := "crash at the end"
		if i < len(ops) {
			e = &ops[i]
			what = fmt.Sprintf("crash in write %d of %d (%v)", i+1, len(ops), e)
		}
		for l := range simdisk.Torn + 1 {
			d, err := at.Clone(rng)
			if err != nil {
				return err
			}
			d.Crash(e, l)
			if sum := d.Sum(); seen[sum] {
				n.same.Add(1)
				continue
			} else {
				seen[sum] = true
			}
			n.points.Add(1)
			if err := afterLoss(d, o, i, clock); err != nil {
				return fmt.Errorf("%s, %v: %w", what, l, err)
			}
		}
		if e != nil {
			at.Redo(e)
		}
	}
	return nil
}

// recorded runs a sequence, with a checkpoint before its last operation (1) or its end (2), and returns the disk from before, and what was done to it.
func recorded(base *simdisk.Disk, s sequence, checkpoint int, clock *clock) (*oracle, *simdisk.Disk, []simdisk.Op, error) {
	d, err := base.Clone(nil)
	if err != nil {
		return nil, nil, nil, err
	}
	m, err := start(d)
	if err != nil {
		return nil, nil, nil, err
	}
	defer m.stop()
	if err := m.mount(clock); err != nil {
		return nil, nil, nil, err
	}
	if err := m.settle(); err != nil {
		return nil, nil, nil, err
	}
	before, err := d.Record()
	if err != nil {
		return nil, nil, nil, err
	}
	m.client.before = func(nth int) error {
		if checkpoint == 1 && nth == len(s)-1 || checkpoint == 2 && nth == len(s) {
			return m.node.Checkpoint(background())
		}
		return nil
	}
	o, err := s.run(m.client, d.Recorded)
	m.closeAll()
	return o, before, d.EndRecord(), err
}

// afterLoss starts the node from what a loss of power left, and mounts.
func afterLoss(d *simdisk.Disk, o *oracle, writes int, clock *clock) error {
	m, err := start(d)
	if err != nil {
		return wrap(err, "start")
	}
	defer m.stop()
	if err := m.check(true); err != nil {
		return wrap(err, "before anybody mounts it")
	}
	if err := m.mount(clock); err != nil {
		return wrap(err, "mount")
	}
	if err := m.judge(o, writes); err != nil {
		return err
	}
	if err := m.settle(); err != nil {
		return err
	}
	select {
	case err := <-m.fatal:
		return wrap(err, "the node ended itself")
	default:
	}
	return wrap(m.check(false), "at the end")
}
