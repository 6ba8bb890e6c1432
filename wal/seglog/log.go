package seglog

import (
	stderrors "errors"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// Entry is one entry to append: its bytes are Head followed by Data (either may
// be empty), so that a codec's header need not be copied in front of the data.
type Entry struct {
	Index uint64 // from 1
	Head  []byte
	Data  []byte
}

func (e *Entry) size() int64 { return int64(len(e.Head)) + int64(len(e.Data)) }

// entryRef tells where an entry's bytes are in its segment.
type entryRef struct {
	off, len, crc uint32
}

// segment is one file in use. Fields are set at its start but for those named.
type segment struct {
	header
	name string
	file File

	base  uint64     // index of ents[0]; under mu
	ents  []entryRef // under mu
	end   int64      // where the next group goes; changed under wmu and mu
	chain uint32     // under wmu

	retired bool // under rmu: the file may be gone
}

func (s *segment) limit() uint64 { return s.base + uint64(len(s.ents)) }

// Log is an open log. See the package comment.
type Log struct {
	opts Options
	fs   FS
	log  *slog.Logger

	wmu  sync.Mutex // one Append or truncation at a time
	wbuf buffer

	mu    sync.RWMutex // the index
	segs  []*segment   // oldest first; the last is the active one
	first uint64       // 0 with next 0: empty, any index may follow
	next  uint64
	dead  error

	rmu    sync.Mutex // reading from files, and taking them away
	window readWindow

	free spares

	noted  bool   // there is a file newest-<n>; at the start only
	newest uint64 // its n, under wmu

	counts  counters
	lastUse time.Time   // of wbuf, under wmu
	idle    *time.Timer // under wmu; nil when not armed
}

// counters are shown by Stats.
type counters struct {
	appends, groups, entryBytes, writtenBytes, fileReads, tornTails atomic.Uint64
}

// Stats is what a log tells of itself. Sizes in bytes.
type Stats struct {
	First, Last  uint64 // 0: empty
	LogBytes     int64  // taken by the entries from First on, padding included
	DiskBytes    int64  // of all segment files, free ones too
	Segments     int    // in use
	FreeSegments int
	IndexBytes   int64 // memory
	BufferBytes  int64 // memory
	Appends      uint64
	Groups       uint64 // durable writes
	EntryBytes   uint64 // given to Append
	WrittenBytes uint64 // of groups, with padding
	FileReads    uint64
	TornTails    uint64        // cut at Open
	Mode         string        // how it writes
	ProbeSync    time.Duration // of one durable write of a block, measured at Open
	Dead         error         // why the log is dead, nil if it is not
}

// Open opens the log in dir, or makes an empty one. Errors: KindBusy (another process has it), KindCorrupt, KindForeign,
// KindTooNew, KindInvalid (options), KindIO.
func Open(dir string, opts Options) (*Log, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	l, err := build(dir, opts)
	if err != nil {
		return nil, err
	}
	if !opts.manual {
		l.free.start(l)
	}
	return l, nil
}

// build makes a Log without its goroutine.
func build(dir string, opts Options) (*Log, error) {
	fs := opts.FS
	if fs == nil {
		var err error
		if fs, err = OpenDir(dir, opts.Buffered); err != nil {
			return nil, err
		}
	}
	l := &Log{opts: opts, fs: fs, log: opts.Logger.With("log", dir)}
	l.free.init()
	start := time.Now()
	if err := l.recover(); err != nil {
		_ = l.closeFiles()
		return nil, err
	}
	s := l.Stats()
	l.log.Info("log opened", "mode", s.Mode, "sync", s.ProbeSync, "first", s.First, "last", s.Last, "bytes", s.LogBytes,
		"segments", s.Segments, "free", s.FreeSegments, "took", time.Since(start))
	return l, nil
}

// First is the index of the oldest entry, 0 if the log is empty.
func (l *Log) First() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first == l.next {
		return 0
	}
	return l.first
}

// Last is the index of the newest entry, 0 if the log is empty.
func (l *Log) Last() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.first == l.next {
		return 0
	}
	return l.next - 1
}

// EntryBytesMax is the size of the greatest entry that fits.
func (l *Log) EntryBytesMax() int64 { return l.opts.SegmentBytes - 2*Block }

