package enumerate

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"dfs/blockstore"
	"dfs/blockstore/device"
	"dfs/blockstore/raftstore"
	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/mux"
	"dfs/internal/simdisk"
	"dfs/lockserver"
	"dfs/wal"
	"dfs/wal/seglog"
)

// machine is a node that is a cluster by itself, on a disk, and a file server that stands on it without a network between.
type machine struct {
	*client
	disk   *simdisk.Disk
	dir    string
	device *device.Device
	mux    *mux.Mux
	node   *raftstore.Node
	fatal  chan error
	server *fs.Server
	store  *store
	log    *wal.Writer
}

// listener is one that nobody calls.
type listener struct {
	done chan struct{}
	once sync.Once
}

type noAddr struct{}

func (noAddr) Network() string { return "none" }
func (noAddr) String() string  { return "a:1" }

func (l *listener) Accept() (net.Conn, error) {
	<-l.done
	return nil, net.ErrClosed
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *listener) Addr() net.Addr { return noAddr{} }

// alone is the peers of a node that has none.
type alone struct{ raftstore.PeerFetcher }

func scratch() (string, error) {
	parent := "/dev/shm" // bbolt's syncs cost nothing there
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	return os.MkdirTemp(parent, "dfs-enumerate-")
}

// start starts the node from what is on the disk and waits until it leads.
func start(d *simdisk.Disk) (*machine, error) {
	dir, err := scratch()
	if err != nil {
		return nil, err
	}
	if err := d.Unpack(dir); err != nil {
		return nil, err
	}
	m := &machine{disk: d, dir: dir, fatal: make(chan error, 4)}
	if err := m.startNode(); err != nil {
		m.stop()
		return nil, err
	}
	for range 2000 {
		if m.node.Leadership().Self {
			return m, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	err = errors.New(errors.KindTimeout, "the node does not become the leader")
	select {
	case err = <-m.fatal:
	default:
	}
	m.stop()
	return nil, err
}

func (m *machine) startNode() error {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("DFS_SEQUENCE") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	incarnation, err := raftstore.Incarnation(m.dir, "a")
	if err != nil {
		return err
	}
	blocks := filepath.Join(m.dir, "blocks")
	if err := os.MkdirAll(blocks, 0o700); err != nil {
		return err
	}
	m.device, err = device.Open(blocks, device.Options{NodeID: "a", ClusterID: incarnation, Create: true, Logger: log, Volume: simdisk.Volume{Disk: m.disk}})
	if err != nil {
		return wrap(err, "device")
	}
	m.mux = mux.New(&listener{done: make(chan struct{})}, log)
	m.node, err = raftstore.Open(raftstore.Options{ID: "a", Dir: m.dir, Advertise: "a:1", Mux: m.mux, Device: m.device, LogKind: raftstore.LogSeg, Peers: alone{},
		Logger: log, Fatal: func(err error) { m.fatal <- err }, Bootstrap: map[blockstore.NodeID]string{"a": "a:1"}, CapacityBlocks: 1 << 20,
		Limits: raftstore.Limits{HeartbeatTimeout: 50 * time.Millisecond, ScrubPause: -1, TrailingBytes: 1},
		Seg:    seglog.Options{SegmentBytes: 1 << 20, SpareAfter: 64 << 10, FS: simdisk.Log{Disk: m.disk}}, Power: m.disk})
	if err != nil {
		return wrap(err, "replica")
	}
	go func() { _ = m.mux.Serve() }()
	return m.node.Start(background())
}

// stop ends the processes, and nothing more reaches the disk.
func (m *machine) stop() {
	m.disk.Cut()
	if m.server != nil {
		ctx, cancel := context.WithCancel(background())
		cancel()
		m.store.close()
		_ = m.server.Close(ctx)
		_ = m.log.Close()
	}
	if m.node != nil {
		_ = m.node.Close()
	}
	if m.mux != nil {
		_ = m.mux.Close()
	}
	if m.device != nil {
		_ = m.device.Close()
	}
	_ = os.RemoveAll(m.dir)
}

// mount opens a session, ending all others as a lock service would, and a file server on it.
func (m *machine) mount(clock *clock) error {
	var old []blockstore.WriterID
	m.node.View(func(s *blockstore.State, _ uint64) {
		for _, w := range s.Writers() {
			old = append(old, w.ID)
		}
	})
	for _, w := range old {
		if _, err := m.propose(blockstore.Command{Kind: blockstore.CmdFenceWriter, Writer: w}); err != nil {
			return wrap(err, "ending writer %d", w)
		}
	}
	m.store = &store{m: m, epoch: blockstore.Epoch(m.node.Leadership().Term), ses: blockstore.Session{Token: blockstore.Token{byte(clock.ticks.Add(1)), 1}}, in: make(chan *submission, 1024)}
	res, err := m.propose(blockstore.Command{Kind: blockstore.CmdOpenWriter, Token: m.store.ses.Token, Name: "enumerate", TTLMilli: 10000})
	if err != nil {
		return wrap(err, "opening a session")
	}
	m.store.ses.Writer = res.Writer
	for _, cmd := range []blockstore.Command{{Kind: blockstore.CmdBeginEpoch, Epoch: m.store.epoch},
		{Kind: blockstore.CmdAttachWriter, Writer: res.Writer, Token: m.store.ses.Token, Epoch: m.store.epoch}} {
		if _, err := m.propose(cmd); err != nil {
			return wrap(err, "attaching")
		}
	}
	if m.log, err = wal.NewWriter(m.store, wal.Options{}); err != nil {
		return err
	}
	if m.server, err = fs.New(options(clock)); err != nil {
		return err
	}
	m.store.start()
	m.client = &client{FileSystem: m.server, ctx: background()}
	return m.server.Attach(m.ctx, fs.Backend{Store: m.store, Clerk: onlyClerk{m.store}, Log: m.log})
}

func (m *machine) propose(cmd blockstore.Command) (blockstore.Result, error) {
	res, err := m.node.Propose(background(), cmd)
	if err == nil {
		err = res.Err
	}
	return res, err
}

// settle lets the file server take up what those before it left.
func (m *machine) settle() error {
	for range 60 {
		time.Sleep(time.Second)
		if left, err := m.store.Retired(m.ctx); err != nil || len(left) == 0 {
			return err
		}
	}
	return errors.New(errors.KindTimeout, "orphan lists are left after a minute")
}

// check is fsck of the device, whose damaged blocks are mended first.
func (m *machine) check(orphans bool) error {
	if s, err := m.node.Scrub(background(), nil); err != nil || s.Failed > 0 {
		return fmt.Errorf("scrub: %d blocks cannot be mended: %w", s.Failed, err)
	}
	var used uint64
	m.node.View(func(s *blockstore.State, _ uint64) { used = s.Used() })
	return check(fsckDevice(m.device), &used, orphans)
}

// store is the node as one file server's store.
type store struct {
	m     *machine
	ses   blockstore.Session
	epoch blockstore.Epoch
	in    chan *submission

	mu   sync.Mutex
	seq  uint64
	op   uint64
	last uint64
	over bool
}

type submission struct {
	record []byte
	done   func(uint64, error)
	index  uint64
	err    error
	ready  chan struct{}
}

var _ blockstore.Store = (*store)(nil)

// start proposes what is submitted, and tells the outcomes in order.
func (s *store) start() {
	out := make(chan *submission, 1024)
	go func() {
		defer close(out)
		for sub := range s.in {
			s.seq++
			cmd := blockstore.Command{Kind: blockstore.CmdWrite, Writer: s.ses.Writer, Token: s.ses.Token, Epoch: s.epoch, Seq: s.seq, Record: sub.record}
			s.m.node.ProposeAsync(background(), cmd, func(res blockstore.Result, err error) {
				if sub.index, sub.err = res.Index, err; err == nil {
					sub.err = res.Err
				}
				close(sub.ready)
			})
			out <- sub
		}
	}()
	go func() {
		for sub := range out {
			<-sub.ready
			if sub.err != nil {
				sub.done(0, errors.New(errors.KindDeadWriter, "the machine is off: %w", sub.err))
				continue
			}
			s.mu.Lock()
			s.last = sub.index
			s.mu.Unlock()
			sub.done(sub.index, nil)
		}
	}()
}

func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.over = true
		close(s.in)
	}
}

