package raftstore

import (
	"sync"

	"github.com/hashicorp/raft"
)

// Power is the power supply of the files that stay on the host when log and device are simulated: term and vote, and
// the manifests. (Tests that lose power; nil: the host's.)
type Power interface {
	// Commit makes one change of such a file: whole and durable, or not at all, with an error, where the power is off.
	Commit(change func() error) error
	// Off tells that the power failed: nothing that this node says from now on reaches anybody. Raft, which panics where
	// it cannot note its term or read its log, is then told what keeps it quiet until it is ended.
	Off() bool
}

// powered puts log and snapshots under the given power.
func (s *stores) powered(p Power) {
	if p == nil {
		return
	}
	s.log, s.snapshots = poweredLog{s.log, p}, poweredSnapshots{s.snapshots, p}
}

// poweredBy puts the store of term and vote under it.
func poweredBy(p Power, s raft.StableStore) raft.StableStore {
	if p == nil {
		return s
	}
	return poweredStable{s, p}
}

// commitFile makes a change of one of this node's small files.
func (n *Node) commitFile(change func() error) error {
	if n.opts.Power == nil {
		return change()
	}
	return n.opts.Power.Commit(change)
}

type poweredLog struct {
	raft.LogStore
	p Power
}

func (s poweredLog) IsMonotonic() bool {
	m, ok := s.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (s poweredLog) GetLog(index uint64, out *raft.Log) error {
	err := s.LogStore.GetLog(index, out)
	if err != nil && !isLogNotFound(err) && s.p.Off() {
		*out = raft.Log{Index: index, Type: raft.LogNoop}
		return nil
	}
	return err
}

type poweredStable struct {
	raft.StableStore
	p Power
}

func (s poweredStable) commit(change func() error) error {
	err := s.p.Commit(change)
	if err != nil && s.p.Off() {
		return nil
	}
	return err
}

func (s poweredStable) Set(k, v []byte) error {
	return s.commit(func() error { return s.StableStore.Set(k, v) })
}

func (s poweredStable) SetUint64(k []byte, v uint64) error {
	return s.commit(func() error { return s.StableStore.SetUint64(k, v) })
}

type poweredSnapshots struct {
	raft.SnapshotStore
	p Power
}

func (s poweredSnapshots) Create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, conf, confIndex, trans)
	if err != nil {
		return nil, err
	}
	return &poweredSink{SnapshotSink: sink, p: s.p}, nil
}

type poweredSink struct {
	raft.SnapshotSink
	p    Power
	once sync.Once
	err  error
}

func (s *poweredSink) Write(b []byte) (n int, err error) {
	err = s.p.Commit(func() error {
		n, err = s.SnapshotSink.Write(b)
		return err
	})
	return n, err
}

func (s *poweredSink) Close() error {
	s.once.Do(func() {
		if s.err = s.p.Commit(s.SnapshotSink.Close); s.err != nil {
			_ = s.Cancel() // nothing, if it was made
		}
	})
	return s.err
}
