package raftstore

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// tapDevice lets a test break and watch a device.
type tapDevice struct {
	blockstore.Device
	mu      sync.Mutex
	bad     map[wal.Addr]bool // value: suspect
	turned  map[wal.Addr]bool // and its content is another
	sumless bool              // and the checksums of the others rotted, too
	fail    error             // of Apply
	putFail atomic.Int64      // PutChunks left before the next fails; 0: never
	puts    atomic.Int64
	back    atomic.Int64  // calls that did not rise in index
	block   chan struct{} // Apply waits until it is closed; nil: never
	slow    chan struct{} // PutChunk waits until it is closed; nil: never
	redone  []uint64      // what was applied when EndRedo was called
	wants   atomic.Bool   // a checkpoint
}

func (d *tapDevice) CheckpointWanted() bool { return d.wants.Load() }

func (d *tapDevice) EndRedo() {
	d.mu.Lock()
	d.redone = append(d.redone, d.Device.Applied())
	d.mu.Unlock()
	d.Device.EndRedo()
}

func (d *tapDevice) redoEndedAt() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.redone
}

func (d *tapDevice) Advance(index uint64) {
	if index <= d.Device.Applied() {
		d.back.Add(1)
	}
	d.Device.Advance(index)
}

func (d *tapDevice) Incomplete() bool { return incomplete(d.Device) }

func (d *tapDevice) Apply(index uint64, rec *wal.Record) error {
	d.mu.Lock()
	err, block := d.fail, d.block
	d.mu.Unlock()
	if index <= d.Device.Applied() {
		d.back.Add(1)
	}
	if block != nil {
		<-block
	}
	if err != nil {
		return err
	}
	return d.Device.Apply(index, rec)
}

func (d *tapDevice) PutChunk(c blockstore.ChunkData) error {
	if d.putFail.Load() > 0 && d.putFail.Add(-1) == 0 {
		return errors.New(errors.KindIO, "test: the disk is gone")
	}
	d.puts.Add(1)
	d.mu.Lock()
	slow := d.slow
	d.mu.Unlock()
	if slow != nil {
		<-slow
	}
	return d.Device.PutChunk(c)
}

func (d *tapDevice) Read(s wal.Span, dst, present []byte) ([]blockstore.BadBlock, error) {
	bad, err := d.Device.Read(s, dst, present)
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range s.Count {
		a := wal.Addr{VDisk: s.VDisk, Block: s.Block + i}
		if suspect, ok := d.bad[a]; ok {
			if !suspect {
				clear(dst[i*wal.BlockSize : (i+1)*wal.BlockSize])
			}
			if d.turned[a] {
				dst[i*wal.BlockSize] ^= 1
			}
			b := blockstore.BadBlock{Addr: a, Suspect: suspect, Sum: 1}
			if d.sumless {
				b.Sum = 0
			}
			bad = append(bad, b)
		}
	}
	return bad, err
}

// Fits stands in for a checksum of what is underneath.
func (d *tapDevice) Fits(b blockstore.BadBlock, data []byte) bool {
	was := make([]byte, wal.BlockSize)
	_, err := d.Device.Read(wal.Span{VDisk: b.VDisk, Block: b.Block, Count: 1}, was, make([]byte, 1))
	return err == nil && !b.Suspect && b.Sum != 0 && bytes.Equal(was, data)
}

func (d *tapDevice) Repair(b blockstore.BadBlock, data []byte, present bool) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.bad[b.Addr]; !ok {
		return false, nil
	}
	var was, there [wal.BlockSize]byte
	if copy(there[:], data); d.turned != nil {
		if _, err := d.Device.Read(wal.Span{VDisk: b.VDisk, Block: b.Block, Count: 1}, was[:], make([]byte, 1)); err != nil || was != there {
			return false, errors.New(errors.KindIO, "test: wrong content put in the place of a block: %v", err)
		}
	}
	delete(d.bad, b.Addr)
	delete(d.turned, b.Addr)
	return true, nil
}

func (d *tapDevice) ScrubNext(*blockstore.ChunkID, int) ([]blockstore.BadBlock, *blockstore.ChunkID, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var bad []blockstore.BadBlock
	for a, suspect := range d.bad {
		bad = append(bad, blockstore.BadBlock{Addr: a, Suspect: suspect})
	}
	return bad, nil, nil
}

