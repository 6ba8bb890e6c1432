package seglog

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"dfs/internal/errors"
)

const (
	segPrefix    = "seg-"
	freePrefix   = "free-"
	fillPrefix   = "fill-"
	newestPrefix = "newest-"

	fillPiece      = 1 << 20
	fillRetryAfter = 10 * time.Second
)

func segName(n uint64) string { return fmt.Sprintf("%s%016x", segPrefix, n) }

// parseName splits a file name of the log's directory; ok is false for others.
func parseName(name string) (prefix string, n uint64, ok bool) {
	for _, p := range []string{segPrefix, freePrefix, fillPrefix, newestPrefix} {
		if rest, found := strings.CutPrefix(name, p); found && len(rest) == 16 {
			n, err := strconv.ParseUint(rest, 16, 64)
			return p, n, err == nil
		}
	}
	return "", 0, false
}

// spares keeps files ready to become segments, and fills new ones with zeros in the background.
type spares struct {
	mu      sync.Mutex
	names   []string // filled files, their names durable
	pending []string // renamed, the directory not synced yet
	counter uint64   // greatest number in any name so far
	failed  time.Time

	want chan struct{} // asks the goroutine to fill one
	quit chan struct{}
	done chan struct{}
	buf  buffer // the goroutine's
}

// spareFile is a file about to become a segment.
type spareFile struct {
	name   string
	file   File
	filled bool
}

func (s *spares) init() {
	s.want = make(chan struct{}, 1)
	s.quit = make(chan struct{})
}

// start runs the filling goroutine until stop.
func (s *spares) start(l *Log) {
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		for {
			select {
			case <-s.quit:
				return
			case <-s.want:
				l.fillSpare()
			}
		}
	}()
}

func (s *spares) stop() {
	close(s.quit)
	if s.done != nil {
		<-s.done
	}
}

func (s *spares) ready() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// nextSeq numbers files: every name, of whatever kind, gets a fresh number.
func (s *spares) nextSeq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counter++
	return s.counter
}

// take opens a filled file, or makes a sparse one if there is none.
func (s *spares) take(l *Log) (spareFile, error) {
	s.mu.Lock()
	name := ""
	if n := len(s.names); n > 0 {
		name = s.names[n-1]
		s.names = s.names[:n-1]
	}
	s.mu.Unlock()
	if name != "" {
		f, err := l.fs.Open(name, false)
		if err != nil {
			return spareFile{}, errors.New(errors.KindIO, "open free log segment %s: %w", name, err)
		}
		return spareFile{name: name, file: f, filled: true}, nil
	}
	name = fmt.Sprintf("%s%016x", fillPrefix, s.nextSeq())
	f, err := l.fs.Open(name, true)
	if err != nil {
		return spareFile{}, errors.New(errors.KindOf(err), "make log segment %s: %w", name, err)
	}
	if err = f.Truncate(l.opts.SegmentBytes); err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		return spareFile{}, errors.New(errors.KindOf(err), "make log segment %s of %d bytes: %w", name, l.opts.SegmentBytes, err)
	}
	return spareFile{name: name, file: f}, nil
}

// give renames a void segment to a free one, or removes it where enough are
// there, there is no room for more, or it was never written over its whole length. The directory must be synced, then publish called,
// before the file may be taken: else a crash could leave a new header under the old name.
func (s *spares) give(l *Log, seg *segment) error {
	s.mu.Lock()
	have := len(s.names) + len(s.pending)
	s.mu.Unlock()
	if !seg.filled || int64(seg.segBytes) != l.opts.SegmentBytes || have >= l.opts.FreeMax || !l.roomFor(have+1, have+1) {
		if err := l.fs.Remove(seg.name); err != nil {
			return errors.New(errors.KindIO, "remove log segment %s: %w", seg.name, err)
		}
		return nil
	}
	name := fmt.Sprintf("%s%016x", freePrefix, s.nextSeq())
	if err := l.fs.Rename(seg.name, name); err != nil {
		return errors.New(errors.KindIO, "recycle log segment %s: %w", seg.name, err)
	}
	s.mu.Lock()
	s.pending = append(s.pending, name)
	s.mu.Unlock()
	return nil
}

