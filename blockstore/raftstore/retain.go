package raftstore

import (
	"math"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// contactWithin is how long after its last answer a follower counts as alive: the log is kept for it.
const contactWithin = 10 * time.Second

// followers is what a leader knows of how far the others' logs reach. Raft knows it, too, and tells nobody: here it is learned
// from the answers that pass the transport. What was learned in one term is worth nothing in the next: another leader may
// have had a follower drop entries in between.
type followers struct {
	mu    sync.Mutex
	term  uint64                      // in which the rest was learned
	since time.Time                   // when that term was first seen here
	at    map[raft.ServerID]*position // an id names the incarnation, too
}

// position is that of a follower.
type position struct {
	known    bool
	match    uint64 // known: its log is ours up to here, as far as raft has found out; raft sends what is behind it
	answered time.Time
}

// enter makes term the one that is learned about; false if it is over. Called with mu held.
func (f *followers) enter(term uint64, now time.Time) bool {
	if term > f.term || f.at == nil {
		f.term, f.since, f.at = term, now, make(map[raft.ServerID]*position)
	}
	return term == f.term
}

// position returns the follower's, nil if term is over. Called with mu held.
func (f *followers) position(id raft.ServerID, term uint64, now time.Time) *position {
	if !f.enter(term, now) {
		return nil
	}
	p := f.at[id]
	if p == nil {
		p = new(position)
		f.at[id] = p
	}
	p.answered = now
	return p
}

// answered notes the answer to a request. A heartbeat (no entries, and none before them) tells of contact alone.
func (f *followers) answered(id raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.position(id, args.Term, now)
	count := len(args.Entries)
	switch {
	case p == nil || resp.Term > args.Term || count == 0 && args.PrevLogEntry == 0:
	case !resp.Success: // raft tries again with one entry less, or behind the follower's last
		p.known, p.match = true, max(min(args.PrevLogEntry, resp.LastLog+1), 1)-1
	case count > 0:
		p.known, p.match = true, args.Entries[count-1].Index
	default:
		p.known, p.match = true, args.PrevLogEntry
	}
}

// installed notes that a follower has made a copy, which holds everything up to index.
func (f *followers) installed(id raft.ServerID, term, index uint64, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.position(id, term, now); p != nil {
		p.known, p.match = true, index
	}
}

// alive tells whether a follower has answered lately, or may yet: the term has just begun.
func (f *followers) alive(id raft.ServerID, term uint64, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.enter(term, now) && now.Sub(f.heard(id).answered) <= contactWithin
}

// heard returns what is known of a follower. Called with mu held.
func (f *followers) heard(id raft.ServerID) position {
	if p := f.at[id]; p != nil {
		return *p
	}
	return position{answered: f.since}
}

// needed tells from which entry on the log is needed by those of ids that are alive: none before oldest, which is the first that
// may be kept. Who needs an earlier one has to copy and is not waited for. Of who has not said yet how far its log reaches it is
// taken that it needs all: this is so for a moment when a term begins.
func (f *followers) needed(term uint64, ids []raft.ServerID, oldest uint64, now time.Time) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	from := uint64(math.MaxUint64)
	if !f.enter(term, now) {
		return from
	}
	for _, id := range ids {
		p := f.heard(id)
		switch {
		case now.Sub(p.answered) > contactWithin:
		case !p.known:
			from = min(from, oldest)
		case p.match+1 >= oldest: // raft looks at the entry at match, too
			from = min(from, max(p.match, oldest))
		}
	}
	return from
}

// neededLog is LogOptions.Needed: it looks at memory alone.
func (n *Node) neededLog(oldest uint64) uint64 {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader {
		return math.MaxUint64
	}
	self := n.serverID()
	var ids []raft.ServerID
	for _, s := range n.configuration().Servers {
		if s.ID != self {
			ids = append(ids, s.ID)
		}
	}
	return n.followers.needed(r.CurrentTerm(), ids, oldest, time.Now())
}

// retainLoop looks again every second at how much log may be kept for followers, and lets go what none needs any more.
func (n *Node) retainLoop() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	kept := false
	for {
		n.setKeepBytes()
		if spare, done := n.stores.entries.Trim(); done {
			n.spareBytes.Store(spare)
			if kept != (spare > 0) {
				kept = !kept
				n.tellKept(spare)
			}
		}
		select {
		case <-tick.C:
		case <-n.closing:
			return
		}
	}
}

func (n *Node) tellKept(spare int64) {
	if spare > 0 {
		n.log.Info("more of the log is kept: a follower is behind, and catches up from it", "bytes", spare, "limit", n.keepBytes.Load())
	} else {
		n.log.Info("no more of the log is kept than usual")
	}
}

// setKeepBytes sets by the free space how great a log may be kept for followers. If nobody knows the space, it is left as it was.
func (n *Node) setKeepBytes() {
	var st unix.Statfs_t
	if unix.Statfs(filepath.Join(n.opts.Dir, "raft"), &st) == nil {
		n.keepBytes.Store(keepBound(n.limits.FollowerLogBytes, int64(st.Bavail)*st.Bsize, n.stores.entries.Bytes()))
	}
}

// keepBound: the log may have a quarter of what would be free without it. So however fast the disk fills, it is the log for followers that
// goes first.
func keepBound(limit, free, log int64) int64 {
	return max(0, min(limit, (free+log)/4))
}
