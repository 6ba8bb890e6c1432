package device

import (
	"crypto/rand"
	stderrors "errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// The files of a device directory beside the data files.
const (
	lockName   = "lock"
	headerName = "device.meta"
	mapName    = "map.db"
	mapNewName = "map.db.new" // the map of a device whose creation is not finished
)

// CacheChunksDefault is the default of Options.CacheChunks: 12,288 chunks take about 16 MiB.
const CacheChunksDefault = 12288

// Options says how to open a device.
type Options struct {
	// NodeID and ClusterID bind the directory. They are recorded when the device is
	// created and compared at each open (KindForeign). Not empty, at most 1024 bytes.
	NodeID    string
	ClusterID string
	// Create makes a new, empty device where the directory holds none.
	Create bool
	// Logger gets damage, repairs and the device's end. Required.
	Logger *slog.Logger
	// CacheChunks bounds the chunks whose place and checksums are kept in memory (1.3 KiB
	// each). 0: CacheChunksDefault.
	CacheChunks int
	// NoDirect keeps every write in the host's page cache.
	NoDirect bool
	// Volume replaces the data and checksum files of the directory (tests). The map is then not synced.
	Volume Volume

	volume    volume // tests: in place of the directory's data and checksum files
	noSync    bool   // tests: the map's file is not synced
	behindMin int    // tests: in place of behindMin
	lateMax   int    // tests: in place of lateMax
}

// Validate fills in defaults and refuses what cannot be.
func (o *Options) Validate() error {
	for _, id := range []struct{ what, s string }{{"node", o.NodeID}, {"cluster", o.ClusterID}} {
		if id.s == "" || len(id.s) > headerIDMax {
			return errors.New(errors.KindInvalid, "device: the %s id must have 1 to %d bytes, not %d", id.what, headerIDMax, len(id.s))
		}
	}
	if o.Logger == nil {
		return errors.New(errors.KindInvalid, "device: no logger given")
	}
	if o.CacheChunks < 0 {
		return errors.New(errors.KindInvalid, "device: a cache of %d chunks cannot be", o.CacheChunks)
	}
	if o.behindMin == 0 {
		o.behindMin = behindMin
	}
	if o.lateMax == 0 {
		o.lateMax = lateMax
	}
	if o.CacheChunks == 0 {
		o.CacheChunks = CacheChunksDefault
	}
	return nil
}

// Device is a node's local block store. See the package comment.
type Device struct {
	dir      string
	log      *slog.Logger
	lockFile *os.File
	deviceID [16]byte

	life   sync.RWMutex // held shared by every call; Close takes it alone
	closed bool
	dead   atomic.Pointer[error]

	files    fileSet
	store    chunkMap
	cache    cache
	suspects suspects
	mapping

	applied    atomic.Uint64
	incomplete atomic.Bool
	redone     atomic.Bool // EndRedo was called
	batch      batch       // of the goroutine that applies
	behind     behind
	late       late
	double     double
}

// mapping is the part of the chunk map that is not committed, and the windows' use.
type mapping struct {
	mapMu   sync.Mutex
	delta   *delta          // changes since the last checkpoint began
	frozen  *delta          // changes of a checkpoint that is not finished; nil: none
	used    [classes]bitmap // windows that are taken or in quarantine
	spare   [classes]spares // of those that are not
	freed   []window        // quarantine: given up since the last checkpoint began
	freeing []window        // quarantine: given up before that

	quarantine atomic.Int64 // bytes of freed and freeing

	commitMu sync.Mutex // held while a commit is made; before mapMu
	round    uint64     // counts checkpoints begun; guarded by mapMu
	index    uint64     // of the last finished checkpoint; guarded by mapMu
	meta     []byte     // of the last finished checkpoint; guarded by mapMu
}

var _ blockstore.Device = (*Device)(nil)

// Open opens the device in dir, creating it if opt.Create is set and dir holds
// none. The content is that of the last finished checkpoint, or ahead of it: redo the log
// from Meta's index before reading. KindBusy: another process has it; KindForeign: of another node or
// cluster, or none of ours; KindTooNew; KindCorrupt: rebuild this node; KindNotExist: no device and Create not set.
func Open(dir string, opt Options) (*Device, error) {
	if err := opt.Validate(); err != nil {
		return nil, err
	}
	if opt.Create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		if stderrors.Is(err, os.ErrNotExist) {
			return nil, errors.New(errors.KindNotExist, "there is no device at %s: check the directory, or create the node first", dir)
		}
		return nil, err
	}
	d := &Device{dir: dir, log: opt.Logger, lockFile: lock}
	d.files.vol = opt.volume
	if opt.Volume != nil {
		d.files.vol, opt.noSync = givenVolume{opt.Volume}, true
	}
	d.behind.inline = d.files.vol != nil
	if d.files.vol == nil {
		d.files.vol = &osVolume{dir: dir, direct: !opt.NoDirect}
	}
	d.cache = cache{max: opt.CacheChunks, m: map[blockstore.ChunkID]*chunk{}}
	d.behind.min = opt.behindMin
	d.late.max = opt.lateMax
	d.behind.free = make(chan []byte, behindMax)
	d.delta = newDelta()
	if err := d.open(&opt); err != nil {
		return nil, stderrors.Join(err, d.release())
	}
	if n := d.double.restored; n > 0 {
		d.log.Info("blocks torn by a loss of power are restored from the double-write area", "dir", dir, "blocks", n)
	}
	return d, nil
}

