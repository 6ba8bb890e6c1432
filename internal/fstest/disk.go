// Package fstest holds fakes of what a file server works on, for tests: a block
// store in memory that applies encoded records as the real one does and checks every AllocDelta against the
// blocks that are there, and a lock service that several file servers share. No cluster, no clock but time.Now.
package fstest

import (
	"context"
	"fmt"
	"math"
	"sync"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// Disk is the replicated device of a fake cluster. Safe for concurrent use.
type Disk struct {
	mu       sync.Mutex
	blocks   map[wal.Addr]*[wal.BlockSize]byte
	index    uint64
	capacity uint64
	used     int64
	nextIno  uint64
	nextWr   blockstore.WriterID
	writers  map[blockstore.WriterID]*Store
	retired  []blockstore.WriterID
	// defect is the first thing that was wrong with what writers did; tests look at it at the end.
	defect error
	// reads counts the blocks read, questions the calls that read, records the records applied.
	reads, questions, records int
	versions                  map[wal.Addr][]version // with Lag
	cutAfter                  int                    // apply this many records more, then none; -1: no cut
	kept                      []*Disk                // with Keep
}

// NewDisk makes an empty device that admits capacity blocks.
func NewDisk(capacity uint64) *Disk {
	return &Disk{blocks: map[wal.Addr]*[wal.BlockSize]byte{}, capacity: capacity, nextIno: 16, writers: map[blockstore.WriterID]*Store{}, cutAfter: -1, index: 1}
}

// version is a block as of an index; nil: absent.
type version struct {
	index uint64
	data  *[wal.BlockSize]byte
}

// Lag makes every read be served by the most backward replica that the reader allows: as of
// exactly the minIndex that it gives. Call it before the first record.
func (d *Disk) Lag() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.versions = map[wal.Addr][]version{}
}

// at is block a as a reader at minIndex may find it.
func (d *Disk) at(a wal.Addr, minIndex uint64) *[wal.BlockSize]byte {
	if d.versions == nil {
		return d.blocks[a]
	}
	var found *[wal.BlockSize]byte
	for _, v := range d.versions[a] {
		if v.index > minIndex {
			break
		}
		found = v.data
	}
	return found
}

// note keeps the new version of a block that a record changed.
func (d *Disk) note(a wal.Addr) {
	if d.versions == nil {
		return
	}
	v := version{index: d.index}
	if b := d.blocks[a]; b != nil {
		c := *b
		v.data = &c
	}
	d.versions[a] = append(d.versions[a], v)
}

// CutAfter makes the device take n records more and lose every later one, as if all writers crashed then.
func (d *Disk) CutAfter(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAfter = n
}

// Defect is the first thing that was wrong with what writers did.
func (d *Disk) Defect() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.defect
}

// Counts tells the blocks read and the records applied so far, and the blocks in use.
func (d *Disk) Counts() (reads, records int, used int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads, d.records, d.used
}

// Questions tells how often something was read: what blocks hold, or which are present.
func (d *Disk) Questions() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.questions
}

// Block returns a copy of a block, nil if it is absent.
func (d *Disk) Block(a wal.Addr) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b := d.blocks[a]; b != nil {
		return append([]byte(nil), b[:]...)
	}
	return nil
}