func (s *store) Submit(record []byte, done func(uint64, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		go done(0, errors.Of(errors.KindDeadWriter))
		return
	}
	s.in <- &submission{record: record, done: done, ready: make(chan struct{})}
}

func (s *store) numbered(kind blockstore.CommandKind, n uint64) (blockstore.Result, error) {
	s.mu.Lock()
	s.op++
	cmd := blockstore.Command{Kind: kind, Writer: s.ses.Writer, Token: s.ses.Token, Op: s.op, Count: n}
	s.mu.Unlock()
	return s.m.propose(cmd)
}

func (s *store) TakeInodes(_ context.Context, n uint64) (blockstore.InodeRange, error) {
	res, err := s.numbered(blockstore.CmdTakeInodes, n)
	return res.Inodes, err
}

func (s *store) Reserve(_ context.Context, n uint64) error {
	_, err := s.numbered(blockstore.CmdReserve, n)
	return err
}

func (s *store) Unreserve(_ context.Context, n uint64) error {
	_, err := s.numbered(blockstore.CmdUnreserve, n)
	return err
}

func (s *store) ForgetRetired(_ context.Context, w blockstore.WriterID) error {
	_, err := s.numbered(blockstore.CmdForgetRetired, uint64(w))
	return err
}

func (s *store) Space(context.Context) (sp blockstore.Space, err error) {
	s.m.node.View(func(st *blockstore.State, _ uint64) { sp = st.Space() })
	return sp, nil
}

