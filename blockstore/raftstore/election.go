package raftstore

import (
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// elections brings a dead leader's successor about sooner than raft's library does by itself. There, a follower looks whether it has heard of its
// leader only when a timer of one to two heartbeat timeouts fires, so it may take three of them to stand for election, believes in its leader
// until then, and so refuses others; and a candidate whose log lacks an entry of another's holds that one up, too. Here,
//
//  1. a follower stands five to seven quarters of a heartbeat timeout after its last contact (loop),
//  2. it believes in its leader for one (lonely): a leader whose heartbeats arrive sends one at least every quarter, so who stands finds votes,
//  3. a follower that refuses a candidate though it has no leader either stands five quarters after its last contact, or soon: as a rule its log has
//     what the candidate's lacks (refused).
//
// None of it touches what makes elections safe: terms, votes and the comparison of logs are the library's. A follower that hears from
// its leader refuses candidates; one that hears from it again while a question waits for raft may have promised a vote, which costs an election
// at most.
type elections struct {
	heartbeat time.Duration     // Limits.HeartbeatTimeout
	raft      func() *raft.Raft // nil before it runs

	mu sync.Mutex // of the settings that raft reloads
}

// reload changes raft's settings. Who reads and writes them holds no other lock.
func (e *elections) reload(r *raft.Raft, change func(*raft.ReloadableConfig)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	conf := r.ReloadableConfig()
	change(&conf)
	return r.ReloadConfig(conf)
}

// patience is after how long without its leader's word a follower may stand: what the library calls the heartbeat timeout. Leaders send ten times in it,
// at random, so that two followers have last heard from a leader within a fifth of it.
func (e *elections) patience() time.Duration { return e.heartbeat * 5 / 4 }

// electionSlack is by how much the library's heartbeat timeout is put off and back to have it look at once (stand). Its rules want the election
// timeout to be no shorter.
const electionSlack = time.Millisecond

// stand has a follower look now whether its leader is still there, as it does whenever its heartbeat timeout is made shorter. A candidate or a leader
// goes on as it was.
func (e *elections) stand(r *raft.Raft) {
	for _, timeout := range []time.Duration{e.patience() + electionSlack, e.patience()} {
		_ = e.reload(r, func(c *raft.ReloadableConfig) { c.HeartbeatTimeout = timeout }) // the settings are valid: the library's own, and raftConfig's
	}
}

// loop is rule 1. It ends with closing.
func (e *elections) loop(r *raft.Raft, closing <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	draw := func() time.Duration { return e.patience() + rand.N(e.heartbeat/2) }
	heard, patience := time.Now(), draw() // heard: or began, or last led or stood
	for {
		if contact := r.LastContact(); contact.After(heard) {
			heard, patience = contact, draw()
		}
		if r.State() != raft.Follower {
			heard = time.Now()
		} else if time.Since(heard) >= patience {
			e.stand(r)
			heard = time.Now()
		}
		timer.Reset(time.Until(heard.Add(patience)))
		select {
		case <-timer.C:
		case <-closing:
			return
		}
	}
}

// lonely is rule 2: it names the leader that raft believes in and that this follower has not heard of for too long.
func (e *elections) lonely() (leader raft.ServerAddress, is bool) {
	r := e.raft()
	if r == nil || r.State() != raft.Follower || time.Since(r.LastContact()) < e.heartbeat {
		return "", false
	}
	leader, _ = r.LeaderWithID()
	return leader, true
}

// ballot is what a lonely follower's raft is given in place of a candidate's question, such that it does not refuse for its leader's sake: a
// question for a vote says that the leader wishes it, one before a vote comes from the leader. No other decision looks at these fields; the library's
// messages about the latter name the leader.
func (e *elections) ballot(command any) any {
	leader, is := e.lonely()
	if !is {
		return command
	}
	switch req := command.(type) {
	case *raft.RequestVoteRequest:
		asked := *req
		asked.LeadershipTransfer = true
		return &asked
	case *raft.RequestPreVoteRequest:
		if leader == "" {
			return command
		}
		asked := *req
		asked.Addr = []byte(leader)
		return &asked
	}
	return command
}

// refused is rule 3: answer is what this node's raft gave a candidate that asked whether it would have its vote.
func (e *elections) refused(answer any, closed <-chan struct{}) {
	resp, ok := answer.(*raft.RequestPreVoteResponse)
	if !ok || resp.Granted {
		return
	}
	if _, is := e.lonely(); !is {
		return
	}
	r := e.raft()
	// Sooner raft would not stand; and of several that refuse the same candidate one shall be first.
	wait := max(0, time.Until(r.LastContact().Add(e.patience()))) + rand.N(e.heartbeat/8)
	select {
	case <-time.After(wait):
		e.stand(r)
	case <-closed:
	}
}
