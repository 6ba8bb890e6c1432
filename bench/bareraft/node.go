package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	raftwal "github.com/hashicorp/raft-wal"

	"dfs/blockstore/raftstore"
)

const (
	snapshotBytes   = 192 << 20 // applied bytes after which the log is cut
	trailingEntries = 256       // left by the cut
	applyTimeout    = 30 * time.Second
)

// nullFSM counts bytes and forgets them.
type nullFSM struct{ bytes atomic.Int64 }

func (f *nullFSM) Apply(l *raft.Log) any                  { f.bytes.Add(int64(len(l.Data))); return nil }
func (f *nullFSM) Snapshot() (raft.FSMSnapshot, error)    { return nullSnapshot{}, nil }
func (f *nullFSM) Restore(r io.ReadCloser) error          { return r.Close() }
func (nullSnapshot) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (nullSnapshot) Release()                             {}

type nullSnapshot struct{}

// node is one bare raft node.
type node struct {
	raft *raft.Raft
	fsm  nullFSM
	mode func() string
	log  hclog.Logger
	quit chan struct{}
	done chan struct{}
}

// childMain serves requests from standard input until it ends.
func childMain(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("child mode is for bareraft itself")
	}
	id, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	n, err := startNode(args[0], args[1], id, strings.Split(args[3], ","))
	if err != nil {
		return err
	}
	go n.cutLog()
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var q request
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return err
		}
		if err := out.Encode(n.answer(q)); err != nil {
			return err
		}
	}
	close(n.quit)
	<-n.done
	return n.raft.Shutdown().Error()
}

func (n *node) answer(q request) reply {
	var r reply
	if q.Quiet {
		n.log.SetLevel(hclog.Off)
	}
	if q.Load != "" {
		var err error
		if r.Round, err = n.load(q); err != nil {
			r.Err = err.Error()
		}
	}
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		r.Err = err.Error()
	}
	r.CPUSeconds = time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
	r.MaxRSSMiB = float64(ru.Maxrss) / 1024
	r.Leader = n.raft.State() == raft.Leader
	r.Mode = n.mode()
	return r
}

// openLog opens the log store of a kind.
func (n *node) openLog(kind, dir string, logger *slog.Logger) (raft.LogStore, error) {
	n.mode = func() string { return "" }
	switch kind {
	case "inmem":
		return raft.NewInmemStore(), nil
	case "raft-wal":
		sub := filepath.Join(dir, "raft-wal")
		if err := os.Mkdir(sub, 0o700); err != nil {
			return nil, err
		}
		return raftwal.Open(sub)
	}
	s, err := raftstore.OpenLog(raftstore.LogKind(kind), dir, raftstore.LogOptions{Logger: logger})
	if err != nil {
		return nil, err
	}
	n.mode = func() string {
		if st, ok := s.SegStats(); ok {
			return fmt.Sprintf("(%s; %d groups, %.1f MB written for %.1f MB, %d reads, %d segments, %d free)", st.Mode, st.Groups,
				float64(st.WrittenBytes)/1e6, float64(st.EntryBytes)/1e6, st.FileReads, st.Segments, st.FreeSegments)
		}
		return ""
	}
	return raftstore.NewGuardedLogStore(s, raftstore.GuardOptions{Fatal: fatal}), nil
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "bareraft: node ends:", err)
	os.Exit(3)
}

func startNode(kind, dir string, id int, addrs []string) (*node, error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	n := &node{quit: make(chan struct{}), done: make(chan struct{})}
	logs, err := n.openLog(kind, dir, logger)
	if err != nil {
		return nil, err
	}
	stable, err := raftboltdb.NewBoltStore(filepath.Join(dir, "stable.db"))
	if err != nil {
		return nil, err
	}
	n.log = hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	trans, err := raft.NewTCPTransportWithConfig(addrs[id], nil, &raft.NetworkTransportConfig{
		MaxPool: 3, Timeout: 10 * time.Second, MaxRPCsInFlight: 1, Logger: n.log})
	if err != nil {
		return nil, err
	}
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(fmt.Sprint(id))
	cfg.Logger = n.log
	cfg.MaxAppendEntries = 16
	cfg.BatchApplyCh = true
	cfg.CommitTimeout = 500 * time.Millisecond
	cfg.SnapshotThreshold, cfg.SnapshotInterval, cfg.TrailingLogs = 1<<60, 24*time.Hour, trailingEntries
	snaps := raft.NewDiscardSnapshotStore()
	var servers []raft.Server
	for i, a := range addrs {
		servers = append(servers, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: raft.ServerAddress(a)})
	}
	if err := raft.BootstrapCluster(cfg, logs, stable, snaps, trans, raft.Configuration{Servers: servers}); err != nil {
		return nil, err
	}
	n.raft, err = raft.NewRaft(cfg, &n.fsm, logs, stable, snaps, trans)
	return n, err
}

// cutLog keeps the log short by snapshots of nothing.
func (n *node) cutLog() {
	defer close(n.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var cut int64
	for {
		select {
		case <-n.quit:
			return
		case <-tick.C:
		}
		if at := n.fsm.bytes.Load(); at-cut > snapshotBytes {
			cut = at
			if err := n.raft.Snapshot().Error(); err != nil && err != raft.ErrNothingNewToSnapshot {
				fatal(fmt.Errorf("snapshot: %w", err))
			}
		}
	}
}

// load runs one round of a load on this node, the leader.
func (n *node) load(q request) (round, error) {
	size, workers := 4<<10, 16
	switch q.Load {
	case "one":
		workers = 1
	case "sixteen":
	case "bulk":
		size = 512 << 10
	default:
		return round{}, fmt.Errorf("no load is called %q", q.Load)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration
		first error
		bytes atomic.Int64
	)
	start := time.Now()
	end := start.Add(time.Duration(q.Seconds * float64(time.Second)))
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var mine []time.Duration
			var err error
			for err == nil && time.Now().Before(end) && (q.BytesMax == 0 || bytes.Add(int64(size)) <= q.BytesMax) {
				data := make([]byte, size)
				for i := 0; i < size; i += 512 {
					data[i] = byte(w + i>>9)
				}
				t := time.Now()
				err = n.raft.Apply(data, applyTimeout).Error()
				mine = append(mine, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if first == nil {
				first = err
			}
		}()
	}
	wg.Wait()
	return summary(q.Load, took, size, time.Since(start)), first
}

func summary(name string, took []time.Duration, size int, all time.Duration) round {
	if len(took) == 0 {
		return round{Load: name}
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	n := len(took)
	return round{Load: name, Entries: n, Seconds: all.Seconds(), MedianMs: ms(took[n/2]), P99Ms: ms(took[min(n-1, n*99/100)]),
		PerSecond: float64(n) / all.Seconds(), MBPerS: float64(n) * float64(size) / 1e6 / all.Seconds()}
}