// Each calls f for every present block, in no order.
func (d *Disk) Each(f func(a wal.Addr, data []byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for a, b := range d.blocks {
		f(a, b[:])
	}
}

// Crash fences every writer and ends the cut.
func (d *Disk) Crash() {
	d.mu.Lock()
	var all []*Store
	for _, s := range d.writers {
		all = append(all, s)
	}
	d.mu.Unlock()
	for _, s := range all {
		s.Fence()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAfter = -1
}

func (d *Disk) applyLocked(s *Store, rec *wal.Record) (uint64, error) {
	d.index++
	d.records++
	before := len(d.blocks)
	for _, t := range rec.Trims {
		d.eachOf(t, func(a wal.Addr) { delete(d.blocks, a); d.note(a) })
	}
	for _, z := range rec.Zeros {
		for i := range z.Count {
			a := wal.Addr{VDisk: z.VDisk, Block: z.Block + i}
			d.blocks[a] = new([wal.BlockSize]byte)
			d.note(a)
		}
	}
	for _, r := range rec.Ranges {
		b := d.blocks[r.Addr]
		if b == nil {
			b = new([wal.BlockSize]byte)
			d.blocks[r.Addr] = b
		}
		copy(b[r.Off:], r.Data)
		d.note(r.Addr)
	}
	if got := int64(len(d.blocks) - before); got != rec.AllocDelta && d.defect == nil {
		d.defect = fmt.Errorf("record %d of writer %d says %d blocks more, there are %d more; trims %v zeros %v", d.records, s.session.Writer, rec.AllocDelta, got, rec.Trims, rec.Zeros)
	}
	d.used += rec.AllocDelta
	if rec.AllocDelta > 0 {
		s.reserved -= rec.AllocDelta
		if s.reserved < 0 && d.defect == nil {
			d.defect = fmt.Errorf("record %d of writer %d allocates %d blocks more than it has reserved", d.records, s.session.Writer, -s.reserved)
		}
	}
	if d.kept != nil {
		d.kept = append(d.kept, d.cloneLocked())
	}
	return d.index, nil
}

func (d *Disk) eachOf(t wal.Span, f func(wal.Addr)) {
	if t.Count <= uint64(len(d.blocks)) {
		for i := range t.Count {
			f(wal.Addr{VDisk: t.VDisk, Block: t.Block + i})
		}
		return
	}
	for a := range d.blocks {
		if a.VDisk == t.VDisk && a.Block >= t.Block && a.Block-t.Block < t.Count {
			f(a)
		}
	}
}

// Store is one writer's blockstore.Store.
type Store struct {
	d       *Disk
	session blockstore.Session

	mu    sync.Mutex
	queue []submitted
	wake  chan struct{}
	dead  bool
	hold  bool
	over  bool
	last  uint64

	reserved int64 // guarded by d.mu
}

type submitted struct {
	rec  *wal.Record
	done func(uint64, error)
}

var _ blockstore.Store = (*Store)(nil)

// Open opens a writer. It runs one goroutine until Close.
func (d *Disk) Open() *Store {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nextWr++
	s := &Store{d: d, session: blockstore.Session{Writer: d.nextWr}, wake: make(chan struct{}, 1)}
	d.writers[d.nextWr] = s
	go s.run()
	return s
}

// Hold keeps submitted records back (a lost quorum), until Hold(false).
func (s *Store) Hold(on bool) {
	s.mu.Lock()
	s.hold = on
	s.mu.Unlock()
	s.kick()
}

// Fence ends the writer: records not applied yet are lost.
func (s *Store) Fence() {
	s.d.mu.Lock()
	if s.d.writers[s.session.Writer] != nil {
		delete(s.d.writers, s.session.Writer)
		s.d.retired = append(s.d.retired, s.session.Writer)
		s.reserved = 0
	}
	s.d.index++
	s.d.mu.Unlock()
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
	s.kick()
}

func (s *Store) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Submit decodes a record and applies it soon.
func (s *Store) Submit(record []byte, done func(uint64, error)) {
	rec, err := wal.DecodeRecord(record)
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	s.queue = append(s.queue, submitted{rec, done})
	s.mu.Unlock()
	s.kick()
}

// Close ends the goroutine: records submitted from now on are not answered.
func (s *Store) Close() {
	s.Fence()
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.kick()
}

func (s *Store) run() {
	for range s.wake {
		for {
			s.mu.Lock()
			if len(s.queue) == 0 {
				over := s.over
				s.mu.Unlock()
				if over {
					return
				}
				break
			}
			if s.hold && !s.dead {
				s.mu.Unlock()
				break
			}
			r := s.queue[0]
			s.queue = s.queue[1:]
			dead := s.dead
			s.mu.Unlock()
			s.finish(r, dead)
		}
	}
}

func (s *Store) finish(r submitted, dead bool) {
	if dead {
		r.done(0, errors.New(errors.KindDeadWriter, "writer %d is fenced", s.session.Writer))
		return
	}
	s.d.mu.Lock()
	if s.d.cutAfter == 0 {
		s.d.mu.Unlock()
		s.mu.Lock()
		s.queue = append([]submitted{r}, s.queue...)
		s.hold = true
		s.mu.Unlock()
		return
	}
	if s.d.cutAfter > 0 {
		s.d.cutAfter--
	}
	index, err := s.d.applyLocked(s, r.rec)
	s.d.mu.Unlock()
	s.mu.Lock()
	s.last = index
	s.mu.Unlock()
	r.done(index, err)
}

// Read returns blocks as they are now.
func (s *Store) Read(ctx context.Context, spans []blockstore.ReadSpan, minIndex uint64) ([]blockstore.ReadResult, uint64, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.questions++
	out := make([]blockstore.ReadResult, len(spans))
	total := uint64(0)
	for i, sp := range spans {
		if total += sp.Count; sp.Count == 0 || total > blockstore.ReadBlocksMax {
			return nil, 0, errors.New(errors.KindInvalid, "fstest: read of %d blocks", total)
		}
		out[i] = blockstore.ReadResult{Data: make([]byte, sp.Count*wal.BlockSize), Present: make([]byte, (sp.Count+7)/8)}
		for j := range sp.Count {
			s.d.reads++
			if b := s.d.at(wal.Addr{VDisk: sp.VDisk, Block: sp.Block + j}, minIndex); b != nil {
				copy(out[i].Data[j*wal.BlockSize:], b[:])
				out[i].Present[j/8] |= 1 << (j % 8)
			}
		}
	}
	if s.d.index < minIndex {
		return nil, 0, errors.New(errors.KindTimeout, "fstest: index %d is not reached", minIndex)
	}
	return out, s.d.index, nil
}

// Presence tells which blocks are present now.
func (s *Store) Presence(ctx context.Context, sp blockstore.ReadSpan, minIndex uint64) ([]byte, uint64, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if sp.Count == 0 || sp.Count > 1<<20 {
		return nil, 0, errors.New(errors.KindInvalid, "fstest: presence of %d blocks", sp.Count)
	}
	s.d.questions++
	out := make([]byte, (sp.Count+7)/8)
	s.d.eachPresent(sp, minIndex, func(i uint64) { out[i/8] |= 1 << (i % 8) })
	return out, s.d.index, nil
}

// SkipAbsent tells the first present block from block on.
func (s *Store) SkipAbsent(ctx context.Context, vdisk, block, minIndex uint64) (uint64, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.questions++
	next := uint64(math.MaxUint64)
	s.d.eachPresent(wal.Span{VDisk: vdisk, Block: block, Count: math.MaxUint64 - block}, minIndex, func(i uint64) { next = min(next, block+i) })
	return next, nil
}

func (d *Disk) eachPresent(sp wal.Span, minIndex uint64, f func(i uint64)) {
	if d.versions != nil {
		for a := range d.versions {
			if a.VDisk == sp.VDisk && a.Block >= sp.Block && a.Block-sp.Block < sp.Count && d.at(a, minIndex) != nil {
				f(a.Block - sp.Block)
			}
		}
		return
	}
	if sp.Count < uint64(len(d.blocks)) {
		for i := range sp.Count {
			if d.blocks[wal.Addr{VDisk: sp.VDisk, Block: sp.Block + i}] != nil {
				f(i)
			}
		}
		return
	}
	for a := range d.blocks {
		if a.VDisk == sp.VDisk && a.Block >= sp.Block && a.Block-sp.Block < sp.Count {
			f(a.Block - sp.Block)
		}
	}
}

func (s *Store) isDead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errors.New(errors.KindDeadWriter, "writer %d is fenced", s.session.Writer)
	}
	return nil
}

