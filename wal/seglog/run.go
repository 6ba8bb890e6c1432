package seglog

import (
	"dfs/internal/errors"
	"dfs/internal/pagemem"
)

// Run returns the bytes of the entries from index on that lie in one segment, below limit and within bytesMax bytes of it, but always
// of one: all read in one go, for a caller that goes through the log in order. The slices are fresh and share their memory. An entry
// whose checksum does not fit ends the run before it. Errors as Get's, for the first entry. Other readers do not wait for it.
func (l *Log) Run(index, limit uint64, bytesMax int64) ([][]byte, error) {
	if err := l.state(); err != nil {
		return nil, err
	}
	seg, refs := l.locateRun(index, limit, bytesMax)
	if seg == nil {
		return nil, notFound(index)
	}
	from, end := spanOf(refs)
	buf := pagemem.Make(int(alignUp(end) - from))
	l.counts.fileReads.Add(1)
	_, err := seg.file.ReadAt(buf, from)
	if l.retiredNow(seg) { // perhaps under the read: what came may be of the file's next use
		return nil, notFound(index)
	}
	if err != nil {
		return nil, errors.New(errors.KindIO, "read entries %d to %d at offset %d of log segment %s: %w", index, index+uint64(len(refs))-1, from, seg.name, err)
	}
	out := make([][]byte, 0, len(refs))
	for i, ref := range refs {
		at := int64(ref.off) - from
		b := buf[at : at+int64(ref.len) : at+int64(ref.len)]
		if entryCRC(seg.salt, index+uint64(i), b) != ref.crc {
			if i > 0 {
				break
			}
			return nil, corrupt(seg.name, int64(ref.off), index, "entry checksum does not fit")
		}
		out = append(out, b)
	}
	return out, nil
}

// locateRun finds the segment of the entry at index and where it and those behind it are; nil if it is not in the log.
func (l *Log) locateRun(index, limit uint64, bytesMax int64) (*segment, []entryRef) {
	seg, ref, _ := l.locate(index)
	if seg == nil {
		return nil, nil
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	refs := []entryRef{ref}
	for i := index + 1; i < limit && i < seg.limit() && i < l.next; i++ {
		next := seg.ents[i-seg.base]
		if int64(next.off)+int64(next.len)-alignDown(int64(ref.off)) > bytesMax {
			break
		}
		refs = append(refs, next)
	}
	return seg, refs
}

// spanOf tells where the blocks of refs begin, and where the last entry ends.
func spanOf(refs []entryRef) (from, end int64) {
	last := refs[len(refs)-1]
	return alignDown(int64(refs[0].off)), int64(last.off) + int64(last.len)
}

func (l *Log) retiredNow(seg *segment) bool {
	l.rmu.Lock()
	defer l.rmu.Unlock()
	return seg.retired
}
