package blockstore

// State is the replicated state machine.
type State struct{}
