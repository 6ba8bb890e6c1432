package raftstore

import (
	"encoding/binary"
	"os"
	"time"

	"github.com/hashicorp/raft"

	"dfs/internal/errors"
	"dfs/wal/seglog"
)

// An entry in the seglog (the index is the seglog's own):
//
//	0  version u8 = 1        8  term u64
//	1  raft.LogType u8      16  AppendedAt, seconds since 1970 i64
//	2  flags u8             24  and nanoseconds u32
//	3  zero u8              28  extensions, then the data up to the end
//	4  extension bytes u32
//
// Little endian. Flag 1: AppendedAt is the zero time.
const (
	logEntryVersion   = 1
	logEntryHead      = 28
	logEntryZeroTime  = 1
	logEntryFlagsKnow = logEntryZeroTime
)

// appendLogHead appends the entry's bytes before its data to dst.
func appendLogHead(dst []byte, l *raft.Log) []byte {
	flags, sec, nsec := uint8(0), int64(0), uint32(0)
	if l.AppendedAt.IsZero() {
		flags = logEntryZeroTime
	} else {
		sec, nsec = l.AppendedAt.Unix(), uint32(l.AppendedAt.Nanosecond())
	}
	dst = append(dst, logEntryVersion, uint8(l.Type), flags, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(l.Extensions)))
	dst = binary.LittleEndian.AppendUint64(dst, l.Term)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(sec))
	dst = binary.LittleEndian.AppendUint32(dst, nsec)
	return append(dst, l.Extensions...)
}

// decodeLog reads the entry at index; out's slices point into b.
func decodeLog(index uint64, b []byte, out *raft.Log) error {
	if len(b) > 0 && b[0] != logEntryVersion {
		return errors.New(errors.KindTooNew, "log entry %d has version %d, this binary knows %d: use a newer binary", index, b[0], logEntryVersion)
	}
	if len(b) < logEntryHead || b[2]&^logEntryFlagsKnow != 0 || b[3] != 0 {
		return errors.New(errors.KindCorrupt, "log entry %d of %d bytes makes no sense", index, len(b))
	}
	ext := uint64(binary.LittleEndian.Uint32(b[4:]))
	nsec := binary.LittleEndian.Uint32(b[24:])
	if ext > uint64(len(b)-logEntryHead) || nsec >= 1e9 {
		return errors.New(errors.KindCorrupt, "log entry %d of %d bytes makes no sense (%d bytes of extensions)", index, len(b), ext)
	}
	*out = raft.Log{Index: index, Type: raft.LogType(b[1]), Term: binary.LittleEndian.Uint64(b[8:])}
	if b[2]&logEntryZeroTime == 0 {
		out.AppendedAt = time.Unix(int64(binary.LittleEndian.Uint64(b[16:])), int64(nsec))
	}
	if ext > 0 {
		out.Extensions = b[logEntryHead : logEntryHead+ext : logEntryHead+ext]
	}
	if data := b[logEntryHead+ext:]; len(data) > 0 {
		out.Data = data
	}
	return nil
}

// segBack keeps the entries in a seglog.
type segBack struct {
	log     *seglog.Log
	entries []seglog.Entry // reused by append
	heads   []byte
}

var _ logBack = (*segBack)(nil)

func openSegBack(dir string, o seglog.Options) (*segBack, error) {
	l, err := seglog.Open(dir, o)
	if err != nil {
		return nil, err
	}
	return &segBack{log: l}, nil
}

func (b *segBack) first() uint64 { return b.log.First() }
func (b *segBack) last() uint64  { return b.log.Last() }

func (b *segBack) get(index uint64, out *raft.Log) error {
	data, err := b.log.Get(index)
	if errors.Is(err, errors.KindNotExist) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	return decodeLog(index, data, out)
}

// run reads the entries from index on, below limit, that lie together, of bytes at most but always one.
func (b *segBack) run(index, limit uint64, bytes int64) ([]raft.Log, error) {
	run, err := b.log.Run(index, limit, bytes)
	if errors.Is(err, errors.KindNotExist) {
		return nil, raft.ErrLogNotFound
	}
	if err != nil {
		return nil, err
	}
	out := make([]raft.Log, len(run))
	for i, data := range run {
		if err := decodeLog(index+uint64(i), data, &out[i]); err != nil {
			if i > 0 {
				return out[:i], nil // whoever comes to it is told
			}
			return nil, err
		}
	}
	return out, nil
}

func (b *segBack) append(logs []*raft.Log) error {
	need := 0
	for _, l := range logs {
		need += logEntryHead + len(l.Extensions)
	}
	if cap(b.heads) < need {
		b.heads = make([]byte, 0, need)
	}
	heads := b.heads[:0] // never grows below, so the slices taken stay valid
	b.entries = b.entries[:0]
	for _, l := range logs {
		from := len(heads)
		heads = appendLogHead(heads, l)
		b.entries = append(b.entries, seglog.Entry{Index: l.Index, Head: heads[from:], Data: l.Data})
	}
	err := b.log.Append(b.entries)
	clear(b.entries) // let the data go
	return err
}

func (b *segBack) deleteFront(before uint64) error { return b.log.TruncateFront(before) }
func (b *segBack) deleteBack(from uint64) error    { return b.log.TruncateBack(from) }
func (b *segBack) bytesSince(index uint64) int64   { return b.log.BytesSince(index) }
func (b *segBack) diskBytes() int64                { return b.log.Stats().DiskBytes }
func (b *segBack) close() error                    { return b.log.Close() }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
