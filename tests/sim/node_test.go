package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/internal/assembly"
	"dfs/internal/simdisk"
	"dfs/wal/seglog"
)

// node is a machine with a disk and, while it runs, a node's process.
type node struct {
	w    *world
	id   string
	dir  string
	join []string // by whom it finds the cluster; none: it is one of the first
	host *host
	disk *disk

	mu      sync.Mutex
	run     *assembly.Node // nil: its process does not run
	life    int            // counts the processes
	fatal   error          // why the present one must end, if that was said before it had begun
	repairs uint64         // blocks that the replica had repaired when it was looked at
	unwound chan struct{}  // closed when the last process is gone
	turn    chan struct{}  // to start it
	gone    bool           // taken out of the cluster for good; guarded by world.mu
}

func (w *world) newNode(id string) *node {
	n := &node{w: w, id: id, dir: filepath.Join(w.dir, id), host: w.net.host(id), disk: newDisk(rand.New(rand.NewPCG(w.seed, uint64(id[0])))), unwound: make(chan struct{}), turn: make(chan struct{}, 1)}
	close(n.unwound)
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	return n
}

func addrOf(id string) string { return id + ":1" }

// limits are small, so that checkpoints, cut logs and copies come in every run.
func (w *world) limits() raftstore.Limits {
	return raftstore.Limits{HeartbeatTimeout: 300 * time.Millisecond, CommitTimeout: 500 * time.Millisecond, RPCTimeout: 2 * time.Second,
		CheckpointBytes: 1 << 20, TrailingBytes: []int64{1, 64 << 10, 8 << 20}[w.seed%3], ScrubPause: -1, HoldMax: 10 * time.Second,
		DiskDeadline: 5 * time.Second}
}

// start starts the node's process.
func (n *node) start() error {
	n.turn <- struct{}{} // one at a time
	defer func() { <-n.turn }()
	n.mu.Lock()
	runs, unwound := n.run != nil, n.unwound
	n.mu.Unlock()
	if runs {
		return nil
	}
	<-unwound
	n.host.start()
	n.mu.Lock()
	n.life++
	life := n.life
	n.fatal = nil
	n.mu.Unlock()
	boot := map[blockstore.NodeID]string{}
	if len(n.join) == 0 {
		boot = n.w.boot
	}
	n.disk.mu.Lock()
	n.disk.onOff = func() { go n.crash(life, true) }
	n.disk.onEnd = func() {
		n.host.mute()
		go func() { // an error that the process can do without: of a spare segment
			time.Sleep(100 * time.Millisecond)
			if n.disk.goesOn() {
				n.host.unmute()
			}
		}()
	}
	n.disk.onFatal = func() { go n.ended(life, errDisk) }
	n.disk.mu.Unlock()
	run, err := assembly.StartNode(assembly.NodeOptions{ID: blockstore.NodeID(n.id), Listen: addrOf(n.id), Data: n.dir, Bootstrap: boot, Join: n.join,
		LogKind: raftstore.LogSeg, CapacityBlocks: 1 << 20, Limits: n.w.limits(),
		Host: assembly.Host{Listen: n.host.Listen, Dial: n.host.Dial, Volume: simdisk.Volume{Disk: n.disk.Disk}, Power: n.disk,
			Seg: seglog.Options{SegmentBytes: 256 << 10, SpareAfter: 32 << 10, IdleRelease: 1000 * time.Hour, FS: simdisk.Log{Disk: n.disk.Disk}}},
		Logger: n.w.logger(n.id), Fatal: func(err error) { go n.ended(life, err) }})
	if err != nil {
		if n.disk.Off() { // the power failed while it recovered
			n.host.kill(true)
			n.disk.restart(true)
			return simdisk.ErrPower
		}
		return fmt.Errorf("node %s does not start: %w", n.id, err)
	}
	n.mu.Lock()
	n.run, n.unwound = run, make(chan struct{})
	fatal := n.fatal
	n.mu.Unlock()
	switch { // meanwhile
	case n.disk.Disk.Off():
		n.crash(life, true)
	case fatal != nil:
		n.ended(life, fatal)
	}
	return nil
}

// ended is the end of a process by its own decision.
func (n *node) ended(life int, err error) {
	n.mu.Lock()
	if n.life != life || n.run == nil {
		if n.life == life {
			n.fatal = err
		}
		n.mu.Unlock()
		return
	}
	off := n.disk.Off() // now: crash, on its way for the same reason, gives the power back behind this lock
	n.mu.Unlock()
	n.w.note("node %s ended itself: %v", n.id, err)
	if !off && !n.w.excused(n, err) {
		n.w.fail("node %s ended itself without a reason that was given to it: %v", n.id, err)
	}
	n.crash(life, false)
	n.w.repairs.Add(1)
	go func() { // its supervisor starts another
		defer n.w.repairs.Done()
		time.Sleep(time.Second)
		if n.replica() == nil && !n.isGone() {
			n.w.restart(n, 0)
		}
	}()
}

func (n *node) isGone() bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.gone
}

// crash ends the process of that life (0: of the present one) where it stands, by a kill or a loss of power.
func (n *node) crash(life int, power bool) bool {
	n.mu.Lock()
	run, unwound := n.run, n.unwound
	if run == nil || life != 0 && n.life != life {
		n.mu.Unlock()
		return false
	}
	n.run = nil
	n.mu.Unlock()
	n.host.kill(power)
	n.disk.Cut()
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = run.Close(ctx)
		n.disk.restart(power)
		close(unwound)
	}()
	return true
}

// isDown tells whether no process runs. One whose power failed at this very moment ends here.
func (n *node) isDown() bool {
	if n.disk.Off() {
		n.crash(0, true)
	}
	return n.replica() == nil
}

// stop ends the process in order.
func (n *node) stop() error {
	n.mu.Lock()
	run, unwound := n.run, n.unwound
	n.run = nil
	n.mu.Unlock()
	if run == nil {
		<-unwound
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := run.Close(ctx)
	n.disk.restart(false)
	close(unwound)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// replica is the running process's, nil if there is none.
func (n *node) replica() *raftstore.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return nil
	}
	return n.run.Replica()
}
