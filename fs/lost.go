package fs

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// What a session that ended has lost is told by the name under which this server met the file last. Names are not kept for anything
// else, and another server may have renamed the file since: the inode's number is told, too.

// lostLogMax bounds the lines about lost files of one session's end.
const lostLogMax = 1000

// pathDepthMax bounds the names of a path that is told.
const pathDepthMax = 64

// entryAt is a name in a directory.
type entryAt struct {
	dir  uint64
	name string
}

// met notes the name under which n was met: of a file with several, the one used last.
func (n *node) met(at entryAt) {
	if old := n.at.Load(); old == nil || *old != at {
		n.at.Store(&at)
	}
}

// lostInodes are those with changes that were not durable.
func (ss *session) lostInodes() map[uint64]bool {
	durable := uint64(ss.be.Log.Durable())
	t := &ss.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := map[uint64]bool{}
	for ino, n := range t.nodes {
		if n.lastGen.Load() > durable {
			lost[ino] = true
		}
	}
	return lost
}

// tellLost logs what was lost, by name.
func (ss *session) tellLost(lost map[uint64]bool) {
	lines := make([]string, 0, len(lost))
	for ino := range lost {
		lines = append(lines, ss.path(ino))
	}
	slices.Sort(lines)
	for i, file := range lines {
		if i == lostLogMax {
			ss.s.log.Warn("unsaved changes of more files are lost", "more", len(lines)-i)
			return
		}
		ss.s.log.Warn("unsaved changes of a file are lost", slog.String("file", file))
	}
}

// path is where ino was met, from the file system's root, with its number; as far as this session knows.
func (ss *session) path(ino uint64) string {
	t := &ss.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	root := false
	for at := ino; len(names) < pathDepthMax; {
		if root = at == uint64(RootIno); root {
			break
		}
		n := t.nodes[at]
		if n == nil || n.at.Load() == nil {
			break
		}
		e := n.at.Load()
		names = append(names, e.name)
		at = e.dir
	}
	slices.Reverse(names)
	path := strings.Join(names, "/")
	if root {
		path = "/" + path
	} else if len(names) > 0 {
		path = "…/" + path
	}
	return strings.TrimSpace(fmt.Sprintf("%s (inode %d)", path, ino))
}
