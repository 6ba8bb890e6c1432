package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dfs/blockstore"
	"dfs/blockstore/raftstore"
	"dfs/internal/assembly"
	"dfs/internal/errors"
)

// serverStopWait bounds a clean stop of a node.
const serverStopWait = 25 * time.Second

type serverFlags struct {
	checkpoint, keepLog                          string
	id, listen, advertise, data, bootstrap, join string
	log, logLevel, allowIDs, capacity, debug     string
	insecure                                     bool
}

func newServerCommand() *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use:   "server",
		Short: "run a node of a cluster",
		Long: `Run a node: it keeps a replica of every block. A cluster comes to life when each of its
first nodes is started with the same --bootstrap list; the list is ignored once the node belongs to a
cluster. A further node is started with --join and then added by "dfs node add".`,
		Example: `  dfs server --id a --listen 10.0.0.1:7470 --data /srv/dfs --insecure-listen \
      --bootstrap a=10.0.0.1:7470,b=10.0.0.2:7470,c=10.0.0.3:7470
  dfs server --id d --listen 10.0.0.4:7470 --data /srv/dfs --insecure-listen --join 10.0.0.1:7470`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runServer(c.Context(), f) },
	}
	c.Flags().StringVar(&f.id, "id", "", "this node's name in the cluster (needed)")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:7470", "host:port to listen on")
	c.Flags().StringVar(&f.advertise, "advertise", "", "host:port at which the others reach this node (default: --listen)")
	c.Flags().StringVar(&f.data, "data", "", "data directory (needed)")
	c.Flags().StringVar(&f.bootstrap, "bootstrap", "", "the first members, the same list on each: a=host:port,b=host:port,…")
	c.Flags().StringVar(&f.join, "join", "", "members of the cluster to join: host:port,…")
	c.Flags().StringVar(&f.log, "raft-log", string(raftstore.LogSeg), "the Raft log's form: seglog or boltdb")
	c.Flags().StringVar(&f.capacity, "capacity", "", "admitted capacity of the whole cluster, such as 100G (default: 90% of what the smallest replica's disk can hold)")
	c.Flags().StringVar(&f.checkpoint, "checkpoint", "256M", "how much is written between two checkpoints: what a start after a crash redoes at most")
	c.Flags().StringVar(&f.keepLog, "keep-log", "128M", "how much of the log is kept behind a checkpoint, for nodes that were away")
	c.Flags().StringVar(&f.allowIDs, "allow-ids", "", "user and group ids that thin clients may claim: all, or a list of numbers (default: none, they act as nobody)")
	c.Flags().BoolVar(&f.insecure, "insecure-listen", false, "allow --listen on an address beyond loopback: traffic is neither encrypted nor authenticated yet")
	addDebugFlag(c, &f.debug)
	c.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	return c
}

func runServer(ctx context.Context, f serverFlags) error {
	ctx, cancel := underLifeline(ctx)
	defer cancel()
	log, err := newLogger(f.logLevel)
	if err != nil {
		return err
	}
	opt, err := f.options()
	if err != nil {
		return err
	}
	opt.Logger = log
	if err := serveDebug(f.debug); err != nil {
		return err
	}
	fatal := make(chan error, 1)
	opt.Fatal = func(err error) {
		select {
		case fatal <- err:
		default:
		}
		// What makes a replica stop may hang its clean end, too.
		time.AfterFunc(5*time.Second, func() {
			fmt.Fprintf(os.Stderr, "dfs: %v\n", err)
			os.Exit(exitFailed)
		})
	}
	node, err := assembly.StartNode(opt)
	if err != nil {
		return err
	}
	log.Info("node is up", "id", f.id, "listen", f.listen, "data", f.data)
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case err := <-fatal:
		return err
	}
	stop, stopped := context.WithTimeout(context.Background(), serverStopWait)
	defer stopped()
	return node.Close(stop)
}

func (f *serverFlags) options() (assembly.NodeOptions, error) {
	bad := func(format string, args ...any) (assembly.NodeOptions, error) {
		return assembly.NodeOptions{}, usageError{fmt.Errorf(format, args...)}
	}
	opt := assembly.NodeOptions{ID: blockstore.NodeID(f.id), Listen: f.listen, Advertise: f.advertise, Data: f.data, LogKind: raftstore.LogKind(f.log)}
	if f.id == "" || f.data == "" {
		return bad("--id and --data are needed")
	}
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return bad("--listen %q: want host:port", f.listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !f.insecure {
		return bad("--listen %s is not a loopback address: traffic is not encrypted or authenticated yet, so listening there needs --insecure-listen, on a network you trust", f.listen)
	}
	if f.bootstrap != "" && f.join != "" {
		return bad("--bootstrap and --join exclude each other")
	}
	if f.bootstrap != "" {
		opt.Bootstrap = map[blockstore.NodeID]string{}
		for _, part := range strings.Split(f.bootstrap, ",") {
			id, addr, ok := strings.Cut(strings.TrimSpace(part), "=")
			if !ok || id == "" || addr == "" {
				return bad("--bootstrap %q: want a=host:port,b=host:port,…", part)
			}
			if _, twice := opt.Bootstrap[blockstore.NodeID(id)]; twice {
				return bad("--bootstrap names node %s twice", id)
			}
			opt.Bootstrap[blockstore.NodeID(id)] = addr
		}
	}
	if f.join != "" {
		if opt.Join, err = clusterAddrs(f.join); err != nil {
			return opt, err
		}
	}
	if f.capacity != "" {
		bytes, err := parseSize(f.capacity)
		if err != nil {
			return opt, err
		}
		opt.CapacityBlocks = uint64(bytes) / 4096
		if opt.CapacityBlocks == 0 {
			return bad("--capacity %s is less than a block", f.capacity)
		}
	}
	if opt.Limits.CheckpointBytes, err = parseSize(f.checkpoint); err != nil {
		return opt, err
	}
	if opt.Limits.TrailingBytes, err = parseSize(f.keepLog); err != nil {
		return opt, err
	}
	if opt.Limits.CheckpointBytes < 1<<20 || opt.Limits.TrailingBytes < 1<<20 {
		return bad("--checkpoint and --keep-log must be 1M at least")
	}
	opt.Identity, err = parseIDs(f.allowIDs)
	return opt, err
}

// parseIDs makes the check of claimed user ids.
func parseIDs(s string) (func(uid, gid uint32) bool, error) {
	switch s {
	case "":
		return nil, nil
	case "all":
		return func(uint32, uint32) bool { return true }, nil
	}
	allowed := map[uint32]bool{}
	for _, word := range strings.Split(s, ",") {
		id, err := strconv.ParseUint(strings.TrimSpace(word), 10, 32)
		if err != nil {
			return nil, usageError{errors.New(errors.KindInvalid, "--allow-ids %q: want all, or numbers joined by commas", s)}
		}
		allowed[uint32(id)] = true
	}
	return func(uid, gid uint32) bool { return allowed[uid] && allowed[gid] }, nil
}
