package main

import (
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"dfs/posixclient"
)

// inCluster marks the paths of `dfs cp` that lie in the cluster.
const inCluster = "dfs:"

func newCpCommand() *cobra.Command {
	var recursive bool
	cmd := fileCommand("cp FROM TO", "copy into and out of the cluster; paths in it begin with dfs:",
		"  dfs cp backup.tar dfs:/backups/\n  dfs cp dfs:/backups/backup.tar .\n  dfs cp -r ./site dfs:/www", exactArgs(2),
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			from, fromCluster := sideOf(client, args[0])
			to, toCluster := sideOf(client, args[1])
			cp := copier{ctx: c.Context(), from: from, to: to, oneSide: fromCluster == toCluster, recursive: recursive, messages: c.ErrOrStderr()}
			return cp.run(strings.TrimPrefix(args[0], inCluster), strings.TrimPrefix(args[1], inCluster))
		})
	cmd.Long = `Copy a file, or with -r a directory and all below it, into the cluster, out of it or within it. FROM is
copied into TO if that is a directory, else it gets that name; what is there is replaced.

Symbolic links are followed without -r; with it they are copied as links, and FIFOs, sockets and devices as
what they are. What cannot be copied of a directory is told, the rest is copied, and the exit code is 1.
A file is not copied onto itself, nor a directory into itself.`
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy directories and all below them, links and special files as what they are")
	return cmd
}

// looker tells what a name stands for.
type looker interface {
	Stat(name string) (os.FileInfo, error)
	Lstat(name string) (os.FileInfo, error)
}

// source is where a copy comes from: this machine's files or the cluster's.
type source interface {
	looker
	ReadDir(name string) ([]os.DirEntry, error)
	Readlink(name string) (string, error)
	open(name string) (io.ReadCloser, error)
}

// target is where a copy goes. Permission bits are before the umask.
type target interface {
	looker
	MkdirAll(name string, perm os.FileMode) error
	Symlink(target, name string) error
	Mknod(name string, mode, dev uint32) error
	Unlink(name string) error
	create(name string, perm os.FileMode) (io.WriteCloser, error)
}

// side is either.
type side interface {
	source
	target
}

type clusterSide struct{ *posixclient.Client }

func (s clusterSide) open(name string) (io.ReadCloser, error) { return s.Open(name, os.O_RDONLY, 0) }
func (s clusterSide) create(name string, perm os.FileMode) (io.WriteCloser, error) {
	return s.Open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
}

type localSide struct{}

func (localSide) Stat(name string) (os.FileInfo, error)        { return os.Stat(name) }
func (localSide) Lstat(name string) (os.FileInfo, error)       { return os.Lstat(name) }
func (localSide) ReadDir(name string) ([]os.DirEntry, error)   { return os.ReadDir(name) }
func (localSide) Readlink(name string) (string, error)         { return os.Readlink(name) }
func (localSide) MkdirAll(name string, perm os.FileMode) error { return os.MkdirAll(name, perm) }
func (localSide) Symlink(target, name string) error            { return os.Symlink(target, name) }
func (localSide) Unlink(name string) error                     { return os.Remove(name) }
func (localSide) open(name string) (io.ReadCloser, error)      { return os.Open(name) }
func (localSide) Mknod(name string, mode, dev uint32) error {
	if err := syscall.Mknod(name, mode, int(dev)); err != nil {
		return &os.PathError{Op: "mknod", Path: name, Err: err}
	}
	return nil
}
func (localSide) create(name string, perm os.FileMode) (io.WriteCloser, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
}

func sideOf(client *posixclient.Client, arg string) (s side, cluster bool) {
	if strings.HasPrefix(arg, inCluster) {
		return clusterSide{client}, true
	}
	return localSide{}, false
}
