package raftstore

import (
	"bytes"
	"context"
	stderrors "errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"dfs/blockstore"
	"dfs/blockstore/device"
	"dfs/internal/errors"
	"dfs/internal/simdisk"
	"dfs/wal"
)

// TestPowerLoss loses the power of all nodes at seeded moments (internal/simdisk says what that does), while writers have several
// records in flight, checkpoints are made and nodes are cut off; also while the nodes recover. After each restart: every
// acknowledged record is there, of every writer a prefix of its records, each once; replicas are
// byte-identical and count alike; what was torn is restored, or healed, or accepted by agreement.
//
// DFS_POWER_SEED=n runs that seed alone; DFS_SOAK_MINUTES=m goes on with further seeds for so long.
func TestPowerLoss(t *testing.T) {
	if s := os.Getenv("DFS_POWER_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		powerLoss(t, seed, &powerCounts{})
		return
	}
	const seeds = 24
	var sum powerCounts
	t.Run("seeds", func(t *testing.T) {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				powerLoss(t, seed, &sum)
			})
		}
	})
	t.Logf("%d losses (%d of them in a recovery), %d records acknowledged; %d torn blocks restored, %d damaged, %d healed, %d tries failed; %d copies",
		sum.losses.Load(), sum.inRecovery.Load(), sum.acked.Load(), sum.restored.Load(), sum.found.Load(), sum.healed.Load(), sum.failed.Load(), sum.copies.Load())
	if !t.Failed() && (sum.inRecovery.Load() == 0 || sum.restored.Load() == 0 || sum.copies.Load() == 0) {
		t.Error("the losses never met a recovery, tore nothing, or were never followed by a copy: the test does not test")
	}
	minutes, err := strconv.Atoi(os.Getenv("DFS_SOAK_MINUTES"))
	if err != nil {
		return
	}
	until := time.Now().Add(time.Duration(minutes) * time.Minute)
	for seed := uint64(seeds); time.Now().Before(until) && !t.Failed(); seed += 4 {
		t.Run(fmt.Sprint("from ", seed), func(t *testing.T) {
			for i := range uint64(4) {
				t.Run(fmt.Sprint(seed+i), func(t *testing.T) {
					t.Parallel()
					powerLoss(t, seed+i, &sum)
				})
			}
		})
	}
}

// newPower returns a power supply that draws by seed.
func newPower(seed uint64) *simdisk.Power { return simdisk.NewPower(rand.New(rand.NewPCG(seed, 5))) }

type powerCounts struct {
	losses, inRecovery, acked, restored, found, healed, failed, copies atomic.Uint64
}

// powerRun is a cluster on simulated disks, and what its writers did.
type powerRun struct {
	*cluster
	t       *testing.T
	p       *simdisk.Power
	rng     *rand.Rand
	writers []*powerWriter
	sum     *powerCounts
}

func powerLoss(t *testing.T, seed uint64, sum *powerCounts) {
	t.Logf("DFS_POWER_SEED=%d go test -run TestPowerLoss ./blockstore/raftstore", seed)
	r := &powerRun{cluster: newCluster(t, "a", "b", "c"), t: t, p: newPower(seed), rng: rand.New(rand.NewPCG(seed, 6)), sum: sum}
	r.disks = map[string]*simdisk.Disk{}
	for id := range r.boot {
		r.disks[string(id)] = simdisk.New(r.p)
	}
	r.limit.HeartbeatTimeout = 100 * time.Millisecond
	r.limit.TrailingBytes = []int64{1, 32 << 10, 8 << 20}[seed%3]
	r.recover(60)
	for i := range 3 {
		r.writers = append(r.writers, r.newWriter(byte('x'+i)))
	}
	for range 3 {
		r.p.FailIn(1 + r.rng.IntN([]int{400, 2000, 12000}[r.rng.IntN(3)]))
		r.load()
		r.sum.losses.Add(1)
		r.lose()
		r.recover(400)
		r.verify()
	}
}

// lose ends all nodes and leaves on their disks what a loss of power does.
func (r *powerRun) lose() {
	for _, n := range r.running() {
		r.sum.copies.Add(min(n.CatchUp().Manifest, 1))
		r.stop(n.id)
		for len(n.fatal) > 0 {
			if err := <-n.fatal; !stderrors.Is(err, simdisk.ErrPower) {
				r.t.Errorf("%s: %v", n.id, err)
			}
		}
	}
	for _, id := range []string{"a", "b", "c"} {
		r.disks[id].Lose(simdisk.Torn)
	}
	r.p.Restore()
}

