package main

import (
	"golang.org/x/sys/unix"

	"dfs/fuse"
	"dfs/internal/errors"
)

// remount changes the kernel's flags (ro, nosuid, nodev, noexec, sync …) of the mount at p.dir, for `mount -o remount,…`. What is the mount
// process's own (cache, lease …) stays as it was started; mount(8) passes that on from fstab, so it is no error.
func remount(p *mountPlan) error {
	if !fuse.Mounted(p.dir) {
		return errors.New(errors.KindInvalid, "%s cannot be remounted: it is not a dfs mount point (see: findmnt -t fuse.dfs)", p.dir)
	}
	if err := unix.Mount(p.source, p.dir, "fuse.dfs", unix.MS_REMOUNT|p.flags, ""); err != nil {
		return errors.New(errors.KindOf(err), "remounting %s: %w", p.dir, err)
	}
	return nil
}