func (d *tapDevice) spoil(a wal.Addr, suspect bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad == nil {
		d.bad = map[wal.Addr]bool{}
	}
	d.bad[a] = suspect
}

// turn lets a bad block have other content than the other replicas'.
func (d *tapDevice) turn(a wal.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turned = map[wal.Addr]bool{a: true}
}

// tapped lets the devices of nodes that start from now on be tapped, each as prepare makes it.
func (c *cluster) tapped(prepare ...func(*tapDevice)) map[string]*tapDevice {
	taps := map[string]*tapDevice{}
	var mu sync.Mutex
	c.wrap = func(id string, d blockstore.Device) blockstore.Device {
		mu.Lock()
		defer mu.Unlock()
		taps[id] = &tapDevice{Device: d}
		for _, p := range prepare {
			p(taps[id])
		}
		return taps[id]
	}
	return taps
}

// cutLog makes checkpoints that leave nearly no log behind.
func (c *cluster) cutLog(w *writer) {
	c.t.Helper()
	for i := range 5 {
		w.write(3, 0, 1, byte(i), 0)
	}
	c.caughtUp(w.last)
	for _, n := range c.running() {
		if err := n.Checkpoint(context.Background()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// leaveBehind starts the nodes, and stops one that then misses a write to each of so many virtual disks from 100 on (four
// times 'A', from block 300 on). The log has nothing of them.
func (c *cluster) leaveBehind(vdisks uint64) (w *writer, behind string) {
	c.t.Helper()
	c.startAll()
	w = c.writer('x')
	w.write(3, 0, 1, 'o', 1)
	c.caughtUp(w.last)
	behind = c.follower().id
	c.stop(behind)
	for i := range vdisks {
		w.write(100+i, 300, 4, 'A', 4)
	}
	c.cutLog(w)
	return w, behind
}

func TestFollowerThatMissedTooMuchCopies(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.TrailingBytes = 1
	c.startAll()
	w := c.writer('x')
	w.write(3, 0, 1, 'o', 1)
	w.write(7, 0, 60, 'A', 60)
	w.write(8, 0, 60, 'A', 60)
	c.caughtUp(w.last)
	behind := c.follower().id
	for _, n := range c.running() {
		n.Checkpoint(context.Background())
	}
	c.stop(behind)
	w.write(7, 10, 50, 'B', 0)
	w.seq++
	w.must(c.propose(w.command(w.seq, &wal.Record{Trims: []wal.Span{{VDisk: 8, Block: 0, Count: 60}}, AllocDelta: -60})))
	w.write(900, 5, 30, 'C', 30)
	c.cutLog(w)
	taps := c.tapped()
	n := c.start(behind)
	w.write(7, 5, 1, 'D', 0) // goes on meanwhile
	c.caughtUp(w.last)
	p := n.CatchUp()
	if p.Manifest == 0 || p.ChunksPulled == 0 || p.Bytes == 0 {
		t.Fatalf("no copy was made: %+v", p)
	}
	if puts := taps[behind].puts.Load(); puts > 12 {
		t.Errorf("%d chunks were put although few differ", puts)
	}
	n.check(t, w.last, 7, 0, 5, 'A')
	n.check(t, w.last, 7, 5, 1, 'D')
	n.check(t, w.last, 7, 10, 50, 'B')
	n.check(t, w.last, 900, 5, 30, 'C')
	if present, _, err := n.PresenceLocal(c.ctx(time.Second), wal.Span{VDisk: 8, Block: 0, Count: 60}, w.last); err != nil || !bytes.Equal(present, make([]byte, 8)) {
		t.Fatalf("trimmed blocks are present after the copy: %x %v", present, err)
	}
	c.eventually("the note of the copy is gone", func() bool {
		m, err := loadCopyMark(c.dirOf(behind))
		return err == nil && m == nil
	})
	sameStates(t, c, w.last)
}

func sameStates(t *testing.T, c *cluster, index uint64) {
	t.Helper()
	c.caughtUp(index)
	c.eventually("all replicas count alike", func() bool {
		seen := map[string]bool{}
		for _, n := range c.running() {
			n.View(func(s *blockstore.State, _ uint64) {
				seen[fmt.Sprint(s.Used(), s.Reserved(), s.Writers(), s.Settings(), s.NextInode())] = true
			})
		}
		return len(seen) == 1
	})
}

func TestEmptyNodeJoinsByCopy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	c.limit.TrailingBytes = 1
	c.start("a")
	w := c.writer('x')
	w.write(3, 0, 1, 'o', 1)
	for i := range 40 {
		w.write(100+uint64(i), 300, 8, 'A', 8)
	}
	c.cutLog(w)
	join := func(o *Options) { o.Bootstrap, o.Join = nil, []string{addrOf("a")} }
	b := c.startWith("b", join)
	c.eventually("b waits", func() bool { return b.raft.Load() != nil })
	if err := c.leader().AddNonvoter(c.ctx(5*time.Second), "b", addrOf("b")); err != nil {
		t.Fatal(err)
	}
	w.write(7, 0, 4, 'N', 4)
	c.caughtUp(w.last)
	c.eventually("promoted", func() bool { return c.leader().Promote(c.ctx(5*time.Second), "b") == nil })
	for i := range 40 {
		b.check(t, w.last, 100+uint64(i), 300, 8, 'A')
	}
	if p := b.CatchUp(); p.ChunksPulled < 40 {
		t.Fatalf("progress %+v", p)
	}
	sameStates(t, c, w.last)
	c.stop("b")
	c.startWith("b", join)
	c.leader()
	c.caughtUp(w.last)
	c.node("b").check(t, w.last, 7, 0, 4, 'N')
}

func TestCopyCutShortGoesOnAtTheNextStart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.TrailingBytes = 1
	c.limit.CatchUpParallel = 1
	w, behind := c.leaveBehind(40)
	c.tapped(func(d *tapDevice) { d.putFail.Store(20) })
	n := c.start(behind)
	select {
	case <-n.fatal:
	case <-time.After(10 * time.Second):
		t.Fatal("a failed disk in a copy did not stop the node")
	}
	if _, _, err := n.ReadLocal(c.ctx(100*time.Millisecond), []wal.Span{{VDisk: 3, Block: 0, Count: 1}}, 0); !errors.Is(err, errors.KindNotReached) {
		t.Fatalf("a half-copied replica answers reads: %v", err)
	}
	c.stop(behind)
	c.wrap = nil
	looked, err := c.open(behind, nil)
	if err != nil {
		t.Fatal(err)
	}
	if restore, err := looked.mustRestore(); err != nil || !restore {
		t.Errorf("at the next start the copy is not resumed by itself: %v %v", restore, err)
	}
	looked.Close()
	looked.mux.Close()
	looked.dev.Close()
	n = c.start(behind)
	c.caughtUp(w.last)
	for i := range 40 {
		n.check(t, w.last, 100+uint64(i), 300, 4, 'A')
	}
	sameStates(t, c, w.last)
}

// A copy that takes longer than the log may grow goes over what changed meanwhile, from a newer manifest.
func TestCopyThatOutlastsTheHeldLogStartsOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.TrailingBytes = 1
	c.limit.HoldLogBytes = 1 << 20
	w, behind := c.leaveBehind(10)
	slow := make(chan struct{})
	taps := c.tapped(func(d *tapDevice) { d.slow = slow })
	n := c.start(behind)
	c.eventually("a copy", func() bool { return taps[behind].puts.Load() > 0 })
	first := n.CatchUp().Manifest
	held := false
	for i := range 60 { // 4.7 MiB of log
		w.write(103, 300, 20, byte(i), map[bool]int64{true: 16}[i == 0])
		if i%10 == 9 {
			for _, m := range c.running() {
				if m.id != behind {
					m.Checkpoint(t.Context())
					held = held || m.Status().LogKept
					if b := m.Status().LogBytes; b > c.limit.HoldLogBytes+1<<20 {
						t.Fatalf("%d bytes of log are kept for a replica that copies", b)
					}
				}
			}
		}
	}
	close(slow)
	c.caughtUp(w.last)
	if last := n.CatchUp().Manifest; last <= first || !held {
		t.Errorf("copied for %d and again for %d; the log was held: %v", first, last, held)
	}
	n.check(t, w.last, 103, 300, 20, 59)
	n.check(t, w.last, 100, 300, 4, 'A')
	sameStates(t, c, w.last)
}