// recover starts all nodes; the power may be lost again within the first ops operations, twice at most.
func (r *powerRun) recover(ops int) {
	for range r.rng.IntN(3) {
		r.p.FailIn(1 + r.rng.IntN(ops))
		begin := time.Now()
		for r.startPower() && time.Since(begin) < 500*time.Millisecond && !r.p.Off() {
			time.Sleep(5 * time.Millisecond)
		}
		if r.p.Off() {
			r.sum.inRecovery.Add(1)
		}
		r.p.Cut()
		r.lose()
	}
	if !r.startPower() {
		r.t.Fatal("the power failed without a reason")
	}
	r.leader()
}

// startPower starts the nodes that do not run; false: the power failed.
func (r *powerRun) startPower() bool {
	for _, id := range []string{"a", "b", "c"} {
		if r.node(id) != nil {
			continue
		}
		tn, err := r.open(id, nil)
		if err != nil && r.p.Off() {
			return false
		}
		if err != nil {
			r.t.Fatalf("open %s after a loss of power: %v", id, err)
		}
		r.sum.restored.Add(uint64(tn.dev.(*device.Device).Restored()))
		go tn.mux.Serve()
		r.mu.Lock()
		r.nodes[addrOf(id)] = tn
		r.mu.Unlock()
		if err := tn.Start(context.Background()); err != nil {
			r.t.Fatal(err)
		}
	}
	return true
}

// load lets the writers write until the power fails.
func (r *powerRun) load() {
	var wg sync.WaitGroup
	for _, w := range r.writers {
		wg.Go(func() { w.run(r.p.Lost()) })
	}
	wg.Go(func() { r.trouble(rand.New(rand.NewPCG(r.rng.Uint64(), 7))) })
	select {
	case <-r.p.Lost():
	case <-time.After(2 * time.Second):
		r.p.Cut()
	}
	wg.Wait()
}

// trouble makes checkpoints, and cuts a node off now and then, until the power fails.
func (r *powerRun) trouble(rng *rand.Rand) {
	pause := func(max int) bool {
		select {
		case <-r.p.Lost():
			return false
		case <-time.After(time.Duration(rng.IntN(max)) * time.Millisecond):
			return true
		}
	}
	checkpoint := func(id string) {
		n, done := r.node(id), make(chan struct{})
		go func() { _ = n.Checkpoint(context.Background()); close(done) }()
		select {
		case <-done:
		case <-r.p.Lost(): // a node whose disk failed answers when it is closed
		}
	}
	for pause(50) {
		id := string(rune('a' + rng.IntN(3)))
		if rng.IntN(3) > 0 {
			checkpoint(id)
			continue
		}
		r.net.isolate(addrOf(id), true)
		pause(120)
		for _, n := range r.running() {
			if n.id != id { // the log that the other one lacks is cut
				checkpoint(n.id)
			}
		}
		r.net.isolate(addrOf(id), false)
		pause(100)
	}
}

// verify compares every replica with what the writers did.
func (r *powerRun) verify() {
	r.t.Helper()
	l := r.leader()
	for l.ProveLeadership(r.ctx(5*time.Second)) != nil {
		l = r.leader()
	}
	r.caughtUp(l.Applied())
	want, reserved := map[wal.Addr]*[wal.BlockSize]byte{}, uint64(0)
	for _, w := range r.writers {
		k := w.applied(l)
		if k < w.acked || k > uint64(len(w.log)) {
			r.t.Fatalf("writer %c: %d records are there, of %d acknowledged and %d sent", w.name, k, w.acked, len(w.log))
		}
		r.sum.acked.Add(w.acked)
		for _, rec := range w.log[:k] {
			applyModel(want, rec)
			reserved -= uint64(max(rec.AllocDelta, 0))
		}
		reserved += powerReserve
	}
	for _, n := range r.running() {
		r.heal(n)
		n.View(func(s *blockstore.State, _ uint64) {
			if s.Used() != uint64(len(want)) || s.Reserved() != reserved {
				r.t.Errorf("%s counts %d blocks used and %d reserved, it is %d and %d", n.id, s.Used(), s.Reserved(), len(want), reserved)
			}
		})
		for _, w := range r.writers {
			if got, first := w.applied(n), w.applied(l); got != first {
				r.t.Errorf("writer %c: %d records on %s, %d on %s", w.name, got, n.id, first, l.id)
			}
		}
		r.compare(n, want)
	}
	for _, n := range r.running() {
		select {
		case err := <-n.fatal:
			r.t.Errorf("%s stopped: %v", n.id, err)
		default:
		}
	}
	if r.t.Failed() {
		r.t.FailNow()
	}
}

