package raftstore

import (
	"log/slog"
	"net"
	"regexp"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/mux"
	"dfs/wal"
	"dfs/wal/seglog"
)

// LogKind names an implementation of the Raft log.
type LogKind string

// The kinds of log.
const (
	LogSeg  LogKind = "seglog" // segmented, recycled files (the default)
	LogBolt LogKind = "boltdb" // hashicorp's raft-boltdb
)

// entryBytesMax bounds one encoded command: a whole record and the command around it.
const entryBytesMax = wal.RecordBytesMax + 4096

// raftEntriesMax bounds the entries that go to a follower at a time: 16 of 512 KiB.
const raftEntriesMax = 16

// Options says what a node is and what it works with.
type Options struct {
	ID        blockstore.NodeID
	Dir       string // the data directory; it must exist
	Advertise string // host:port at which the others reach Mux
	Mux       *mux.Mux
	Dial      mux.Dialer // nil: TCP
	Device    blockstore.Device
	LogKind   LogKind
	Seg       seglog.Options // of the log, if LogKind is LogSeg
	Peers     PeerFetcher
	Logger    *slog.Logger

	// Fatal is called once, on a goroutine of its own, when this replica must stop (a failed disk, an entry it cannot decode):
	// the process should end. The node applies and acknowledges nothing from then on.
	Fatal func(error)

	// Bootstrap lists the first members, the same list on each, this node among them. It is looked at
	// only while the data directory belongs to no cluster.
	Bootstrap map[blockstore.NodeID]string
	// Join lists addresses of members of the cluster that a node without one belongs to.
	Join []string

	// CapacityBlocks, if not 0, is the admitted capacity instead of the measured one.
	CapacityBlocks uint64

	Limits Limits

	// Power is that of files which stay on the host where Device and Seg.FS do not (tests).
	Power Power
}

// Limits bounds what a node uses; a zero field stands for its default.
type Limits struct {
	InFlightBytes       int64         // proposals that are not applied yet (16 MiB)
	CheckpointBytes     int64         // applied bytes after which a checkpoint is made (256 MiB)
	CheckpointInterval  time.Duration // a checkpoint is made after this time, too, if 1 MiB was applied (5 min)
	TrailingBytes       int64         // log kept behind a checkpoint for followers (128 MiB)
	FollowerLogBytes    int64         // a log of this size is kept while a follower that answers still needs it (8 times TrailingBytes, so 1 GiB, half of HoldLogBytes at most; less if little of the disk is free); negative: none
	HoldLogBytes        int64         // a log of this size is cut even while a replica copies, which then starts over (2 GiB)
	BacklogEntries      uint64        // entries that a follower takes beyond what it has applied of the committed (128)
	HeartbeatTimeout    time.Duration // without word from the leader for this long, a follower believes in none, and soon stands for election (800 ms)
	CommitTimeout       time.Duration // an idle leader tells followers the commit index this often (500 ms)
	RPCTimeout          time.Duration // of Raft messages (10 s)
	ReadWait            time.Duration // the longest a local read waits for its index (300 ms)
	HoldMax             time.Duration // the longest that apply may be held (60 s)
	CatchUpParallel     int           // chunks fetched at a time (4)
	ScrubBytesPerSecond int64         // pace of the background scrub (4 MiB/s)
	ScrubPause          time.Duration // between two rounds of it (24 h); negative: no background scrub
	CapacityInterval    time.Duration // between two looks at the members' disks (30 s)
	DiskDeadline        time.Duration // a write to the Raft log that takes longer ends the node (30 s)
	ProposeWait         time.Duration // the longest a proposal waits to be taken by raft (10 s)
}

func setDefault[T int | int64 | uint64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// withDefaults fills in the defaults.
func (l Limits) withDefaults() Limits {
	setDefault(&l.InFlightBytes, 16<<20)
	setDefault(&l.CheckpointBytes, 256<<20)
	setDefault(&l.CheckpointInterval, 5*time.Minute)
	setDefault(&l.TrailingBytes, 128<<20)
	setDefault(&l.HoldLogBytes, 2<<30)
	setDefault(&l.FollowerLogBytes, min(8*l.TrailingBytes, l.HoldLogBytes/2))
	setDefault(&l.BacklogEntries, 128)
	setDefault(&l.HeartbeatTimeout, 800*time.Millisecond)
	setDefault(&l.CommitTimeout, 500*time.Millisecond)
	setDefault(&l.RPCTimeout, 10*time.Second)
	setDefault(&l.ReadWait, 300*time.Millisecond)
	setDefault(&l.HoldMax, time.Minute)
	setDefault(&l.CatchUpParallel, 4)
	setDefault(&l.ScrubBytesPerSecond, 4<<20)
	setDefault(&l.ScrubPause, 24*time.Hour)
	setDefault(&l.CapacityInterval, 30*time.Second)
	setDefault(&l.DiskDeadline, 30*time.Second)
	setDefault(&l.ProposeWait, 10*time.Second)
	return l
}

var nodeIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate tells what is missing or wrong (KindInvalid).
func (o *Options) Validate() error {
	bad := func(format string, args ...any) error { return errors.New(errors.KindInvalid, format, args...) }
	switch {
	case !nodeIDForm.MatchString(string(o.ID)):
		return bad("node id %q: use up to 63 letters, digits, dots, dashes and underscores", o.ID)
	case o.Dir == "":
		return bad("no data directory given")
	case o.Mux == nil || o.Device == nil || o.Peers == nil || o.Logger == nil || o.Fatal == nil:
		return bad("a raft node needs Mux, Device, Peers, Logger and Fatal")
	case o.LogKind != LogSeg && o.LogKind != LogBolt:
		return bad("unknown kind of log %q: use %q or %q", o.LogKind, LogSeg, LogBolt)
	case o.Limits.InFlightBytes != 0 && o.Limits.InFlightBytes < entryBytesMax:
		return bad("InFlightBytes is %d, but one entry may be %d", o.Limits.InFlightBytes, entryBytesMax)
	}
	if l := o.Limits.withDefaults(); l.FollowerLogBytes > l.HoldLogBytes {
		return bad("FollowerLogBytes is %d, but a log of HoldLogBytes (%d) is cut in any case", l.FollowerLogBytes, l.HoldLogBytes)
	}
	if err := checkAddress(o.Advertise); err != nil {
		return err
	}
	for id, addr := range o.Bootstrap {
		if !nodeIDForm.MatchString(string(id)) {
			return bad("node id %q in the bootstrap list", id)
		}
		if err := checkAddress(addr); err != nil {
			return err
		}
	}
	if len(o.Bootstrap) > 0 && o.Bootstrap[o.ID] != o.Advertise {
		return bad("the bootstrap list must name this node: %s at %s", o.ID, o.Advertise)
	}
	return nil
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || port == "0" || len(addr) > 255 {
		return errors.New(errors.KindInvalid, "address %q: give host:port as the other nodes reach it", addr)
	}
	return nil
}
