package fuse

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"dfs/internal/errors"
)

// openControl opens the file that aborts FUSE connection id when it is written to. What it leads to is this
// connection and no later one of the same number. The control file system need not be mounted for root.
func openControl(id int) (*os.File, error) {
	name := fmt.Sprintf("%d/abort", id)
	f, err := os.OpenFile("/sys/fs/fuse/connections/"+name, os.O_WRONLY, 0)
	if err == nil || os.Geteuid() != 0 {
		return f, err
	}
	fsys, err := unix.Fsopen("fusectl", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "opening the FUSE control file system: %w", err)
	}
	defer unix.Close(fsys)
	if err := unix.FsconfigCreate(fsys); err != nil {
		return nil, errors.New(errors.KindOf(err), "the FUSE control file system: %w", err)
	}
	root, err := unix.Fsmount(fsys, unix.FSMOUNT_CLOEXEC, 0) // mounted nowhere: gone with the last descriptor
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "the FUSE control file system: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "connection %d in the FUSE control file system: %w", id, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// abortBy makes every request of the connection that control leads to fail, those that wait and those to come.
func abortBy(control *os.File) error {
	_, err := control.WriteString("1")
	return err
}