// open is recovery, in steps: header, map, which windows are in use, data files, and the emptying of every
// window that is not in use (a crash may have left anything in them).
func (d *Device) open(opt *Options) error {
	if err := d.openHeader(opt); err != nil {
		return err
	}
	store, err := openBolt(filepath.Join(d.dir, mapName), nil, opt.noSync)
	if err != nil {
		return err
	}
	d.store = store
	if opt.Volume != nil {
		d.store = givenMap{store, opt.Volume}
	}
	st, err := store.state()
	if err != nil {
		return err
	}
	if st.deviceID != d.deviceID {
		return errors.New(errors.KindForeign, "device %s: chunk map %s belongs to another device: put the right file back", d.dir, mapName)
	}
	d.index, d.meta = st.index, st.meta
	d.applied.Store(st.index)
	d.incomplete.Store(st.incomplete)
	if err := d.files.openAll(); err != nil {
		return err
	}
	if err := d.openWindows(); err != nil {
		return err
	}
	for c := range classes {
		err := d.used[c].freeRuns(d.files.windows(c), func(lo, hi uint64) error { return d.files.scrape(c, lo, hi) })
		if err != nil {
			return err
		}
	}
	return d.openDouble()
}

// openWindows marks the windows that the map names, and checks that the files hold them.
//
// A chunk that was copied from a replica further on than the index of the copy has a last index beyond that of the map. Once the redo from there has begun
// it is of neither index, and if the map had no checkpoint since then, nothing tells how far the redo came. A catch-up that compares by
// last indices must not take such a chunk for the other replica's. So it has none, durably, until the redo comes to it.
func (d *Device) openWindows() error {
	var bad error
	ahead := newDelta()
	err := d.store.ascend(blockstore.ChunkID{}, func(id blockstore.ChunkID, e entry) bool {
		if e.last > d.index && !d.incomplete.Load() { // an incomplete device redoes nothing
			e.last = 0
			ahead.set(id, e)
		}
		bad = d.markUsed(e.win, fmt.Sprintf("chunk %d of vdisk %d", id.Chunk, id.VDisk))
		if bad == nil && !d.files.covers(e.win) {
			bad = errors.New(errors.KindCorrupt, "device %s: chunk %d of vdisk %d lies beyond the end of the %s files, or they are missing: put them back or rebuild this node",
				d.dir, id.Chunk, id.VDisk, e.win.class())
		}
		return bad == nil
	})
	if err = stderrors.Join(err, bad); err != nil || len(ahead.entries) == 0 {
		return err
	}
	return d.store.commit(ahead, mapState{index: d.index, meta: d.meta, deviceID: d.deviceID})
}

