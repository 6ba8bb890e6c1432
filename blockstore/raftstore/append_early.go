package raftstore

import (
	"runtime"
	"sync"

	"github.com/hashicorp/raft"
)

// earlyAppends sends new entries to the followers while this node, their leader, still writes them to its own log: the two writes then take
// the time of the longer one, not of both (Ongaro, Consensus: Bridging Theory and Practice, 10.2.1). Raft's library writes first; what it sends
// then is taken for what went early, and gets its answer.
//
// A request goes early only if raft would send the very same one next: to a member that has acknowledged in this term
// all that comes before. No more is committed than ever: raft hears of a follower's answer only after its own write.
// What a leader sent and lost in a crash before it wrote it, it makes no second entry of under the same index and term: it has noted its vote
// in that term, and leads again only in a later one.
type earlyAppends struct {
	send func(target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (done bool, err error)
	wg   sync.WaitGroup

	mu sync.Mutex
	at map[raft.ServerAddress]*earlyTarget
}

// earlyTarget is what this node, as the leader, has heard from a member.
type earlyTarget struct {
	acked raft.AppendEntriesRequest // the last request with entries that succeeded, without them
	index uint64                    // of its last entry
	term  uint64                    // of that
	sent  *earlyAppend              // not taken yet
}

// earlyAppend is a request that went early.
type earlyAppend struct {
	args     *raft.AppendEntriesRequest
	answered chan struct{} // closed when resp and ok are set
	resp     raft.AppendEntriesResponse
	ok       bool
}

// begin sends logs, which raft is about to write, to those of targets that have all before them.
func (e *earlyAppends) begin(logs []*raft.Log, commit uint64, targets []raft.Server) {
	first := logs[0]
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range targets {
		t := e.at[s.Address]
		if t == nil || t.sent != nil || t.acked.Term != first.Term || t.index+1 != first.Index {
			continue
		}
		args := t.acked
		args.PrevLogEntry, args.PrevLogTerm, args.LeaderCommitIndex, args.Entries = t.index, t.term, commit, logs
		a := &earlyAppend{args: &args, answered: make(chan struct{})}
		t.sent = a
		e.wg.Go(func() {
			done, err := e.send(s.Address, a.args, &a.resp)
			a.ok = done && err == nil && a.resp.Success
			close(a.answered)
		})
	}
}

// answer waits for the answer to what went early to target, if that is not over, and gives it if args is the same request and it succeeded: else args
// is to be sent.
func (e *earlyAppends) answer(target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) bool {
	e.mu.Lock()
	var a *earlyAppend
	if t := e.at[target]; t != nil {
		a, t.sent = t.sent, nil
	}
	e.mu.Unlock()
	if a == nil {
		return false
	}
	<-a.answered // for as long as args could take
	if !a.ok || !sameEntries(a.args, args) {
		return false
	}
	*resp = a.resp
	return true
}

// sameEntries tells whether two requests of one leader bring the same entries behind the same one.
func sameEntries(a, b *raft.AppendEntriesRequest) bool {
	return a.Term == b.Term && a.PrevLogEntry == b.PrevLogEntry && a.PrevLogTerm == b.PrevLogTerm && len(a.Entries) == len(b.Entries) &&
		a.Entries[0].Index == b.Entries[0].Index && a.Entries[len(a.Entries)-1].Term == b.Entries[len(b.Entries)-1].Term
}

// acknowledged notes that target has the entries of args, and so all before them.
func (e *earlyAppends) acknowledged(target raft.ServerAddress, args *raft.AppendEntriesRequest) {
	last := args.Entries[len(args.Entries)-1]
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at == nil {
		e.at = make(map[raft.ServerAddress]*earlyTarget)
	}
	t := e.at[target]
	if t == nil {
		t = new(earlyTarget)
		e.at[target] = t
	}
	t.acked, t.index, t.term = *args, last.Index, last.Term
	t.acked.Entries = nil
}

// forget drops what is known of target: a request failed.
func (e *earlyAppends) forget(target raft.ServerAddress) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.at, target)
}

// sendEarly lets the followers have logs while this node writes them, if it leads.
func (n *Node) sendEarly(logs []*raft.Log) {
	r := n.raft.Load()
	if r == nil || r.State() != raft.Leader { // raft's one main goroutine, which is here, alone makes it another
		return
	}
	for _, l := range logs {
		if l.Type != raft.LogCommand {
			return
		}
	}
	members := r.GetConfiguration()
	if members.Error() != nil {
		return
	}
	n.transport.early.begin(logs, r.CommitIndex(), members.Configuration().Servers)
	runtime.Gosched() // to the sockets before the disk: a write to disk keeps its processor
}