// TakeInodes gives fresh numbers.
func (s *Store) TakeInodes(ctx context.Context, n uint64) (blockstore.InodeRange, error) {
	if err := s.isDead(); err != nil {
		return blockstore.InodeRange{}, err
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	r := blockstore.InodeRange{First: s.d.nextIno, Count: n}
	s.d.nextIno += n
	return r, nil
}

// Reserve reserves blocks.
func (s *Store) Reserve(ctx context.Context, n uint64) error {
	if err := s.isDead(); err != nil {
		return err
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	total := uint64(s.d.used) + n
	for _, w := range s.d.writers {
		total += uint64(w.reserved)
	}
	if total > s.d.capacity {
		return errors.New(errors.KindNoSpace, "fstest: full")
	}
	s.reserved += int64(n)
	return nil
}

// Unreserve gives reserved blocks back.
func (s *Store) Unreserve(ctx context.Context, n uint64) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.reserved -= min(s.reserved, int64(n))
	return nil
}

// Space tells capacity and use.
func (s *Store) Space(ctx context.Context) (blockstore.Space, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	sp := blockstore.Space{CapacityBlocks: s.d.capacity, UsedBlocks: uint64(s.d.used)}
	for _, w := range s.d.writers {
		sp.ReservedBlocks += uint64(w.reserved)
	}
	return sp, nil
}

// Retired lists the fenced writers.
func (s *Store) Retired(ctx context.Context) ([]blockstore.WriterID, error) {
	if err := s.isDead(); err != nil {
		return nil, err
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	return append([]blockstore.WriterID(nil), s.d.retired...), nil
}

// ForgetRetired strikes one.
func (s *Store) ForgetRetired(ctx context.Context, w blockstore.WriterID) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	for i, r := range s.d.retired {
		if r == w {
			s.d.retired = append(s.d.retired[:i], s.d.retired[i+1:]...)
			break
		}
	}
	return nil
}

// LastIndex is the index of the last record of this writer.
func (s *Store) LastIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