func (s *store) Retired(context.Context) (list []blockstore.WriterID, err error) {
	s.m.node.View(func(st *blockstore.State, _ uint64) { list = st.Retired() })
	return list, nil
}

func (s *store) LastIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *store) Read(ctx context.Context, spans []blockstore.ReadSpan, min uint64) ([]blockstore.ReadResult, uint64, error) {
	return s.m.node.ReadLocal(ctx, spans, min)
}

func (s *store) Presence(ctx context.Context, span blockstore.ReadSpan, min uint64) ([]byte, uint64, error) {
	return s.m.node.PresenceLocal(ctx, span, min)
}

func (s *store) SkipAbsent(ctx context.Context, vdisk, block, min uint64) (uint64, error) {
	next, _, err := s.m.node.SkipAbsentLocal(ctx, vdisk, block, min)
	return next, err
}

// onlyClerk is that of a file server that has no others beside it: it holds every lock.
type onlyClerk struct{ s *store }

var _ lockserver.Clerk = onlyClerk{}

func (c onlyClerk) Acquire(ctx context.Context, _ ...lockserver.Request) error { return ctx.Err() }
func (c onlyClerk) TryAcquire(lockserver.Request) bool                         { return true }
func (c onlyClerk) Unpin(...lockserver.LockID)                                 {}
func (c onlyClerk) Held(lockserver.LockID) lockserver.Mode                     { return lockserver.Exclusive }
func (c onlyClerk) LeaseLeft() time.Duration                                   { return math.MaxInt32 * time.Second }
func (c onlyClerk) WaitLease(context.Context) error                            { return nil }
func (c onlyClerk) OwnInodes(blockstore.InodeRange)                            {}
func (c onlyClerk) OpenElsewhere(lockserver.LockID) bool                       { return false }
func (c onlyClerk) GiveBack(context.Context, lockserver.LockID) error          { return nil }
func (c onlyClerk) Session() blockstore.Session                                { return c.s.ses }
func (c onlyClerk) Epoch() blockstore.Epoch                                    { return c.s.epoch }
func (c onlyClerk) ReleaseFileLocks(lockserver.LockID, uint64, bool)           {}
func (c onlyClerk) Close(context.Context) error                                { return nil }

// MinIndex is what the node has applied: whoever crashed may have written until then.
func (c onlyClerk) MinIndex(lockserver.LockID) uint64 { return c.s.m.node.Applied() }

func (c onlyClerk) FileLock(context.Context, lockserver.LockID, lockserver.FileLock, bool) error {
	return nil
}

func (c onlyClerk) TestFileLock(_ context.Context, _ lockserver.LockID, l lockserver.FileLock) (lockserver.FileLock, error) {
	l.Type = lockserver.FileUnlock
	return l, nil
}