func TestReadsWaitForTheFloorOfTheCopy(t *testing.T) {
	var p progress
	p.init(10)
	p.copying.Store(true)
	if p.settled() {
		t.Fatal("readable while copying")
	}
	p.copying.Store(false)
	p.setCopyFloor(12)
	if p.settled() {
		t.Fatal("readable below the floor of a copy")
	}
	p.note(12, 1)
	if !p.settled() {
		t.Fatal("not readable at the floor")
	}
	p.setStart(20, 3)
	if p.settled() {
		t.Fatal("readable before the log was replayed")
	}
	p.note(13, 3)
	if p.settled() {
		t.Fatal("an entry of the same term does not stand behind all that was there at the start")
	}
	p.note(14, 4)
	if !p.settled() {
		t.Fatal("an entry of a later term does")
	}
}

// eightBlocks is a cluster of three whose replicas all have blocks 0 to 7 of vdisk 7, and whose devices can be spoilt.
func eightBlocks(t *testing.T) (*cluster, map[string]*tapDevice, *writer) {
	c := newCluster(t, "a", "b", "c")
	taps := c.tapped()
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 8, 'A', 8)
	c.caughtUp(w.last)
	return c, taps, w
}

func TestBadBlocksAreRepairedFromAnotherReplica(t *testing.T) {
	t.Parallel()
	c, taps, w := eightBlocks(t)
	f := c.follower()
	taps[f.id].spoil(wal.Addr{VDisk: 7, Block: 3}, false)
	f.check(t, w.last, 7, 0, 8, 'A')
	if r := f.Status().Repairs; r.Found != 1 || r.Repaired != 1 {
		t.Fatalf("counts %+v", r)
	}
	// Bad everywhere: told, not made up.
	for _, tap := range taps {
		tap.spoil(wal.Addr{VDisk: 7, Block: 4}, false)
	}
	if _, _, err := f.ReadLocal(c.ctx(5*time.Second), []wal.Span{{VDisk: 7, Block: 4, Count: 1}}, 0); !errors.Is(err, errors.KindCorrupt) {
		t.Fatalf("bad on all replicas: %v", err)
	}
	l := c.leader()
	taps[l.id].mu.Lock()
	taps[l.id].bad = nil
	taps[l.id].mu.Unlock()
	sum, err := f.Scrub(c.ctx(5*time.Second), nil)
	if err != nil || sum.Bad != 1 || sum.Repaired != 1 {
		t.Fatalf("scrub %+v %v", sum, err)
	}
}