// Append adds entries, whose indexes follow each other and the last one (an
// empty log takes any first index). They are durable when it returns nil.
// KindInvalid and KindTooBig: nothing was done. Any other error: the log is dead.
func (l *Log) Append(entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.state(); err != nil {
		return err
	}
	if err := l.checkEntries(entries); err != nil {
		return err
	}
	l.touch()
	l.counts.appends.Add(1)
	for len(entries) > 0 {
		n, err := l.appendGroup(entries)
		if err != nil {
			return l.fail(err)
		}
		entries = entries[n:]
	}
	l.wantSpare()
	return nil
}

func (l *Log) checkEntries(entries []Entry) error {
	want := l.next
	if l.first == l.next {
		want = entries[0].Index
	}
	for i := range entries {
		e := &entries[i]
		if e.Index != want || e.Index == 0 || e.Index+1 == 0 {
			return errors.New(errors.KindInvalid, "append to the log: index %d where %d is next", e.Index, want)
		}
		if e.size() > l.EntryBytesMax() {
			return errors.New(errors.KindTooBig, "append to the log: entry %d has %d bytes, %d fit", e.Index, e.size(), l.EntryBytesMax())
		}
		want++
	}
	return nil
}

func (l *Log) active() *segment { return l.segs[len(l.segs)-1] }

// appendGroup writes as many entries as go into one group, at least one.
func (l *Log) appendGroup(entries []Entry) (int, error) {
	seg := l.active()
	n := l.groupFit(entries, int64(seg.segBytes)-seg.end)
	if n == 0 || (!seg.filled && seg.end >= l.opts.SpareAfter && l.free.ready() > 0) {
		var err error
		if seg, err = l.rotate(l.next, seg); err != nil {
			return 0, err
		}
		n = l.groupFit(entries, int64(seg.segBytes)-seg.end)
	}
	logFirst := l.first
	if l.first == l.next {
		logFirst = entries[0].Index
	}
	refs, err := l.writeGroup(seg, entries[:n], groupHead{first: entries[0].Index, logFirst: logFirst, count: uint32(n)})
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(seg.ents) == 0 {
		seg.base = entries[0].Index
	}
	seg.ents = append(seg.ents, refs...)
	l.first, l.next = logFirst, entries[n-1].Index+1
	return n, nil
}

// groupFit tells how many entries fit into room bytes and the group limit.
func (l *Log) groupFit(entries []Entry, room int64) int {
	size := int64(groupHeadBytes)
	for i := range entries {
		size += tableEntry + entries[i].size()
		if alignUp(size) > room || (i > 0 && size > l.opts.GroupBytes) {
			return i
		}
	}
	return len(entries)
}

// writeGroup puts entries behind the groups of seg, durably, and moves seg.end.
// g has first, logFirst and count.
func (l *Log) writeGroup(seg *segment, entries []Entry, g groupHead) ([]entryRef, error) {
	for i := range entries {
		g.body += uint64(entries[i].size())
	}
	g.pos, g.chain = uint64(seg.end), seg.chain
	buf, err := l.wbuf.grow(g.span())
	if err != nil {
		return nil, errors.New(errors.KindNoMemory, "buffer of %d bytes for the log: %w", g.span(), err)
	}
	refs := make([]entryRef, len(entries))
	off := g.metaBytes()
	for i := range entries {
		e := &entries[i]
		n := copy(buf[off:], e.Head)
		n += copy(buf[off+int64(n):], e.Data)
		sum := crc.Update(entrySeed(seg.salt, e.Index), buf[off:off+int64(n)])
		le.PutUint32(buf[groupHeadBytes+i*tableEntry:], uint32(n))
		le.PutUint32(buf[groupHeadBytes+i*tableEntry+4:], sum)
		refs[i] = entryRef{off: uint32(seg.end + off), len: uint32(n), crc: sum}
		off += int64(n)
	}
	clear(buf[off:])
	chain := g.seal(buf, seg.salt)
	if err := seg.file.WriteDurable(buf, seg.end); err != nil {
		return nil, errors.New(errors.KindOf(err), "write %d bytes at offset %d of log segment %s: %w", len(buf), seg.end, seg.name, err)
	}
	l.counts.groups.Add(1)
	l.counts.entryBytes.Add(g.body)
	l.counts.writtenBytes.Add(uint64(len(buf)))
	l.mu.Lock()
	seg.end += int64(len(buf))
	l.mu.Unlock()
	seg.chain = chain
	return refs, nil
}

