package blockstore

import "context"

// NodeID names a node of the cluster ("a", "n1" …), as given at its first start.
type NodeID string

// Leadership is what a node knows of the group's leader.
type Leadership struct {
	Leader  NodeID // "" if unknown
	Address string // its host:port, "" if unknown
	Self    bool   // this node is the leader
	Term    uint64 // this node's current term
}

// Proposer puts commands into the replicated log. raftstore.Node implements it.
type Proposer interface {
	// Propose appends cmd, waits until it is applied here, and returns the state machine's
	// answer. KindNotLeader if this node is not the leader; KindUnavailable if the
	// outcome is unknown. A refusal by the state machine is Result.Err, not err.
	Propose(ctx context.Context, cmd Command) (Result, error)
	// ProposeAsync appends cmd without waiting for its outcome; commands proposed one after another by one
	// goroutine stand in the log in that order. It blocks while too many bytes are in flight (until ctx ends).
	// done is called once, from any goroutine, with what Propose would have returned.
	ProposeAsync(ctx context.Context, cmd Command, done func(Result, error))
	// ProveLeadership returns nil if this node was still the leader at some moment after the call
	// began, proven by a committed entry of its own term or a fresh majority
	// (never by raft's VerifyLeader alone). Calls that overlap share proofs begun after they arrived.
	ProveLeadership(ctx context.Context) error
	// Leadership tells what is known now.
	Leadership() Leadership
	// WatchLeadership delivers the current value at once and then each change
	// (the newest replaces an undelivered one), until ctx ends.
	WatchLeadership(ctx context.Context) <-chan Leadership
	// View runs f on the state machine's state as applied, under its lock; f must not keep references or block.
	View(f func(s *State, applied uint64))
	// WaitApplied waits until this node has applied index.
	WaitApplied(ctx context.Context, index uint64) error
}

// Replica is Proposer plus local reads and what the admin service needs.
type Replica interface {
	Proposer
	// ReadLocal reads from this node's own device at an applied index of at least minIndex
	// (KindNotReached if it is not there yet and this node is not waiting long enough: see ctx). Blocks
	// with a bad checksum are repaired from another replica first.
	ReadLocal(ctx context.Context, spans []ReadSpan, minIndex uint64) ([]ReadResult, uint64, error)
	PresenceLocal(ctx context.Context, span ReadSpan, minIndex uint64) ([]byte, uint64, error)
	// SkipAbsentLocal is Reader's SkipAbsent on this node.
	SkipAbsentLocal(ctx context.Context, vdisk, block, minIndex uint64) (next, index uint64, err error)
}
