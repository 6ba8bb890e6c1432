package raftstore

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Node is one replica: it owns the Raft instance, its log and the state machine. Build it with Open, run it with Start, end it with
// Close. All methods are safe for concurrent use; before Raft runs (the node waits for its first members, or copies what it
// missed) they answer KindUnavailable.
type Node struct {
	opts    Options
	limits  Limits
	log     *slog.Logger
	lock    *os.File // the data directory's
	closing chan struct{}
	ended   sync.Once
	wg      sync.WaitGroup

	identMu sync.Mutex
	ident   *identity // guarded by identMu
	lives   atomic.Bool

	stores    *stores
	applier   *applier
	raft      atomic.Pointer[raft.Raft]
	transport *transport // set before raft

	inFlight      *semaphore.Weighted
	inFlightBytes atomic.Int64
	prover        prover
	reign         reign
	copying       copyState
	repairs       repairs
	capacity      capacityState
	checkpoints   checkpointState
	followers     followers
	elections     elections
	keepBytes     atomic.Int64 // see setKeepBytes
	spareBytes    atomic.Int64 // of the log, kept for followers alone; as of the last second
}

var (
	_ blockstore.Proposer = (*Node)(nil)
	_ blockstore.Replica  = (*Node)(nil)
)

// Open checks the data directory and builds the node; nothing runs yet. Errors: KindInvalid (options), KindForeign (the
// directory is another node's), KindTooNew, KindCorrupt, KindBusy (in use), KindIO.
func Open(opts Options) (*Node, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	n := &Node{opts: opts, limits: opts.Limits.withDefaults(), log: opts.Logger.With("node", string(opts.ID)), closing: make(chan struct{})}
	n.inFlight = semaphore.NewWeighted(n.limits.InFlightBytes)
	n.prover.commit = n.commitOwn
	n.elections = elections{heartbeat: n.limits.HeartbeatTimeout, raft: n.raft.Load}
	n.reign.init()
	n.checkpoints.turn = make(chan struct{}, 1)
	if err := n.open(); err != nil {
		n.release()
		return nil, err
	}
	return n, nil
}

func (n *Node) open() error {
	var err error
	if n.lock, err = lockDir(n.opts.Dir); err != nil {
		return err
	}
	if n.ident, err = loadIdentity(n.opts.Dir, n.opts.ID); err != nil {
		return err
	}
	if n.ident.Cluster == "" && len(n.opts.Bootstrap) == 0 && len(n.opts.Join) == 0 {
		return errors.New(errors.KindInvalid, "data directory %s belongs to no cluster: start the node with the list of the first members (--bootstrap), or with a member to join (--join)", n.opts.Dir)
	}
	if n.ident.Cluster != "" && len(n.opts.Bootstrap)+len(n.opts.Join) > 0 {
		n.log.Info("this node belongs to a cluster already; the bootstrap and join options are ignored", "cluster", n.ident.Cluster)
	}
	if n.stores, err = n.openStores(); err != nil {
		return err
	}
	if err := n.checkLife(); err != nil {
		return err
	}
	if n.applier, err = newApplier(n.opts.Device, n.log, n.opts.Fatal, n.closing); err != nil {
		return err
	}
	return n.noteStart()
}

// noteStart notes from where on the device may be read: here, because reads may come before Raft runs.
func (n *Node) noteStart() error {
	last, lastTerm, err := lastEntry(n.stores.log)
	if err != nil {
		return err
	}
	p := &n.applier.progress
	p.setStart(last, lastTerm)
	if p.redoEnds(p.applied.Load(), 0) {
		n.opts.Device.EndRedo()
	}
	mark, err := loadCopyMark(n.opts.Dir)
	if err != nil {
		return err
	}
	if mark != nil {
		p.setCopyFloor(mark.Floor)
		n.copying.mark = mark
	}
	return nil
}

