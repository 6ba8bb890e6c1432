package main

import (
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"dfs/posixclient"
)

// inCluster marks the paths of `dfs cp` that lie in the cluster.
const inCluster = "dfs:"

func newCpCommand() *cobra.Command {
	var recursive bool
	cmd := fileCommand("cp FROM TO", "copy into and out of the cluster; paths in it begin with dfs:",
		"  dfs cp backup.tar dfs:/backups/\n  dfs cp dfs:/backups/backup.tar .\n  dfs cp -r ./site dfs:/www", exactArgs(2),
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			cp := copier{from: sideOf(client, args[0]), to: sideOf(client, args[1]), recursive: recursive, progress: c.ErrOrStderr()}
			return cp.run(strings.TrimPrefix(args[0], inCluster), strings.TrimPrefix(args[1], inCluster))
		})
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy directories and all below them")
	return cmd
}

// side is one end of a copy: this machine's files or the cluster's.
type side interface {
	Stat(name string) (os.FileInfo, error)
	ReadDir(name string) ([]os.DirEntry, error)
	MkdirAll(name string, perm os.FileMode) error
	open(name string) (io.ReadCloser, error)
	create(name string, perm os.FileMode) (io.WriteCloser, error)
}

type clusterSide struct{ *posixclient.Client }

func (s clusterSide) open(name string) (io.ReadCloser, error) { return s.Open(name, os.O_RDONLY, 0) }
func (s clusterSide) create(name string, perm os.FileMode) (io.WriteCloser, error) {
	return s.Open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
}

type localSide struct{}

func (localSide) Stat(name string) (os.FileInfo, error)        { return os.Stat(name) }
func (localSide) ReadDir(name string) ([]os.DirEntry, error)   { return os.ReadDir(name) }
func (localSide) MkdirAll(name string, perm os.FileMode) error { return os.MkdirAll(name, perm) }
func (localSide) open(name string) (io.ReadCloser, error)      { return os.Open(name) }
func (localSide) create(name string, perm os.FileMode) (io.WriteCloser, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
}

func sideOf(client *posixclient.Client, arg string) side {
	if strings.HasPrefix(arg, inCluster) {
		return clusterSide{client}
	}
	return localSide{}
}

type copier struct {
	from, to  side
	recursive bool
	progress  io.Writer
}

func (c *copier) run(from, to string) error {
	info, err := c.from.Stat(from)
	if err != nil {
		return err
	}
	if at, err := c.to.Stat(to); err == nil && at.IsDir() {
		to = path.Join(to, filepath.Base(from))
	}
	if info.IsDir() && !c.recursive {
		return fmt.Errorf("%s is a directory; copy it with -r", from)
	}
	return c.copy(from, to, info)
}

func (c *copier) copy(from, to string, info os.FileInfo) error {
	if !info.IsDir() {
		return c.file(from, to, info)
	}
	if err := c.to.MkdirAll(to, info.Mode().Perm()|0o700); err != nil {
		return err
	}
	entries, err := c.from.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(from, e.Name())
		info, err := c.from.Stat(name)
		if err != nil {
			return err
		}
		if err := c.copy(name, path.Join(to, e.Name()), info); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) file(from, to string, info os.FileInfo) (err error) {
	if !info.Mode().IsRegular() {
		return errNotRegular(from)
	}
	in, err := c.from.open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := c.to.create(to, info.Mode().Perm())
	if err != nil {
		return err
	}
	defer closing(&err, out.Close)
	var w io.Writer = out
	if f, ok := c.progress.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		bar := progressbar.DefaultBytes(info.Size(), filepath.Base(from))
		defer closing(&err, bar.Close)
		w = io.MultiWriter(out, bar)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	return err
}
