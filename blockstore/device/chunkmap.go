package device

import (
	"encoding/binary"
	stderrors "errors"
	"math"
	"runtime/debug"
	"slices"

	"dfs/blockstore"
	"dfs/internal/boltfile"
	"dfs/internal/crc"
	"dfs/internal/errors"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// entry is what the map tells of a chunk.
type entry struct {
	win     window
	last    uint64 // index of its last change
	present uint32 // blocks that are present
}

// chunkMap is the durable map of chunks, as of the last commit.
type chunkMap interface {
	get(id blockstore.ChunkID) (entry, bool, error)
	// ascend calls f for the chunks from `from` on, in order, until f returns false.
	ascend(from blockstore.ChunkID, f func(blockstore.ChunkID, entry) bool) error
	// commit makes the changes in d and the state durable in one step.
	commit(d *delta, st mapState) error
	state() (mapState, error)
	usedBytes() (uint64, error)
	close() error
}

// mapState is what is kept beside the chunks.
type mapState struct {
	index      uint64
	incomplete bool
	meta       []byte
	deviceID   [16]byte
}

// The chunk map is a bbolt file, map.db:
//
//	bucket "chunks": key   vdisk, chunk (big-endian: 16 bytes)
//	                 value window, last index (8 bytes each), present (4),
//	                       CRC32C of key and what precedes (4), little-endian
//	bucket "state":  "state" -> index (8), incomplete (1), device id (16), meta, CRC32C of all that (4)
var (
	bucketChunks = []byte("chunks")
	bucketState  = []byte("state")
	keyState     = []byte("state")
)

const (
	mapKeySize   = 16
	mapValueSize = 24
	stateFixed   = 25
)

func mapKey(id blockstore.ChunkID) []byte {
	k := make([]byte, mapKeySize)
	binary.BigEndian.PutUint64(k, id.VDisk)
	binary.BigEndian.PutUint64(k[8:], id.Chunk)
	return k
}

func encodeEntry(key []byte, e entry) []byte {
	v := make([]byte, mapValueSize)
	binary.LittleEndian.PutUint64(v, uint64(e.win))
	binary.LittleEndian.PutUint64(v[8:], e.last)
	binary.LittleEndian.PutUint32(v[16:], e.present)
	binary.LittleEndian.PutUint32(v[20:], crc.Update(crc.Checksum(key), v[:20]))
	return v
}

func decodeEntry(key, v []byte) (blockstore.ChunkID, entry, error) {
	if len(key) != mapKeySize || len(v) != mapValueSize ||
		binary.LittleEndian.Uint32(v[20:]) != crc.Update(crc.Checksum(key), v[:20]) {
		return blockstore.ChunkID{}, entry{}, errors.New(errors.KindCorrupt, "chunk map entry %x is damaged: rebuild this node from the others", key)
	}
	id := blockstore.ChunkID{VDisk: binary.BigEndian.Uint64(key), Chunk: binary.BigEndian.Uint64(key[8:])}
	e := entry{
		win:     window(binary.LittleEndian.Uint64(v)),
		last:    binary.LittleEndian.Uint64(v[8:]),
		present: binary.LittleEndian.Uint32(v[16:]),
	}
	if id.Chunk > chunkMax || e.win.number() >= windowMax || e.win.class() != classOf(id.Chunk) {
		return id, e, errors.New(errors.KindCorrupt, "chunk map entry %x names an impossible chunk or window: rebuild this node from the others", key)
	}
	return id, e, nil
}

func encodeState(st mapState) []byte {
	b := make([]byte, stateFixed, stateFixed+len(st.meta)+4)
	binary.LittleEndian.PutUint64(b, st.index)
	if st.incomplete {
		b[8] = 1
	}
	copy(b[9:], st.deviceID[:])
	b = append(b, st.meta...)
	return binary.LittleEndian.AppendUint32(b, crc.Checksum(b))
}

func decodeState(b []byte) (mapState, error) {
	if len(b) < stateFixed+4 {
		return mapState{}, errors.New(errors.KindCorrupt, "device state is cut off at %d bytes: rebuild this node from the others", len(b))
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc.Checksum(body) != sum || body[8] > 1 {
		return mapState{}, errors.New(errors.KindCorrupt, "device state does not fit its checksum: rebuild this node from the others")
	}
	st := mapState{index: binary.LittleEndian.Uint64(body), incomplete: body[8] == 1}
	copy(st.deviceID[:], body[9:])
	st.meta = slices.Clone(body[stateFixed:])
	return st, nil
}

// boltMap is the chunkMap on a bbolt file.
type boltMap struct{ db *bolt.DB }

var _ chunkMap = (*boltMap)(nil)

// openBolt opens the map at path; with first set it must be new and gets that state.
func openBolt(path string, first *mapState, noSync bool) (m *boltMap, err error) {
	defer recoverFault(&err)
	if first == nil {
		if err := boltfile.Check(path); err != nil {
			return nil, errors.New(errors.KindOf(err), "the chunk map cannot be used, rebuild this node from the others: %w", err)
		}
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoSync: noSync, NoGrowSync: noSync})
	if err != nil {
		if stderrors.Is(err, bolterrors.ErrInvalid) || stderrors.Is(err, bolterrors.ErrChecksum) || stderrors.Is(err, bolterrors.ErrVersionMismatch) {
			return nil, errors.New(errors.KindCorrupt, "chunk map %s is damaged, rebuild this node from the others: %w", path, err)
		}
		return nil, err
	}
	m = &boltMap{db: db}
	if first == nil {
		return m, nil
	}
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(bucketChunks); err != nil {
			return err
		}
		b, err := tx.CreateBucket(bucketState)
		if err != nil {
			return err
		}
		return b.Put(keyState, encodeState(*first))
	})
	if err != nil {
		return nil, stderrors.Join(err, db.Close())
	}
	return m, nil
}