// TestRepairFromReplicasBehind: a replica that has applied the last change of a block is good enough to repair it from.
func TestRepairFromReplicasBehind(t *testing.T) {
	t.Parallel()
	c, taps, w := eightBlocks(t)
	l := c.leader()
	for _, n := range c.running() {
		if n != l {
			_, release, err := n.HoldApply(c.ctx(5 * time.Second))
			if err != nil {
				t.Fatal(err)
			}
			defer release()
		}
	}
	w.write(8, 0, 1, 'B', 1)
	taps[l.id].spoil(wal.Addr{VDisk: 7, Block: 4}, false)
	if _, _, err := l.ReadLocal(c.ctx(5*time.Second), []wal.Span{{VDisk: 7, Block: 4, Count: 1}}, w.last); err != nil {
		t.Fatal(err)
	}
}

// TestSuspectOnAllReplicas: what a loss of power tore on every replica is what redo made of it on a majority of them.
func TestSuspectOnAllReplicas(t *testing.T) {
	t.Parallel()
	c, taps, w := eightBlocks(t)
	f := c.follower()
	read := func(block uint64) error {
		_, _, err := f.ReadLocal(c.ctx(5*time.Second), []wal.Span{{VDisk: 7, Block: block, Count: 1}}, 0)
		return err
	}
	// Two that differ and one that is damaged otherwise: nobody can tell.
	at := wal.Addr{VDisk: 7, Block: 4}
	for id, tap := range taps {
		tap.spoil(at, id != c.leader().id)
		tap.sumless = true
	}
	taps[f.id].turn(at)
	if err := read(4); !errors.Is(err, errors.KindCorrupt) {
		t.Fatalf("accepted what one of three has: %v", err)
	}
	// The third is as the second, so the first rotted.
	taps[c.leader().id].spoil(at, true)
	if err := read(4); err != nil {
		t.Fatalf("torn on all, the same on two, rotten besides on the one that is asked: %v", err)
	}
	f.check(t, w.last, 7, 4, 1, 'A')
	// One that is damaged otherwise is no obstacle, be it the one that is asked or another.
	for block, whose := range map[uint64]string{2: f.id, 3: c.leader().id} {
		for id, tap := range taps {
			tap.spoil(wal.Addr{VDisk: 7, Block: block}, id != whose)
		}
		if err := read(block); err != nil {
			t.Errorf("torn on two, damaged otherwise on %s, block %d: %v", whose, block, err)
		}
		f.check(t, w.last, 7, block, 1, 'A')
	}
	// A replica that is being copied to has nothing to say, and may wait for this very block; but one of three is no majority.
	l, third := c.leader(), (*testNode)(nil)
	for _, n := range c.running() {
		if n != f && n != l {
			third = n
		}
	}
	for _, block := range []uint64{5, 6} {
		taps[f.id].spoil(wal.Addr{VDisk: 7, Block: block}, true)
		taps[l.id].spoil(wal.Addr{VDisk: 7, Block: block}, true)
	}
	third.applier.progress.copying.Store(true)
	if err := read(5); err != nil {
		t.Errorf("suspect on all that have content: %v", err)
	}
	l.applier.progress.copying.Store(true)
	if err := read(6); !errors.Is(err, errors.KindCorrupt) {
		t.Errorf("accepted by one of three: %v", err)
	}
}

