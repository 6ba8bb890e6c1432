package raftstore

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
)

// A new entry is with the followers while the leader has not written it; it is committed only once the leader has.
func TestEntriesGoEarly(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	c.limit.HeartbeatTimeout = time.Second // no election while the leader's log stands still
	c.startAll()
	w := c.writer('w')
	w.write(1, 0, 1, 'x', 1)
	l := c.leader()
	early := &l.transport.early
	c.eventually("both followers have acknowledged everything", func() bool {
		last, _ := l.stores.entries.LastIndex()
		early.mu.Lock()
		defer early.mu.Unlock()
		count := 0
		for _, at := range early.at {
			if at.index == last && at.sent == nil {
				count++
			}
		}
		return count == 2
	})

	before, _ := l.stores.entries.LastIndex()
	l.stores.entries.mu.Lock()
	written := sync.OnceFunc(l.stores.entries.mu.Unlock)
	defer written()
	done := make(chan error, 1)
	w.seq++
	l.ProposeAsync(c.ctx(20*time.Second), w.command(w.seq, fullRecord(1, 1, 1, 'y', 1)), func(r blockstore.Result, err error) { done <- errors.Join(err, r.Err) })
	c.eventually("the followers have the entry", func() bool {
		for _, n := range c.running() {
			if last, _ := n.stores.entries.LastIndex(); n != l && last != before+1 {
				return false
			}
		}
		return true
	})
	select {
	case err := <-done:
		t.Errorf("answered (%v) before the leader wrote it", err)
	default:
	}
	if at := l.raft.Load().CommitIndex(); at > before {
		t.Errorf("index %d is committed, the leader has written %d", at, before)
	}
	written()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	c.caughtUp(before + 1)
	for _, n := range c.running() {
		n.check(t, before+1, 1, 1, 1, 'y')
	}
}

// Only what raft would send next goes early, and what raft then sends is answered by it only if it is the same.
func TestEarlyRequests(t *testing.T) {
	entry := func(index, term uint64) *raft.Log {
		return &raft.Log{Index: index, Term: term, Type: raft.LogCommand}
	}
	request := func(term, prev, prevTerm uint64, logs ...*raft.Log) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: logs}
	}
	targets := []raft.Server{{Address: "b"}}
	same := request(3, 10, 3, entry(11, 3))
	for _, tt := range []struct {
		name     string
		acked    *raft.AppendEntriesRequest
		targets  []raft.Server
		refuse   bool
		next     *raft.AppendEntriesRequest
		goes, is bool
	}{
		{"the next one", request(3, 9, 2, entry(10, 3)), targets, false, same, true, true},
		{"refused", request(3, 9, 2, entry(10, 3)), targets, true, same, true, false},
		{"no member", request(3, 9, 2, entry(10, 3)), nil, false, same, false, false},
		{"acknowledged to a leader of another term", request(2, 9, 2, entry(10, 2)), targets, false, request(3, 10, 2, entry(11, 3)), false, false},
		{"behind", request(3, 8, 2, entry(9, 3)), targets, false, request(3, 9, 3, entry(10, 3), entry(11, 3)), false, false},
		{"more by now", request(3, 9, 2, entry(10, 3)), targets, false, request(3, 10, 3, entry(11, 3), entry(12, 3)), true, false},
		{"of a later term", request(3, 9, 2, entry(10, 3)), targets, false, request(4, 10, 3, entry(11, 4)), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var sent []*raft.AppendEntriesRequest
			e := earlyAppends{send: func(_ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (bool, error) {
				sent = append(sent, args)
				resp.Success, resp.LastLog = !tt.refuse, 11
				return true, nil
			}}
			e.acknowledged("b", tt.acked)
			e.begin([]*raft.Log{entry(11, 3)}, 9, tt.targets)
			e.wg.Wait()
			if (len(sent) == 1) != tt.goes {
				t.Fatalf("%d requests went early", len(sent))
			}
			if tt.goes && (!sameEntries(sent[0], same) || sent[0].LeaderCommitIndex != 9) {
				t.Errorf("sent %+v", sent[0])
			}
			var resp raft.AppendEntriesResponse
			if is := e.answer("b", tt.next, &resp); is != tt.is || resp.Success != tt.is {
				t.Errorf("answered by it: %v, %+v; want %v", is, resp, tt.is)
			}
			if e.answer("b", tt.next, &resp) {
				t.Error("answered twice")
			}
		})
	}
}