// state is nil, or why nothing can be done any more.
func (l *Log) state() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dead
}

// fail makes the log dead with err, the first time.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil {
		l.dead = errors.New(errors.KindOf(err), "the log is dead since an earlier failure: %w", err)
		l.log.Error("log failed; nothing is written to it any more", "err", err)
	}
	return err
}

var errClosed = errors.New(errors.KindUnavailable, "the log is closed")

// Stats tells the log's figures. It never fails.
func (l *Log) Stats() Stats {
	free := l.free.ready()
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := Stats{
		Segments: len(l.segs), FreeSegments: free, BufferBytes: l.wbuf.held.Load() + l.window.buf.held.Load() + l.free.buf.held.Load(),
		Appends: l.counts.appends.Load(), Groups: l.counts.groups.Load(), EntryBytes: l.counts.entryBytes.Load(),
		WrittenBytes: l.counts.writtenBytes.Load(), FileReads: l.counts.fileReads.Load(), TornTails: l.counts.tornTails.Load(),
		Dead: l.dead, LogBytes: l.bytesSince(l.first),
	}
	s.Mode, s.ProbeSync = modeOf(l.fs)
	if l.first != l.next {
		s.First, s.Last = l.first, l.next-1
	}
	for _, seg := range l.segs {
		s.DiskBytes += int64(seg.segBytes)
		s.IndexBytes += int64(cap(seg.ents)) * 12
	}
	s.DiskBytes += int64(free) * l.opts.SegmentBytes
	return s
}

// BytesSince tells how many bytes of the log the entries from index on take, padding included (to 4 KiB).
func (l *Log) BytesSince(index uint64) int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.bytesSince(index)
}

func (l *Log) bytesSince(index uint64) int64 {
	index = max(index, l.first)
	var n int64
	for i := len(l.segs) - 1; i >= 0; i-- {
		seg := l.segs[i]
		if len(seg.ents) == 0 || index >= seg.limit() {
			continue
		}
		end := seg.end
		if last := seg.ents[len(seg.ents)-1]; i < len(l.segs)-1 {
			end = alignUp(int64(last.off) + int64(last.len)) // a trimmed segment counts only what is left
		}
		if index > seg.base {
			n += end - alignDown(int64(seg.ents[index-seg.base].off))
			break
		}
		n += end - Block
	}
	return n
}

// locate finds the entry at index; nil if there is none.
func (l *Log) locate(index uint64) (*segment, entryRef, int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if index < l.first || index >= l.next {
		return nil, entryRef{}, 0
	}
	i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].limit() > index })
	if i == len(l.segs) || index < l.segs[i].base {
		return nil, entryRef{}, 0
	}
	seg := l.segs[i]
	return seg, seg.ents[index-seg.base], seg.end
}

// Close waits for the call under way, stops the background work and closes the files.
func (l *Log) Close() error {
	l.wmu.Lock()
	l.mu.Lock()
	if stderrors.Is(l.dead, errClosed) {
		l.mu.Unlock()
		l.wmu.Unlock()
		return nil
	}
	l.dead = errClosed
	l.mu.Unlock()
	if l.idle != nil {
		l.idle.Stop()
		l.idle = nil
	}
	l.wmu.Unlock()
	l.free.stop()
	return l.closeFiles()
}

func (l *Log) closeFiles() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.rmu.Lock()
	defer l.rmu.Unlock()
	var err error
	for _, seg := range l.segs {
		if !seg.retired {
			seg.retired = true
			err = stderrors.Join(err, seg.file.Close())
		}
	}
	l.wbuf.drop()
	l.window.close()
	return stderrors.Join(err, l.fs.Close())
}

// touch arms the timer that gives the write buffer back. Under wmu.
func (l *Log) touch() {
	l.lastUse = time.Now()
	if l.idle == nil {
		l.idle = time.AfterFunc(l.opts.IdleRelease, l.release)
	}
}

// release gives the write buffer back if it was idle long enough, or looks again later.
func (l *Log) release() {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.idle == nil {
		return // closed
	}
	if left := l.opts.IdleRelease - time.Since(l.lastUse); left > 0 {
		l.idle.Reset(left)
		return
	}
	l.idle = nil
	l.wbuf.drop()
}