// recoverFault turns a fault or panic inside bbolt (a bad disk under its memory
// map, a damaged page) into an error. It is deferred first.
func recoverFault(err *error) {
	if r := recover(); r != nil {
		*err = errors.New(errors.KindCorrupt, "chunk map %s cannot be read, rebuild this node from the others: %v", mapName, r)
	}
}

func (m *boltMap) view(f func(tx *bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recoverFault(&err)
	return m.db.View(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketChunks) == nil || tx.Bucket(bucketState) == nil {
			return errors.New(errors.KindCorrupt, "chunk map lacks its buckets: rebuild this node from the others")
		}
		return f(tx)
	})
}

func (m *boltMap) get(id blockstore.ChunkID) (e entry, found bool, err error) {
	key := mapKey(id)
	err = m.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketChunks).Get(key)
		if v == nil {
			return nil
		}
		var err error
		_, e, err = decodeEntry(key, v)
		found = err == nil
		return err
	})
	return e, found, err
}

func (m *boltMap) ascend(from blockstore.ChunkID, f func(blockstore.ChunkID, entry) bool) error {
	return m.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketChunks).Cursor()
		for k, v := c.Seek(mapKey(from)); k != nil; k, v = c.Next() {
			id, e, err := decodeEntry(k, v)
			if err != nil {
				return err
			}
			if !f(id, e) {
				return nil
			}
		}
		return nil
	})
}

func (m *boltMap) commit(d *delta, st mapState) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer recoverFault(&err)
	return m.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketChunks)
		ids := make([]blockstore.ChunkID, 0, len(d.entries))
		for id := range d.entries {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, compareIDs)
		for _, id := range ids {
			e, key := d.entries[id], mapKey(id)
			var err error
			if e.win == noWindow {
				err = b.Delete(key)
			} else {
				err = b.Put(key, encodeEntry(key, e))
			}
			if err != nil {
				return err
			}
		}
		return tx.Bucket(bucketState).Put(keyState, encodeState(st))
	})
}

func (m *boltMap) state() (st mapState, err error) {
	err = m.view(func(tx *bolt.Tx) error {
		st, err = decodeState(tx.Bucket(bucketState).Get(keyState))
		return err
	})
	return st, err
}

