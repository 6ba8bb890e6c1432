package seglog

import "dfs/internal/errors"

// The scan reads ahead where groups are small. Of great groups it needs the heads alone, and reads little with each.
const (
	scanWindow      = 256 << 10
	scanWindowSmall = 4 << 10
)

// scanner walks the groups of one segment.
type scanner struct {
	l   *Log
	seg *segment
	buf buffer

	active    bool  // the newest segment: a torn tail is allowed
	wantEnd   int64 // sealed: where its groups must end, and the chain there
	wantChain uint32

	next     uint64 // index expected; 0: any
	logFirst uint64 // of the last group
	groups   int
	badIndex uint64 // of the entry found bad

	data  []byte // a piece of the file, from off on
	off   int64
	great bool // the last group was greater than what is read ahead
}

func (s *scanner) begin(l *Log, seg *segment, next uint64) {
	s.l, s.seg, s.next = l, seg, next
	s.active, s.wantEnd, s.wantChain, s.groups, s.logFirst = false, 0, 0, 0, 0
	s.data = nil
}

// at returns n bytes at off, within the segment; valid until the next call.
func (s *scanner) at(off, n int64) ([]byte, error) {
	if s.data == nil || off < s.off || off+n > s.off+int64(len(s.data)) {
		from := alignDown(off)
		ahead := int64(scanWindow)
		if s.great && !s.active && !s.l.opts.VerifyAll {
			ahead = scanWindowSmall
		}
		size := min(max(alignUp(off+n)-from, ahead), int64(s.seg.segBytes)-from)
		s.data = nil
		buf, err := s.buf.grow(size)
		if err != nil {
			return nil, errors.New(errors.KindNoMemory, "buffer to read log segments: %w", err)
		}
		if _, err := s.seg.file.ReadAt(buf, from); err != nil {
			return nil, errors.New(errors.KindIO, "read %d bytes at offset %d of log segment %s: %w", size, from, s.seg.name, err)
		}
		s.data, s.off = buf, from
	}
	return s.data[off-s.off : off-s.off+n], nil
}

// run reads all groups into the segment's index.
func (s *scanner) run() error {
	seg := s.seg
	for {
		if !s.active && seg.end >= s.wantEnd {
			if seg.end > s.wantEnd || seg.chain != s.wantChain {
				return corrupt(seg.name, seg.end, s.next, "a sealed segment does not end as its successor says")
			}
			return nil
		}
		if seg.end >= int64(seg.segBytes) {
			if !s.active {
				return corrupt(seg.name, seg.end, s.next, "a sealed segment ends before its successor says")
			}
			return nil
		}
		good, at, err := s.group()
		if err != nil {
			return err
		}
		if !good {
			return s.bad(at)
		}
	}
}

// group reads the group at seg.end. If it is not good, at is the offset of
// what is bad. An error means that no crash explains what was found.
func (s *scanner) group() (good bool, at int64, err error) {
	seg := s.seg
	s.badIndex = s.next
	g, meta, err := s.head(seg.end)
	if err != nil || meta == nil {
		return false, seg.end, err
	}
	if g.chain != seg.chain || (g.first != s.next && s.next != 0) || g.logFirst > g.first+uint64(g.count) {
		return false, 0, corrupt(seg.name, seg.end, g.first, "a good group does not follow from the one before it")
	}
	refs := make([]entryRef, g.count)
	off := seg.end + g.metaBytes()
	for i := range refs {
		row := meta[groupHeadBytes+i*tableEntry:]
		refs[i] = entryRef{off: uint32(off), len: le.Uint32(row), crc: le.Uint32(row[4:])}
		off += int64(refs[i].len)
	}
	if s.active || s.l.opts.VerifyAll {
		for i, ref := range refs {
			data, err := s.at(int64(ref.off), int64(ref.len))
			if err != nil {
				return false, 0, err
			}
			if entryCRC(seg.salt, g.first+uint64(i), data) != ref.crc {
				s.badIndex = g.first + uint64(i)
				return false, int64(ref.off), nil
			}
		}
	}
	if g.count > 0 {
		if len(seg.ents) == 0 {
			seg.base = g.first
		}
		seg.ents = append(seg.ents, refs...)
		s.next = g.first + uint64(g.count)
	}
	s.groups++
	s.logFirst = g.logFirst
	seg.chain = g.crc
	seg.end += g.span()
	s.great = g.span() >= scanWindow/2
	return true, 0, nil
}

// head reads and checks the group head at off; meta is nil if there is none of this use.
func (s *scanner) head(off int64) (groupHead, []byte, error) {
	fixed, err := s.at(off, groupHeadBytes)
	if err != nil {
		return groupHead{}, nil, err
	}
	g, ok := parseGroup(fixed, s.seg.salt, uint64(off), s.seg.segBytes)
	if !ok {
		return g, nil, nil
	}
	meta, err := s.at(off, g.metaBytes())
	if err != nil || !checkGroup(&g, meta) {
		return g, nil, err
	}
	return g, meta, nil
}

// bad decides between a torn tail, which is where the log ends, and damage.
func (s *scanner) bad(at int64) error {
	seg := s.seg
	if !s.active {
		return corrupt(seg.name, at, s.badIndex, "bad entry in a sealed segment")
	}
	for off := seg.end + Block; off < int64(seg.segBytes); off += Block {
		g, meta, err := s.head(off)
		if err != nil {
			return err
		}
		if meta != nil {
			return errors.New(errors.KindCorrupt, "log segment %s, offset %d, index %d: bad entry, with a good one (index %d, offset %d) behind it: this replica's log is damaged, fetch it anew from the others",
				seg.name, at, s.badIndex, g.first, off)
		}
	}
	first, err := s.at(seg.end, groupHeadBytes)
	if err != nil {
		return err
	}
	if le.Uint64(first[8:]) == seg.salt {
		s.l.counts.tornTails.Add(1)
		s.l.log.Warn("the log's last write was torn by a crash and is cut off (it was not acknowledged)", "segment", seg.name, "offset", seg.end, "next", s.next)
	}
	return nil
}