// openHeader reads the header, or creates the device.
func (d *Device) openHeader(opt *Options) error {
	path := filepath.Join(d.dir, headerName)
	b, err := os.ReadFile(path)
	if stderrors.Is(err, os.ErrNotExist) {
		if err := d.create(opt); err != nil {
			return err
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	h, err := decodeHeader(b)
	if err != nil {
		return errors.New(errors.KindOf(err), "%s: %w", path, err)
	}
	if h.nodeID != opt.NodeID || h.clusterID != opt.ClusterID {
		return errors.New(errors.KindForeign, "device %s belongs to node %q of cluster %q, not to node %q of cluster %q: give this node a directory of its own",
			d.dir, h.nodeID, h.clusterID, opt.NodeID, opt.ClusterID)
	}
	d.deviceID = h.deviceID
	// A crash between the last two steps of create.
	if _, err := os.Stat(filepath.Join(d.dir, mapName)); stderrors.Is(err, os.ErrNotExist) {
		if err := os.Rename(filepath.Join(d.dir, mapNewName), filepath.Join(d.dir, mapName)); err != nil {
			return errors.New(errors.KindCorrupt, "device %s: its chunk map %s is missing: put it back or rebuild this node", d.dir, mapName)
		}
		return syncDir(d.dir)
	}
	return nil
}

// create makes an empty device: (1) the map under a name of its own, (2) the header, (3) the
// map's name. Before 2 there is no device and a new attempt starts afresh; after 2 open does 3.
func (d *Device) create(opt *Options) error {
	if _, err := os.Stat(filepath.Join(d.dir, mapName)); err == nil {
		return errors.New(errors.KindCorrupt, "device %s: its header %s is missing: put it back or rebuild this node", d.dir, headerName)
	}
	if !opt.Create {
		return errors.New(errors.KindNotExist, "there is no device at %s: check the directory, or create the node first", d.dir)
	}
	if err := os.Remove(filepath.Join(d.dir, mapNewName)); err != nil && !stderrors.Is(err, os.ErrNotExist) {
		return err
	}
	h := header{nodeID: opt.NodeID, clusterID: opt.ClusterID}
	if _, err := rand.Read(h.deviceID[:]); err != nil {
		return err
	}
	m, err := openBolt(filepath.Join(d.dir, mapNewName), &mapState{deviceID: h.deviceID}, opt.noSync)
	if err != nil {
		return err
	}
	if err := m.close(); err != nil {
		return err
	}
	if err := writeFileDurably(d.dir, headerName, h.encode()); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(d.dir, mapNewName), filepath.Join(d.dir, mapName)); err != nil {
		return err
	}
	return syncDir(d.dir)
}

// enter is the head of every call; leave ends it. It fails on a device that is dead or closed.
func (d *Device) enter() error {
	d.life.RLock()
	if d.closed {
		d.life.RUnlock()
		return errors.New(errors.KindUnavailable, "device %s is closed", d.dir)
	}
	if err := d.alive(); err != nil {
		d.life.RUnlock()
		return err
	}
	return nil
}

// alive is the error for which the device is dead, nil while it is not.
func (d *Device) alive() error {
	if err := d.dead.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *Device) leave() { d.life.RUnlock() }

// enterComplete is enter for calls that need whole content.
func (d *Device) enterComplete() error {
	if err := d.enter(); err != nil {
		return err
	}
	if d.incomplete.Load() {
		d.leave()
		return errors.New(errors.KindUnavailable, "device %s is in the midst of a catch-up: let it finish first", d.dir)
	}
	return nil
}

// fail makes the device dead: what its files hold is unknown now. It returns the error to tell.
func (d *Device) fail(what string, cause error) error {
	err := errors.New(errors.KindOf(cause), "device %s: %s failed, this node must stop: %w", d.dir, what, cause)
	if d.dead.CompareAndSwap(nil, &err) {
		d.log.Error("device is dead", "dir", d.dir, "doing", what, "error", cause)
	}
	return err
}

// Applied returns the index of the last Apply, Advance or ResetTo.
func (d *Device) Applied() uint64 { return d.applied.Load() }

// Advance sets the applied index without a change of blocks.
func (d *Device) Advance(index uint64) { d.applied.Store(index) }

// EndRedo says that everything applied before the device was opened has been redone. From then on a chunk that lost
// checksum entries is not taken for one that is ahead of the map, not even after it was changed (doubt.go).
func (d *Device) EndRedo() { d.redone.Store(true) }

// Incomplete tells whether a catch-up began and was not ended by ResetTo, be it in
// an earlier process: the device then serves no reads and applies nothing.
func (d *Device) Incomplete() bool { return d.incomplete.Load() }

// Usage tells what the device takes on the host's disk; its scratch is the double-write area.
func (d *Device) Usage() (u blockstore.DeviceUsage, err error) {
	if err := d.enter(); err != nil {
		return u, err
	}
	defer d.leave()
	for _, f := range d.files.all() {
		n, err := f.used()
		if err != nil {
			return u, err
		}
		u.Used += n
	}
	if u.Scratch, err = d.double.used(); err != nil {
		return u, err
	}
	u.ScratchMax = max(u.Scratch, 2*uint64(d.double.keep))
	n, err := d.store.usedBytes()
	if err != nil {
		return u, err
	}
	u.Used += u.Scratch + n
	u.Free, err = d.files.vol.free()
	return u, err
}

// Restored tells how many blocks that did not fit their checksums the opening of the device has taken from the double-write area.
func (d *Device) Restored() int { return d.double.restored }

// Close waits for calls in flight and gives the directory back. It makes no checkpoint.
func (d *Device) Close() error {
	d.life.Lock()
	defer d.life.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	_ = d.awaitAll()
	d.behind.drop()
	return d.release()
}

func (d *Device) release() error {
	err := stderrors.Join(d.files.close(), d.double.close())
	if d.store != nil {
		err = stderrors.Join(err, d.store.close())
	}
	return stderrors.Join(err, d.lockFile.Close())
}