func (m *boltMap) usedBytes() (n uint64, err error) {
	err = m.view(func(tx *bolt.Tx) error { n = uint64(tx.Size()); return nil })
	return n, err
}

func (m *boltMap) close() error { return m.db.Close() }

func compareIDs(a, b blockstore.ChunkID) int {
	switch {
	case less(a, b):
		return -1
	case less(b, a):
		return 1
	}
	return 0
}

// delta holds changes of the map that are not committed yet; an entry with
// noWindow is a removal. Trims ask for the chunks of one vdisk: those with low
// numbers are probed, those from farChunk on stand in far as well.
type delta struct {
	entries map[blockstore.ChunkID]entry
	far     map[uint64][]uint64
}

const farChunk = 64

func newDelta() *delta {
	return &delta{entries: map[blockstore.ChunkID]entry{}, far: map[uint64][]uint64{}}
}

func (dl *delta) set(id blockstore.ChunkID, e entry) {
	if id.Chunk >= farChunk {
		if _, ok := dl.entries[id]; !ok {
			dl.far[id.VDisk] = append(dl.far[id.VDisk], id.Chunk)
		}
	}
	dl.entries[id] = e
}

// collect adds the entries in [lo, hi] to into, unless one is there already.
func (dl *delta) collect(lo, hi blockstore.ChunkID, into map[blockstore.ChunkID]entry) {
	add := func(id blockstore.ChunkID) {
		if e, ok := dl.entries[id]; ok {
			if _, have := into[id]; !have {
				into[id] = e
			}
		}
	}
	if lo.VDisk != hi.VDisk {
		for id := range dl.entries {
			if !less(id, lo) && !less(hi, id) {
				add(id)
			}
		}
		return
	}
	for n := lo.Chunk; n <= hi.Chunk && n < farChunk; n++ {
		add(blockstore.ChunkID{VDisk: lo.VDisk, Chunk: n})
	}
	for _, n := range dl.far[lo.VDisk] {
		if n >= lo.Chunk && n <= hi.Chunk {
			add(blockstore.ChunkID{VDisk: lo.VDisk, Chunk: n})
		}
	}
}

// lookup finds a chunk in the map as it is now.
func (d *Device) lookup(id blockstore.ChunkID) (entry, bool, error) {
	d.mapMu.Lock()
	for _, dl := range []*delta{d.delta, d.frozen} {
		if dl == nil {
			continue
		}
		if e, ok := dl.entries[id]; ok {
			d.mapMu.Unlock()
			return e, e.win != noWindow, nil
		}
	}
	d.mapMu.Unlock()
	return d.store.get(id)
}

// list returns up to max chunks of the map as it is now, in [lo, hi], in order.
// Several vdisks cost a look at every change that is not committed.
func (d *Device) list(lo, hi blockstore.ChunkID, max int) ([]listed, error) {
	fresh := map[blockstore.ChunkID]entry{}
	d.mapMu.Lock()
	d.delta.collect(lo, hi, fresh)
	if d.frozen != nil {
		d.frozen.collect(lo, hi, fresh)
	}
	d.mapMu.Unlock()
	// The committed map is read after the deltas: a commit in between moves entries
	// from the frozen delta, which we have, into it.
	var out []listed
	bound := hi
	err := d.store.ascend(lo, func(id blockstore.ChunkID, e entry) bool {
		if less(hi, id) {
			return false
		}
		if _, ok := fresh[id]; !ok {
			out = append(out, listed{id, e})
		}
		if len(out) >= max {
			bound = id
			return false
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	for id, e := range fresh {
		if e.win != noWindow && !less(bound, id) {
			out = append(out, listed{id, e})
		}
	}
	slices.SortFunc(out, func(a, b listed) int { return compareIDs(a.id, b.id) })
	return out[:min(len(out), max)], nil
}

type listed struct {
	id blockstore.ChunkID
	e  entry
}

// lastID is after every chunk.
var lastID = blockstore.ChunkID{VDisk: math.MaxUint64, Chunk: math.MaxUint64}
