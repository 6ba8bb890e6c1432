package main

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dfs/fuse"
	"dfs/internal/errors"
)

type umountOptions struct {
	wait  time.Duration // for the flush
	lazy  bool
	force bool
}

func newUmountCommand() *cobra.Command {
	var opt umountOptions
	c := &cobra.Command{
		Use:   "umount DIR",
		Short: "flush a mount to a majority of the nodes and detach it",
		Long: `Make everything written through the mount at DIR durable on a majority of the nodes, then
detach it. (A plain umount(8) detaches without that wait: the mount's process flushes afterwards, but nobody is told if it cannot.)`,
		Example: "  dfs umount /mnt/dfs\n  dfs umount --wait 10s /mnt/dfs",
		Args:    exactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return umount(c.Context(), args[0], opt) },
	}
	c.Flags().DurationVar(&opt.wait, "wait", time.Minute, "how long to wait for the flush")
	c.Flags().BoolVar(&opt.lazy, "lazy", false, "detach at once even if in use; it ends when its last user does")
	c.Flags().BoolVar(&opt.force, "force", false, "detach even if the flush failed: what was not flushed may be lost")
	return c
}

// umount flushes and detaches the dfs mount at dir.
func umount(ctx context.Context, dir string, opt umountOptions) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if !fuse.Mounted(dir) {
		return errors.New(errors.KindInvalid, "%s is not a dfs mount point (see: findmnt -t fuse.dfs)", dir)
	}
	err = flushMount(ctx, dir, opt.wait)
	if stderrors.Is(err, syscall.ENOTCONN) || stderrors.Is(err, syscall.ECONNABORTED) {
		return fuse.Unmount(dir, true) // its process is dead: nothing is left to flush
	}
	if stderrors.Is(err, syscall.EACCES) && !opt.force {
		return errors.New(errors.KindPermission, "%s is the mount of another user, who keeps others out, root too: unmount it as that user, or with --force as root (what is not flushed yet may be lost)", dir)
	}
	if err != nil && !opt.force {
		return errors.New(errors.KindOf(err), "%s is still mounted: flushing it failed: %w; see `dfs status`, try again, or give up what is not flushed with --force", dir, err)
	}
	return fuse.Unmount(dir, opt.lazy || opt.force)
}

// flushMount fsyncs the mount's root directory, which makes everything before it durable.
func flushMount(ctx context.Context, dir string, wait time.Duration) error {
	done := make(chan error, 1)
	go func() {
		d, err := os.Open(dir)
		if err != nil {
			done <- err
			return
		}
		err = d.Sync()
		_ = d.Close()
		done <- err
	}()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New(errors.KindTimeout, "not finished within %s: too few of the nodes answer", wait)
	}
}
