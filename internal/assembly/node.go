package assembly

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/blockstore/blockrpc"
	"dfs/blockstore/device"
	"dfs/blockstore/raftstore"
	"dfs/fs"
	"dfs/fs/filerpc"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/mux"
	"dfs/lockserver"
	"dfs/lockserver/lockrpc"
	"dfs/wal/seglog"
)

// NodeOptions says what a node is.
type NodeOptions struct {
	ID        blockstore.NodeID
	Listen    string // host:port
	Advertise string // host:port at which the others reach it; "": Listen
	Data      string // the data directory, made if missing
	Bootstrap map[blockstore.NodeID]string
	Join      []string
	LogKind   raftstore.LogKind
	// CapacityBlocks, if not 0, is the admitted capacity instead of the measured one.
	CapacityBlocks uint64
	// Limits bounds what the replica uses; zero fields stand for their defaults.
	Limits raftstore.Limits
	// Identity says which claimed ids of thin clients are believed; nil: none.
	Identity func(uid, gid uint32) bool
	// CacheBytes bounds the cache of the node's own file server, which runs once a thin client comes.
	CacheBytes int64

	// Host is what the node stands on; the zero value is this machine.
	Host Host

	Logger *slog.Logger
	// Fatal is called once when this node must stop (a failed disk, an entry it cannot decode).
	Fatal func(error)
}

// Host is the network and the disk of a node. A nil field is the machine's; tests simulate them.
type Host struct {
	Listen func(addr string) (net.Listener, error)
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	Volume device.Volume   // the data files
	Seg    seglog.Options  // the Raft log
	Power  raftstore.Power // of the small files that stay on the machine
}

func (h *Host) listen(addr string) (net.Listener, error) {
	if h.Listen != nil {
		return h.Listen(addr)
	}
	return net.Listen("tcp", addr)
}

// Node is a running node.
type Node struct {
	opt      NodeOptions
	listener net.Listener
	mux      *mux.Mux
	device   *device.Device
	replica  *raftstore.Node
	locks    *lockserver.Server
	files    *filerpc.Server
	blocks   *blockrpc.Server
	grpc     *grpc.Server

	stop context.CancelFunc
	wg   sync.WaitGroup

	fileMu  sync.Mutex
	fileSrv *FileServer
	cluster *cluster.Cluster // of the node's own file server, and the connections to its peers
}

// StartNode opens the data directory and starts serving. It returns once the node listens, which is
// before it has found the others.
func StartNode(opt NodeOptions) (n *Node, err error) {
	if opt.Advertise == "" {
		opt.Advertise = opt.Listen
	}
	n = &Node{opt: opt}
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()
	if err := os.MkdirAll(opt.Data, 0o700); err != nil {
		return n, errors.New(errors.KindOf(err), "the data directory: %w", err)
	}
	if n.listener, err = opt.Host.listen(opt.Listen); err != nil {
		return n, errors.New(errors.KindBusy, "listening on %s: %w; is another node or program using that port?", opt.Listen, err)
	}
	n.mux = mux.New(n.listener, opt.Logger)
	if err := n.openReplica(); err != nil {
		return n, err
	}
	if err := n.buildServices(); err != nil {
		return n, err
	}
	ctx, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.wg.Go(func() { n.serve("mux", n.mux.Serve) })
	n.wg.Go(func() { n.serve("gRPC", func() error { return n.grpc.Serve(n.mux.GRPC()) }) })
	n.wg.Go(func() {
		if err := n.locks.Run(ctx); err != nil && ctx.Err() == nil {
			opt.Fatal(err)
		}
	})
	return n, n.replica.Start(ctx)
}

func (n *Node) openReplica() (err error) {
	dir := filepath.Join(n.opt.Data, "blocks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errors.New(errors.KindOf(err), "the block directory: %w", err)
	}
	incarnation, err := raftstore.Incarnation(n.opt.Data, n.opt.ID)
	if err != nil {
		return err
	}
	n.device, err = device.Open(dir, device.Options{NodeID: string(n.opt.ID), ClusterID: incarnation, Create: true, Logger: n.opt.Logger, Volume: n.opt.Host.Volume})
	if err != nil {
		return err
	}
	if n.cluster, err = cluster.Dial([]string{n.opt.Advertise}, cluster.Options{Log: n.opt.Logger, Dialer: n.opt.Host.Dial}); err != nil {
		return err
	}
	n.replica, err = raftstore.Open(raftstore.Options{
		ID: n.opt.ID, Dir: n.opt.Data, Advertise: n.opt.Advertise, Mux: n.mux, Device: n.device, LogKind: n.opt.LogKind, Peers: blockrpc.NewPeers(n.cluster),
		Logger: n.opt.Logger, Fatal: n.opt.Fatal, Bootstrap: n.opt.Bootstrap, Join: n.opt.Join, CapacityBlocks: n.opt.CapacityBlocks, Limits: n.opt.Limits,
		Dial: n.opt.Host.Dial, Seg: n.opt.Host.Seg, Power: n.opt.Host.Power,
	})
	return err
}