// TestRottenTornAndCopying: where one replica's block rotted, a loss of power tore the other's, and the third waits to copy it, the
// checksum of the rotten one tells that the torn one was redone well. So all three have it again.
func TestRottenTornAndCopying(t *testing.T) {
	t.Parallel()
	c, taps, _ := eightBlocks(t)
	l := c.leader()
	var others []*testNode
	for _, n := range c.running() {
		if n != l {
			others = append(others, n)
		}
	}
	rotten, copying := others[0], others[1]
	for _, tap := range taps {
		tap.turn(wal.Addr{}) // none, but from here on a repair's content is looked at
	}
	copying.applier.progress.copying.Store(true)
	read := func(n *testNode, block uint64) error {
		_, _, err := n.ReadLocal(c.ctx(5*time.Second), []wal.Span{{VDisk: 7, Block: block, Count: 1}}, 0)
		return err
	}
	for block, asked := range map[uint64]*testNode{2: rotten, 3: l} {
		taps[rotten.id].spoil(wal.Addr{VDisk: 7, Block: block}, false)
		taps[l.id].spoil(wal.Addr{VDisk: 7, Block: block}, true)
		if err := read(asked, block); err != nil {
			t.Fatalf("rotten on %s, torn on %s, read on %s: %v", rotten.id, l.id, asked.id, err)
		}
		rotten.check(t, 0, 7, block, 1, 'A')
		l.check(t, 0, 7, block, 1, 'A')
	}
	at := wal.Addr{VDisk: 7, Block: 4}
	taps[rotten.id].spoil(at, false)
	taps[l.id].spoil(at, true)
	taps[l.id].turn(at) // what does not fit is not accepted, nor anything where the checksum rotted, too
	for _, n := range []*testNode{rotten, l} {
		if err := read(n, 4); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("content that the checksum does not fit, read on %s: %v", n.id, err)
		}
	}
	at.Block = 5
	taps[rotten.id].spoil(at, false)
	taps[l.id].spoil(at, true)
	taps[rotten.id].sumless = true
	for _, n := range []*testNode{rotten, l} {
		if err := read(n, 5); !errors.Is(err, errors.KindCorrupt) {
			t.Errorf("nothing tells that redo's content is right, read on %s: %v", n.id, err)
		}
	}
}