// roomShare: free files take that share at most of what would be free on the disk without them. The rest is for what the log is kept for.
const roomShare = 4

// roomFor tells whether there is room for n free files on a disk that holds have of them. A disk that does not tell has room.
func (l *Log) roomFor(n, have int) bool {
	free, err := l.fs.FreeBytes()
	return err != nil || int64(n)*l.opts.SegmentBytes <= (free+int64(have)*l.opts.SegmentBytes)/roomShare
}

// shed removes free files for which there is no room any more.
func (l *Log) shed() error {
	s := &l.free
	for {
		s.mu.Lock()
		have := len(s.names)
		if have == 0 || l.roomFor(have, have) {
			s.mu.Unlock()
			return nil
		}
		name := s.names[have-1]
		s.names = s.names[:have-1]
		s.mu.Unlock()
		if err := l.fs.Remove(name); err != nil {
			return errors.New(errors.KindIO, "remove free log segment %s: %w", name, err)
		}
	}
}

// publish makes the files given since the last directory sync takable.
func (s *spares) publish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, s.pending...)
	s.pending = nil
}

// wantSpare asks for a filled file if there is none and the active segment is in use.
func (l *Log) wantSpare() {
	if l.active().end < l.opts.SpareAfter || l.opts.FreeMax == 0 || l.free.ready() > 0 {
		return
	}
	select {
	case l.free.want <- struct{}{}:
	default:
	}
}

// fillSpare fills one spare file if there is none. A failure is logged and
// tried again at a later request: the log goes on with sparse segments.
func (l *Log) fillSpare() {
	l.free.mu.Lock()
	wait := len(l.free.names) > 0 || (!l.free.failed.IsZero() && time.Since(l.free.failed) < fillRetryAfter)
	l.free.mu.Unlock()
	if wait || !l.roomFor(1, 0) {
		return
	}
	name := fmt.Sprintf("%s%016x", fillPrefix, l.free.nextSeq())
	err := l.fillFile(name)
	if err == nil {
		return
	}
	_ = l.fs.Remove(name)
	select {
	case <-l.free.quit:
		return
	default:
	}
	l.free.mu.Lock()
	l.free.failed = time.Now()
	l.free.mu.Unlock()
	l.log.Warn("preparing a log segment failed; appends are slower until it works", "file", name, "err", err)
}

var errStopped = errors.New(errors.KindUnavailable, "the log is being closed")

// fillFile makes a file of zeros, written over its whole length, and puts it on the free list.
func (l *Log) fillFile(name string) error {
	f, err := l.fs.Open(name, true)
	if err != nil {
		return err
	}
	if err := l.fillZeros(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	free := freePrefix + strings.TrimPrefix(name, fillPrefix)
	if err := l.fs.Rename(name, free); err != nil {
		return err
	}
	if err := l.fs.SyncDir(); err != nil {
		return l.fail(errors.New(errors.KindIO, "sync the log directory: %w", err))
	}
	l.free.mu.Lock()
	defer l.free.mu.Unlock()
	l.free.names = append(l.free.names, free)
	return nil
}

func (l *Log) fillZeros(f File) error {
	defer l.free.buf.drop()
	zeros, err := l.free.buf.grow(min(fillPiece, l.opts.SegmentBytes))
	if err != nil {
		return err
	}
	start := time.Now()
	for off := int64(0); off < l.opts.SegmentBytes; off += int64(len(zeros)) {
		zeros = zeros[:min(int64(len(zeros)), l.opts.SegmentBytes-off)]
		if _, err := f.WriteAt(zeros, off); err != nil {
			return err
		}
		due := time.Duration(float64(off) / float64(l.opts.FillBytesPerSecond) * float64(time.Second))
		select {
		case <-l.free.quit:
			return errStopped
		case <-time.After(due - time.Since(start)):
		}
	}
	return f.Sync()
}