func (n *Node) buildServices() (err error) {
	n.grpc = grpc.NewServer(cluster.ServerOptions(nil)...)
	options := blockrpc.ServerOptions{Node: n.opt.ID, Replica: n.replica, Peer: n.replica, Admin: n.replica, Log: n.opt.Logger}
	if n.blocks, err = blockrpc.NewServer(options); err != nil {
		return err
	}
	n.blocks.Register(n.grpc)
	cluster.Register(n.grpc, blockrpc.NewInfoSource(options, n.replica.ClusterID, n.members))
	if n.locks, err = lockserver.NewServer(n.replica, lockserver.Options{Logger: n.opt.Logger}); err != nil {
		return err
	}
	lockrpc.Register(n.grpc, n.locks, n.replica.Leadership)
	n.files = filerpc.NewServer(filerpc.Options{Node: string(n.opt.ID), Open: n.openFiles, Identity: n.opt.Identity, Logger: n.opt.Logger})
	n.files.Register(n.grpc)
	filerpc.NewChecker(n.replica, n.device).Register(n.grpc)
	return nil
}

// members is what this node tells clients of the cluster.
func (n *Node) members() ([]cluster.Member, uint64) {
	var list []cluster.Member
	for _, m := range n.replica.Members() {
		list = append(list, cluster.Member{Node: m.ID, Address: m.Address, Voter: m.Voter})
	}
	return list, n.replica.Applied()
}

// openFiles starts the node's own file server, at the first thin client.
func (n *Node) openFiles(ctx context.Context) (filerpc.FileSystem, error) {
	n.fileMu.Lock()
	defer n.fileMu.Unlock()
	if n.fileSrv != nil {
		return n.fileSrv, nil
	}
	f, err := OpenFileServer(ctx, n.cluster, FileServerOptions{
		Name: fmt.Sprintf("file service of node %s", n.opt.ID), SessionFile: filepath.Join(n.opt.Data, "session.json"), FS: fs.Options{CacheBytes: n.opt.CacheBytes}, Logger: n.opt.Logger})
	if err != nil {
		return nil, err
	}
	n.fileSrv = f
	return f, nil
}

// serve runs one of the listeners' loops; its end while the node runs is fatal.
func (n *Node) serve(what string, f func() error) {
	if err := f(); err != nil && !errors.Is(err, errors.KindUnavailable) {
		n.opt.Logger.Info("stopped serving", "what", what, "error", err)
	}
}

// Replica is the node's replica of the block store.
func (n *Node) Replica() *raftstore.Node { return n.replica }

// Close stops the node: the file service flushes and ends its session, then the replica hands over and closes. Bounded by ctx.
func (n *Node) Close(ctx context.Context) error {
	n.files.Close()
	n.fileMu.Lock()
	var err error
	if n.fileSrv != nil {
		err = n.fileSrv.Close(ctx)
	}
	n.fileMu.Unlock()
	n.stop()
	cerr := n.replica.Close()
	stopped := make(chan struct{})
	go func() { n.grpc.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-ctx.Done():
		n.grpc.Stop()
	case <-time.After(time.Second):
		n.grpc.Stop()
	}
	n.abandon()
	n.wg.Wait()
	if err == nil {
		err = cerr
	}
	return err
}

// abandon releases what was opened.
func (n *Node) abandon() {
	if n.device != nil {
		if err := n.device.Close(); err != nil {
			n.opt.Logger.Warn("closing the block files", "error", err)
		}
	}
	if n.cluster != nil {
		n.cluster.Close()
	}
	if n.mux != nil {
		_ = n.mux.Close()
	} else if n.listener != nil {
		_ = n.listener.Close()
	}
}