func TestDeviceErrorStopsTheReplicaAndNotTheGroup(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	taps := c.tapped()
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	f := c.follower()
	taps[f.id].mu.Lock()
	taps[f.id].fail = errors.New(errors.KindNoSpace, "test: the disk is full")
	taps[f.id].mu.Unlock()
	w.write(7, 1, 1, 'A', 1)
	select {
	case err := <-f.fatal:
		if !strings.Contains(err.Error(), "disk is full") {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("not told")
	}
	at := f.Applied()
	w.write(7, 2, 1, 'A', 1)
	if f.Applied() != at {
		t.Fatal("a replica applies behind a record that it could not")
	}
}

// The device's checkpoint may be ahead of the newest manifest, by a crash between the two.
func TestEntriesThatTheCheckpointCoversAreSkipped(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	taps := c.tapped()
	n := c.start("a")
	w := c.writer('x')
	w.write(7, 0, 4, 'A', 4)
	w.write(7, 0, 4, 'B', 0)
	n.applier.exclusive.RLock()
	_, finish, err := taps["a"].Checkpoint(n.applier.state.Encode())
	n.applier.exclusive.RUnlock()
	if err == nil {
		err = finish()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.write(7, 4, 1, 'C', 1)
	c.stop("a")
	n = c.start("a")
	c.leader()
	c.caughtUp(w.last)
	if b := taps["a"].back.Load(); b != 0 {
		t.Fatalf("%d entries were given to the device that its checkpoint covers", b)
	}
	n.check(t, w.last, 7, 0, 4, 'B')
	n.check(t, w.last, 7, 4, 1, 'C')
	n.View(func(s *blockstore.State, _ uint64) {
		if s.Used() != 5 {
			t.Fatalf("%d blocks are counted, 5 are there", s.Used())
		}
	})
}

func TestLeaderHasAppliedEverythingBeforeItSaysSo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	taps := c.tapped()
	c.start("a")
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.stop("a")
	block := make(chan struct{})
	wrap := c.wrap
	c.wrap = func(id string, d blockstore.Device) blockstore.Device {
		d = wrap(id, d)
		taps[id].block = block
		return d
	}
	n := c.start("a")
	c.eventually("raft leads", n.isRaftLeader)
	time.Sleep(200 * time.Millisecond)
	if n.Leadership().Self {
		t.Error("it says that it leads, and has not applied what was committed before")
	}
	if _, _, err := n.ReadLocal(c.ctx(50*time.Millisecond), []wal.Span{{VDisk: 7, Block: 0, Count: 1}}, 0); !errors.Is(err, errors.KindNotReached) {
		t.Errorf("it answers reads before the log was replayed: %v", err)
	}
	close(block)
	c.leader().check(t, w.last, 7, 0, 1, 'A')
}

func TestFollowerTakesNoMoreThanItCanApply(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.BacklogEntries = 10
	taps := c.tapped()
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	f := c.follower()
	block := make(chan struct{})
	taps[f.id].mu.Lock()
	taps[f.id].block = block
	taps[f.id].mu.Unlock()
	for range 300 {
		w.write(7, 0, 1, 'B', 0)
	}
	time.Sleep(100 * time.Millisecond)
	if last, applied := f.raft.Load().LastIndex(), f.Applied(); last > applied+100 {
		t.Errorf("a follower that has applied %d took entries to %d", applied, last)
	}
	close(block)
	c.caughtUp(w.last)
}

func TestHold(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	if _, _, err := c.leader().HoldApply(c.ctx(time.Second)); !errors.Is(err, errors.KindBusy) {
		t.Fatalf("the leader of three lets itself be held: %v", err)
	}
	f := c.follower()
	index, release, err := f.HoldApply(c.ctx(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.HoldApply(c.ctx(time.Second)); !errors.Is(err, errors.KindBusy) {
		t.Fatalf("held twice: %v", err)
	}
	for range 5 {
		w.write(7, 0, 1, 'B', 0) // the group goes on
	}
	time.Sleep(100 * time.Millisecond)
	f.check(t, index, 7, 0, 1, 'A')
	if f.Applied() != index {
		t.Fatalf("applied %d while held at %d", f.Applied(), index)
	}
	release()
	c.caughtUp(w.last)
	f.check(t, w.last, 7, 0, 1, 'B')

	// At an index to come: exactly there.
	l := c.leader()
	at := l.Applied() + 3
	held := make(chan error, 1)
	var release2 func()
	go func() {
		var err error
		release2, err = f.HoldAt(c.ctx(10*time.Second), at)
		held <- err
	}()
	c.eventually("holding", f.Held)
	for range 6 {
		w.write(7, 0, 1, 'C', 0)
	}
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if f.Applied() != at {
		t.Fatalf("held at %d instead of %d", f.Applied(), at)
	}
	release2()
	c.caughtUp(w.last)
	if _, err := f.HoldAt(c.ctx(time.Second), at); !errors.Is(err, errors.KindStale) {
		t.Fatalf("held in the past: %v", err)
	}
}

func TestHoldEndsByItself(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.limit.HoldMax = 100 * time.Millisecond
	c.startAll()
	w := c.writer('x')
	w.write(7, 0, 1, 'A', 1)
	c.caughtUp(w.last)
	f := c.follower()
	if _, _, err := f.HoldApply(c.ctx(time.Second)); err != nil {
		t.Fatal(err)
	}
	w.write(7, 0, 1, 'B', 0)
	c.caughtUp(w.last)
	if f.Held() {
		t.Fatal("still held")
	}
}

// A read sees the blocks of all its spans as of one index, whatever is applied meanwhile.
func TestReadIsOfOneIndex(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	n := c.start("a")
	w := c.writer('x')
	w.write(7, 0, 16, 0, 16)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for tag := byte(1); ; tag++ {
			select {
			case <-stop:
				return
			default:
				w.write(7, 0, 16, tag, 0)
			}
		}
	}()
	defer wg.Wait()
	defer close(stop)
	for begin := time.Now(); time.Since(begin) < 500*time.Millisecond; {
		res, _, err := n.ReadLocal(c.ctx(5*time.Second), []wal.Span{{VDisk: 7, Block: 0, Count: 1}, {VDisk: 7, Block: 1, Count: 14}, {VDisk: 7, Block: 15, Count: 1}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if first, last := res[0].Data[0], res[2].Data[0]^15; first != last {
			t.Fatalf("block 0 is of record %d, block 15 of record %d", first, last)
		}
	}
}

func TestBootstrapNeedsEveryFounder(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	a := c.start("a")
	c.start("b")
	time.Sleep(400 * time.Millisecond)
	if a.raft.Load() != nil {
		t.Fatal("founded although c was never heard")
	}
	if _, err := a.Propose(c.ctx(time.Second), blockstore.Command{Kind: blockstore.CmdBeginEpoch, Epoch: 1}); !errors.Is(err, errors.KindUnavailable) {
		t.Fatalf("proposal before the founding: %v", err)
	}
	c.start("c")
	c.leader()
}

func TestCheckpointCutsTheLogByBytes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a")
	c.limit.CheckpointBytes = 4 << 20
	c.limit.TrailingBytes = 1 << 20
	n := c.start("a")
	w := c.writer('x')
	w.write(7, 0, 100, 'A', 100)
	for range 40 {
		w.write(7, 0, 100, 'A', 0)
	}
	c.eventually("a checkpoint, and less log", func() bool {
		st := n.Status()
		return st.CheckpointIndex > 20 && st.FirstLogIndex > 5
	})
}

func TestCapacity(t *testing.T) {
	const gib = 1 << 30
	for _, tc := range []struct {
		list []PeerUsage
		want uint64
	}{
		{nil, 0},
		{[]PeerUsage{{Used: 0, Free: 10 * gib, FSID: "x"}}, 10 * gib},
		{[]PeerUsage{{Used: 0, Free: 10 * gib, FSID: "x"}, {Used: 0, Free: 4 * gib, FSID: "y"}}, 4 * gib},
		{[]PeerUsage{{Used: gib, Free: 9 * gib, FSID: "x"}, {Used: gib, Free: 9 * gib, FSID: "x"}, {Used: gib, Free: 9 * gib, FSID: "x"}}, 4 * gib},
		{[]PeerUsage{{Used: gib, Free: 9 * gib, FSID: "x", LogToCome: 2 * gib}}, 8 * gib},
		{[]PeerUsage{{Free: 2 * gib, FSID: "x", LogToCome: 9 * gib}, {Free: 2 * gib, FSID: "x"}}, gib / 2},
	} {
		if got, want := capacityOf(tc.list), tc.want/wal.BlockSize/10*9; got != want {
			t.Errorf("%v: %d blocks, want %d", tc.list, got, want)
		}
	}
	for _, tc := range []struct {
		now, want  uint64
		all, exact bool
		set        bool
	}{
		{0, 100, false, false, false}, {0, 100, true, false, true}, {1000, 1005, true, false, false}, {1000, 1020, true, false, true},
		{1000, 1020, false, false, false}, {1000, 900, false, false, true}, {1000, 1001, false, true, true}, {1000, 1000, true, true, false},
	} {
		if got := worthSetting(tc.now, tc.want, tc.all, tc.exact); got != tc.set {
			t.Errorf("%+v: %v", tc, got)
		}
	}
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	var got uint64
	c.eventually("a capacity", func() bool {
		c.leader().View(func(s *blockstore.State, _ uint64) { got = s.Capacity() })
		return got > 0
	})
	u, err := c.leader().ServeUsage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if top := (u.Used + u.Free) / wal.BlockSize / 3; got > top {
		t.Fatalf("three replicas on one disk admit %d blocks, a third of it is %d", got, top)
	}
}

func TestMembersKnownToAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "a", "b", "c")
	c.startAll()
	l := c.leader()
	for _, n := range c.running() {
		c.eventually("leader known", func() bool { return n.Leadership().Leader == blockstore.NodeID(l.id) })
		leaders := 0
		for _, m := range n.MembersAsked(c.ctx(2 * time.Second)) {
			if m.Address != addrOf(string(m.ID)) || !m.Voter || m.LastContact.IsZero() {
				t.Errorf("%s: %+v", n.id, m)
			}
			if m.Leader {
				leaders++
			}
		}
		if leaders > 1 || leaders == 0 && l.Leadership().Self && n.Leadership().Leader == blockstore.NodeID(l.id) && l.Leadership().Term == n.Leadership().Term && n == l {
			t.Errorf("%s knows %d leaders", n.id, leaders)
		}
	}
	f := c.follower()
	if err := f.Remove(c.ctx(time.Second), "a"); !errors.Is(err, errors.KindNotLeader) {
		t.Fatalf("a follower removes: %v", err)
	}
	c.eventually("handed over", func() bool {
		return f.Leadership().Self || c.leader().TransferLeadership(c.ctx(5*time.Second), blockstore.NodeID(f.id)) == nil
	})
	c.eventually("leads", func() bool { return f.Leadership().Self })
}

func FuzzManifest(f *testing.F) {
	f.Add((&manifest{Applied: 7, Sources: []string{"a:1", "b:2"}, State: []byte("state")}).encode())
	f.Add((&manifest{}).encode())
	f.Add([]byte("dfsM"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err == nil && len(b) > 8 && b[4] == manifestVersion && !bytes.Equal(m.encode(), b) {
			t.Fatalf("%x does not come back", b)
		}
	})
}

func TestManifestErrors(t *testing.T) {
	good := (&manifest{Applied: 7, Sources: []string{"a:1"}, State: []byte("state")}).encode()
	for _, tc := range []struct {
		at   int
		kind errors.Kind
	}{{0, errors.KindForeign}, {5, errors.KindTooNew}, {9, errors.KindCorrupt}, {14, errors.KindCorrupt}, {len(good) - 1, errors.KindCorrupt}} {
		b := bytes.Clone(good)
		b[tc.at] ^= 0x10
		if _, err := decodeManifest(b); !errors.Is(err, tc.kind) {
			t.Errorf("byte %d: %v", tc.at, err)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	b, err := encodeIdentity(&identity{Node: "a", Incarnation: 9, Founders: []founder{{"a", "a:1", 9}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil && id == nil {
			t.Fatal("neither identity nor error")
		}
	})
}