// checkLife compares what the identity says with what the Raft stores hold.
func (n *Node) checkLife() error {
	has, err := raft.HasExistingState(n.stores.log, n.stores.stable, n.stores.snapshots)
	if err != nil {
		return errors.New(errors.KindIO, "cannot look into the raft log: %w", err)
	}
	term, err := n.stores.stable.GetUint64(keyCurrentTerm)
	if err != nil && !isKeyNotFound(err) {
		return errors.New(errors.KindIO, "cannot read the term in %s: %w", stableFile, err)
	}
	// Lives without anything in the stores is a start that ended before the first promise was stored: storesWhole saw the files.
	if n.ident.Lives && has && term == 0 {
		return errors.New(errors.KindCorrupt, "%s in %s holds no term, so this node does not know how it has voted: %s", stableFile, n.opts.Dir, rebuild)
	}
	n.lives.Store(n.ident.Lives)
	if has {
		return n.markAlive()
	}
	return nil
}

// markAlive notes, durably and before the first entry or vote, that this directory makes promises.
func (n *Node) markAlive() error {
	if n.lives.Load() {
		return nil
	}
	n.identMu.Lock()
	defer n.identMu.Unlock()
	n.ident.Lives = true
	if err := n.commitFile(func() error { return saveIdentity(n.opts.Dir, n.ident) }); err != nil {
		return err
	}
	n.lives.Store(true)
	return nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "node.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.New(errors.KindIO, "cannot use data directory %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New(errors.KindBusy, "data directory %s is in use by another process: %w", dir, err)
	}
	return f, nil
}

// Start begins to run the node and returns at once. It ends with Close; ctx bounds nothing but the start itself.
func (n *Node) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.opts.Mux.SetCard(n.card)
	n.spawn(n.run)
	return nil
}

func (n *Node) spawn(f func()) {
	n.wg.Add(1)
	go func() {
		defer n.wg.Done()
		f()
	}()
}

// runCtx is a context that ends with the node.
func (n *Node) runCtx() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-n.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// run brings the node up: who am I, Raft, then the background work.
func (n *Node) run() {
	ctx, cancel := n.runCtx()
	defer cancel()
	if own := n.ident.Cluster; own != "" {
		n.spawn(func() { n.checkListed(own) })
	}
	if err := n.findCluster(ctx); err != nil {
		n.startFailed(err)
		return
	}
	r, err := n.startRaft()
	if err != nil {
		n.startFailed(err)
		return
	}
	n.raft.Store(r)
	n.applier.progress.wake()
	n.spawn(func() { n.watchRaft(r) })
	n.spawn(func() { n.elections.loop(r, n.closing) })
	n.spawn(n.checkpointLoop)
	n.spawn(n.retainLoop)
	n.spawn(n.capacityLoop)
	n.spawn(n.scrubLoop)
}

func (n *Node) startFailed(err error) {
	select {
	case <-n.closing:
	default:
		n.log.Error("this node cannot start", "err", err)
		n.opts.Fatal(err)
	}
}

// raftConfig avoids the known traps of hashicorp/raft by its settings.
func (n *Node) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = n.ident.serverID()
	c.Logger = newRaftLogger(n.log, "raft")
	c.HeartbeatTimeout = n.elections.patience()
	c.ElectionTimeout = n.elections.patience() + electionSlack
	c.LeaderLeaseTimeout = n.limits.HeartbeatTimeout
	c.CommitTimeout = n.limits.CommitTimeout
	c.MaxAppendEntries = raftEntriesMax
	c.BatchApplyCh = true
	c.SnapshotInterval = 100000 * time.Hour // checkpoints go by bytes: see checkpointLoop
	c.SnapshotThreshold = 1 << 62
	c.TrailingLogs = 1 << 20 // set before each checkpoint
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.NoSnapshotRestoreOnStart = true
	return c
}

