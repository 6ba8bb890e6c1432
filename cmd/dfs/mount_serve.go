package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"dfs/fs"
	"dfs/fs/filerpc"
	"dfs/fuse"
	"dfs/internal/assembly"
	"dfs/internal/cluster"
	"dfs/internal/errors"
)

// mountStopWait bounds the flush after the mount point is gone.
const mountStopWait = time.Minute

// mounted is the file system behind a mount: a file server of its own, or one of the nodes'.
type mounted interface {
	fs.FileSystem
	// Close flushes and ends; the error says what could not be flushed.
	Close(ctx context.Context) error
}

// localServer is a file server with the cluster that it works on.
type localServer struct {
	*assembly.FileServer
	cluster *cluster.Cluster
}

func (s localServer) Close(ctx context.Context) error {
	err := s.FileServer.Close(ctx)
	s.cluster.Close()
	return err
}

// mount opens the file system and gives it to the kernel.
func (p *mountPlan) mount(ctx context.Context, log *slog.Logger) (*fuse.Mount, mounted, error) {
	opening, cancel := context.WithTimeout(ctx, p.wait)
	defer cancel()
	quorumWait, stuck := p.quorumWait, p.stuckAfter
	if quorumWait == 0 {
		quorumWait, stuck = -1, 0 // for ever, and then nothing is stuck
	}
	var server mounted
	var setInvalidator func(fs.Invalidator)
	var err error
	if p.via != "" {
		server, setInvalidator, err = p.openRemote(opening, quorumWait)
	} else {
		server, setInvalidator, err = p.openLocal(opening, quorumWait, log)
	}
	if errors.Is(err, errors.KindForeign) {
		return nil, nil, errors.New(errors.KindForeign, "cannot mount %s: %w", p.source, err)
	}
	if err != nil {
		return nil, nil, errors.New(errors.KindOf(err), "cannot mount %s: %w; do a majority of the nodes run, and are the addresses right? (dfs status %s)", p.source, err, p.source)
	}
	m, err := fuse.New(p.dir, server, fuse.Options{Source: p.source, MountFlags: p.flags, OnlyMe: p.onlyMe, Uncached: p.via != "",
		StuckAfter: stuck, Guard: guardOf(p.dir), Trace: p.trace, Logger: log})
	if err != nil {
		closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return nil, nil, firstError(err, server.Close(closing))
	}
	setInvalidator(m.Invalidator())
	return m, server, nil
}

// openLocal opens a file server on the cluster in this process.
func (p *mountPlan) openLocal(ctx context.Context, quorumWait time.Duration, log *slog.Logger) (mounted, func(fs.Invalidator), error) {
	cl, err := cluster.Dial(p.addrs, cluster.Options{Log: log})
	if err != nil {
		return nil, nil, err
	}
	if err := cl.Refresh(ctx); errors.Is(err, errors.KindForeign) { // what is tried again, below, would not tell
		cl.Close()
		return nil, nil, err
	}
	host, _ := os.Hostname()
	server, err := assembly.OpenFileServer(ctx, cl, assembly.FileServerOptions{
		Name: fmt.Sprintf("%s:%s (pid %d)", host, p.dir, os.Getpid()), TTL: p.lease, Logger: log,
		SessionFile: sessionFile(p.dir),
		FS: fs.Options{CacheBytes: p.cacheBytes, CacheBlocks: p.cacheBlocks, QuorumWait: quorumWait,
			NoAtime: p.flags&(unix.MS_NOATIME|unix.MS_RDONLY) != 0},
	})
	if err != nil {
		cl.Close()
		return nil, nil, err
	}
	return localServer{server, cl}, server.SetInvalidator, nil
}

// openRemote connects to the file service of a node. There is nothing in the kernel's caches to drop.
func (p *mountPlan) openRemote(ctx context.Context, wait time.Duration) (mounted, func(fs.Invalidator), error) {
	r, err := filerpc.DialRemote(ctx, p.addrs, wait)
	return r, func(fs.Invalidator) {}, err
}

// serveMount waits until somebody unmounts, or unmounts when ctx ends, and then flushes.
func serveMount(ctx context.Context, m *fuse.Mount, server mounted) error {
	defer m.Discharge()
	select {
	case <-m.Done():
	case <-ctx.Done():
		flush, cancel := context.WithTimeout(context.Background(), mountStopWait)
		defer cancel()
		if err := server.SyncAll(flush); err != nil {
			return errors.New(errors.KindOf(err), "%s: not everything could be flushed: %w", m.Dir(), err)
		}
		if err := m.Unmount(false); err != nil {
			if err := m.Unmount(true); err != nil { // in use: detach now, its users keep what they have open until this process ends
				return err
			}
		}
	}
	closing, cancel := context.WithTimeout(context.Background(), mountStopWait)
	defer cancel()
	if err := server.Close(closing); err != nil {
		return errors.New(errors.KindOf(err), "%s: the end of the mount: %w", m.Dir(), err)
	}
	return nil
}