// heal lets n repair what is damaged; then nothing may be.
func (r *powerRun) heal(n *testNode) {
	r.t.Helper()
	r.eventually("everything is healed on "+n.id, func() bool {
		sum, err := n.Scrub(r.ctx(10*time.Second), nil)
		if err != nil && !errors.Is(err, errors.KindNotReached) {
			r.t.Fatal(err)
		}
		return err == nil && sum.Failed == 0
	})
	if left, err := n.dev.(*device.Device).Suspects(10); err != nil || len(left) > 0 {
		r.t.Fatalf("%s has suspects left: %v %v", n.id, left, err)
	}
	r.sum.copies.Add(min(n.CatchUp().Manifest, 1))
	c := n.Status().Repairs
	r.sum.found.Add(c.Found)
	r.sum.healed.Add(c.Repaired)
	r.sum.failed.Add(c.Failed)
}

// compare reads every chunk of n.
func (r *powerRun) compare(n *testNode, want map[wal.Addr]*[wal.BlockSize]byte) {
	r.t.Helper()
	left := maps.Clone(want)
	var after *blockstore.ChunkID
	for {
		list, err := n.dev.Chunks(after, 100)
		if err != nil {
			r.t.Fatal(err)
		}
		for i, info := range list {
			c, bad, err := n.dev.ReadChunk(info.ChunkID)
			if err != nil || len(bad) > 0 {
				r.t.Fatalf("%s: chunk %v: %v %v", n.id, info, bad, err)
			}
			data := c.Data
			for slot := range len(c.Present) * 8 {
				if c.Present[slot/8]>>(slot%8)&1 == 0 {
					continue
				}
				a := wal.Addr{VDisk: c.VDisk, Block: chunkStart(c.Chunk) + uint64(slot)}
				if b := want[a]; b == nil {
					r.t.Fatalf("%s: block %v is present, and was never written or trimmed", n.id, a)
				} else if !bytes.Equal(b[:], data[:wal.BlockSize]) {
					r.t.Fatalf("%s: block %v differs from what was written, at byte %d", n.id, a, differsAt(b[:], data))
				}
				delete(left, a)
				data = data[wal.BlockSize:]
			}
			after = &list[i].ChunkID
		}
		if len(list) < 100 {
			break
		}
	}
	for a := range left {
		r.t.Fatalf("%s: block %v is lost, and %d others", n.id, a, len(left)-1)
	}
}

