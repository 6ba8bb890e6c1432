package seglog

import (
	"fmt"

	"dfs/internal/errors"
)

// The name of the empty file newest-<n> says that segment n was begun. It is renamed with each new segment, in the same
// directory sync and after that segment got its name, so it never names more than there is, and entries are acknowledged
// in no segment beyond it. A missing newest segment, which nothing in the other files names, is told by it.

func newestName(n uint64) string { return fmt.Sprintf("%s%016x", newestPrefix, n) }

// checkNewest compares the note with the segments found. Without a note it makes one, if no segment says that there was one:
// a new log's, or that of a log from before there were notes.
func (l *Log) checkNewest(found []*segment) error {
	last := uint64(0)
	if len(found) > 0 {
		last = found[len(found)-1].seq
	}
	if !l.noted {
		for _, seg := range found {
			if seg.noted {
				return errors.New(errors.KindCorrupt, "the file %s* that names the newest log segment is missing, so newer entries than those of %s may be missing, too: this replica's log is damaged, fetch it anew from the others",
					newestPrefix, segName(last))
			}
		}
		f, err := l.fs.Open(newestName(0), true)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			return errors.New(errors.KindIO, "make %s in the log directory: %w", newestName(0), err)
		}
		l.noted, l.newest = true, 0
	}
	if l.newest > last {
		return errors.New(errors.KindCorrupt, "log segment %s, the newest, is missing, and the entries in it may have been acknowledged: this replica's log is damaged, fetch it anew from the others", segName(l.newest))
	}
	if last == 0 {
		return nil
	}
	if err := l.noteNewest(last); err != nil {
		return err
	}
	if err := l.fs.SyncDir(); err != nil {
		return errors.New(errors.KindIO, "sync the log directory: %w", err)
	}
	return nil
}

// noteNewest makes the note name segment n, durable with the next sync of the directory.
func (l *Log) noteNewest(n uint64) error {
	if n == l.newest {
		return nil
	}
	if err := l.fs.Rename(newestName(l.newest), newestName(n)); err != nil {
		return errors.New(errors.KindIO, "note the newest log segment %s: %w", segName(n), err)
	}
	l.newest = n
	return nil
}