// startRaft opens the network and Raft. If the device is behind the newest
// snapshot, or a copy was cut short, it first makes that copy.
func (n *Node) startRaft() (*raft.Raft, error) {
	cluster, _ := n.ident.clusterID()
	conf := n.raftConfig()
	restore, err := n.mustRestore()
	if err != nil {
		return nil, err
	}
	conf.NoSnapshotRestoreOnStart = !restore
	addr := serverAddress(n.opts.Advertise, n.ident.Incarnation)
	trans := newTransport(n, cluster, addr)
	defer func() {
		if n.transport == nil { // also where what could not be noted ends this goroutine: watchedStable.write
			_ = trans.Close()
		}
	}()
	n.opts.Mux.SetCluster(cluster, uint64(n.ident.Incarnation))
	if err := n.found(); err != nil {
		return nil, errors.New(errors.KindOf(err), "cannot write the first configuration: %w", err)
	}
	if err := n.refound(); err != nil {
		return nil, errors.New(errors.KindOf(err), "cannot write the recovered cluster's configuration: %w", err)
	}
	if err := n.stores.scanStarts(); err != nil {
		return nil, err
	}
	r, err := raft.NewRaft(conf, fsm{n}, n.stores.log, n.stores.stable, n.stores.snapshots, trans)
	n.stores.watched.scan.end()
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "cannot start raft: %w", err)
	}
	n.transport = trans
	return r, nil
}

// mustRestore tells whether the newest snapshot must be restored: the device is behind it, or a copy was cut short.
func (n *Node) mustRestore() (bool, error) {
	snaps, err := n.stores.snapshots.List()
	if err != nil {
		return false, errors.New(errors.KindIO, "cannot list the snapshots: %w", err)
	}
	if err := n.noGap(snaps); err != nil {
		return false, err
	}
	if len(snaps) == 0 {
		return false, nil
	}
	behind := n.applier.progress.applied.Load() < snaps[0].Index
	return behind || n.copying.mark != nil && n.copying.mark.Copying, nil
}

// noGap refuses a log that begins behind the newest snapshot's end: a manifest is lost or damaged, and the list leaves it out.
func (n *Node) noGap(snaps []*raft.SnapshotMeta) error {
	first, err := n.stores.log.FirstIndex()
	if err != nil {
		return err
	}
	var covered uint64
	if len(snaps) > 0 {
		covered = snaps[0].Index
	}
	if first > covered+1 {
		return errors.New(errors.KindCorrupt, "the raft log begins with entry %d, but the newest readable manifest in %s covers only the first %d: another is missing or damaged; %s",
			first, filepath.Join(n.opts.Dir, "raft", "snapshots"), covered, rebuild)
	}
	return nil
}

// raftNow returns Raft, or KindUnavailable while it is not running.
func (n *Node) raftNow() (*raft.Raft, error) {
	r := n.raft.Load()
	if r == nil {
		return nil, errors.New(errors.KindUnavailable, "node %s is starting: it waits for the other members, or copies what it missed", n.opts.ID)
	}
	return r, nil
}

// isClosing tells whether Close was called.
func (n *Node) isClosing() bool {
	select {
	case <-n.closing:
		return true
	default:
		return false
	}
}

// Close hands leadership over if this node has it, stops everything and releases the
// data directory. The device stays open: it is the caller's.
func (n *Node) Close() error {
	var err error
	n.ended.Do(func() {
		n.handOver()
		if n.raft.Load() != nil {
			n.transport.wire.deafen()
		}
		close(n.closing)
		n.applier.gate.liftAny()
		for _, disarm := range n.stores.disarm {
			disarm()
		}
		n.wg.Wait() // also run, so n.raft is final now
		if r := n.raft.Load(); r != nil {
			down := r.Shutdown()
			_ = n.transport.Close() // ends what raft waits for: an answer to a snapshot comes when the follower's copy is done
			err = down.Error()
			n.stores.down.Store(true)
		}
		n.reign.close()
		n.release()
	})
	return err
}

// handOver gives leadership to another voter, within two heartbeat timeouts or so.
func (n *Node) handOver() {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader || n.voterCount() < 2 || n.applier.dead.Load() != nil {
		return
	}
	answered, err := await(r.LeadershipTransfer(), n.applier.died) // raft may wait for the applier, and answers nobody
	if !answered {
		err = errStopped
	}
	if err != nil {
		n.log.Warn("could not hand leadership over; the others will elect a leader after the heartbeat timeout", "err", err)
	}
}

// release closes what open opened.
func (n *Node) release() {
	if n.stores != nil {
		if err := n.stores.close(); err != nil {
			n.log.Warn("closing the raft log", "err", err)
		}
	}
	if n.lock != nil {
		n.lock.Close()
	}
}