func differsAt(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func chunkStart(chunk uint64) uint64 {
	switch chunk {
	case 0:
		return 0
	case 1:
		return 16
	}
	return (chunk - 1) * 256
}

// applyModel is what a record does.
func applyModel(m map[wal.Addr]*[wal.BlockSize]byte, rec *wal.Record) {
	for _, s := range rec.Trims {
		for i := range s.Count {
			delete(m, wal.Addr{VDisk: s.VDisk, Block: s.Block + i})
		}
	}
	for _, s := range rec.Zeros {
		for i := range s.Count {
			m[wal.Addr{VDisk: s.VDisk, Block: s.Block + i}] = new([wal.BlockSize]byte)
		}
	}
	for _, g := range rec.Ranges {
		b := m[g.Addr]
		if b == nil {
			b = new([wal.BlockSize]byte)
			m[g.Addr] = b
		}
		copy(b[g.Off:], g.Data)
	}
}

const (
	powerReserve  = 1 << 20
	powerInFlight = 8
)

// powerWriter sends the records of its log, in order, several at a time, and again what it does not know the outcome of.
type powerWriter struct {
	*writer
	r     *powerRun
	name  byte
	rng   *rand.Rand
	log   []*wal.Record // by number, from 1
	head  map[wal.Addr]*[wal.BlockSize]byte
	acked uint64
}

func (r *powerRun) newWriter(name byte) *powerWriter {
	w := &powerWriter{r: r, name: name, rng: rand.New(rand.NewPCG(r.rng.Uint64(), uint64(name))), head: map[wal.Addr]*[wal.BlockSize]byte{}}
	w.writer = r.cluster.writer(name)
	w.must(r.propose(blockstore.Command{Kind: blockstore.CmdReserve, Writer: w.ses.Writer, Token: w.ses.Token, Op: 2, Count: powerReserve - 100000}))
	return w
}

// applied tells how many of w's records n has applied.
func (w *powerWriter) applied(n *testNode) (k uint64) {
	n.View(func(s *blockstore.State, _ uint64) {
		if info, ok := s.Writer(w.ses.Writer); ok {
			k = info.NextSeq - 1
		}
	})
	return k
}

// run sends records until end is closed.
func (w *powerWriter) run(end <-chan struct{}) {
	for seq := w.acked + 1; ; {
		select {
		case <-end:
			return
		default:
		}
		acked := w.burst(seq, 1+w.rng.IntN(powerInFlight))
		w.acked = max(w.acked, acked)
		if acked < seq {
			time.Sleep(5 * time.Millisecond) // no leader, or none that answers
		}
		seq = w.acked + 1
	}
}

// burst sends n records from seq on at once, and returns the last one that was acknowledged.
func (w *powerWriter) burst(seq uint64, n int) (acked uint64) {
	var l *testNode
	for _, n := range w.r.running() {
		if n.isRaftLeader() {
			l = n
		}
	}
	if l == nil {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var best uint64 // an answer may come after this has returned
	for i := seq; i < seq+uint64(n); i++ {
		if i > uint64(len(w.log)) {
			w.log = append(w.log, w.record())
		}
		wg.Add(1)
		l.ProposeAsync(ctx, w.command(i, w.log[i-1]), func(res blockstore.Result, err error) {
			defer wg.Done()
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case res.Err == nil:
				best = max(best, i)
			case !errors.Is(res.Err, errors.KindSeqGap): // an earlier one was lost on its way
				w.r.t.Errorf("writer %c: record %d: %v", w.name, i, res.Err)
			}
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-all:
	case <-w.r.p.Lost(): // a leader whose followers lost their disks, but not their voices, never answers
	}
	mu.Lock()
	defer mu.Unlock()
	acked = best
	return acked
}

// record makes the next record: it says its number in a block of its own, and changes a few others, mostly in part.
func (w *powerWriter) record() *wal.Record {
	rec := &wal.Record{}
	disk := uint64(w.name)
	somewhere := func() uint64 { return []uint64{0, 12, 250, 300, 510}[w.rng.IntN(5)] + w.rng.Uint64N(12) }
	if w.rng.IntN(6) == 0 {
		rec.Trims = append(rec.Trims, wal.Span{VDisk: disk, Block: somewhere(), Count: 1 + w.rng.Uint64N(20)})
	}
	if w.rng.IntN(12) == 0 {
		rec.Zeros = append(rec.Zeros, wal.Span{VDisk: disk, Block: somewhere(), Count: 1 + w.rng.Uint64N(4)})
	}
	for range 1 + w.rng.IntN(4) {
		a := wal.Addr{VDisk: disk, Block: somewhere()}
		if w.rng.IntN(4) == 0 {
			rec.Ranges = append(rec.Ranges, wal.Range{Addr: a, Data: w.bytes(wal.BlockSize)})
			continue
		}
		off := w.rng.IntN(wal.BlockSize)
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: a, Off: uint32(off), Data: w.bytes(1 + w.rng.IntN(min(wal.BlockSize-off, 1500)))})
	}
	seq := uint64(len(w.log) + 1)
	rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: disk + 1000, Block: seq / 16}, Off: uint32(seq % 16 * 8), Data: fmt.Appendf(nil, "%8d", seq)})
	before := len(w.head)
	applyModel(w.head, rec)
	rec.AllocDelta = int64(len(w.head) - before)
	return rec
}

func (w *powerWriter) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	return b
}
