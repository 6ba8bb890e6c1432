// Command dfs is the whole of dfs in one binary: the node (dfs server), the
// mount (dfs mount, dfs umount), a cluster on one machine to try it (dfs dev),
// the file commands (dfs open, read, write, ls …) and the operator's commands
// (dfs status, node, fsck, scrub, compare). This package holds flags, logging,
// signals and wiring, nothing else.
//
// Exit codes: 0 done; 1 failed; 2 wrong usage; 3 the cluster did not answer in time.
package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"dfs/internal/errors"
)

// version is set by the linker.
var version = "unknown"

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnavailable = 3
)

// usageError marks an error of the command line itself.
type usageError struct{ error }

func main() {
	if len(os.Args) > 1 && os.Args[1] == guardCommand {
		runGuard()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	if name := filepath.Base(os.Args[0]); name == "mount.dfs" || name == "mount.fuse.dfs" {
		args, ok := mountHelperArgs(os.Args[1:])
		if !ok {
			return // mount -f: as if it were done
		}
		root.SetArgs(append([]string{"mount"}, args...))
	}
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "dfs: %v\n", err)
		os.Exit(exitCode(err))
	}
}

func exitCode(err error) int {
	var usage usageError
	var child *childError
	switch {
	case stderrors.As(err, &usage):
		return exitUsage
	case stderrors.As(err, &child):
		return child.code
	}
	switch errors.KindOf(err) {
	case errors.KindTimeout, errors.KindUnavailable:
		return exitUnavailable
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "dfs",
		Short: "a distributed file system that every mount sees alike",
		Long: `dfs keeps every block of a file system on several machines and lets any number of
machines mount it: what one has written, all read, at once.

Try it on this machine:  dfs dev ./mnt`,
		SilenceUsage: true, SilenceErrors: true,
		Version: version,
		Args:    func(c *cobra.Command, args []string) error { return usage(c, cobra.NoArgs(c, args)) },
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see: %s --help)", err, c.CommandPath())}
	})
	root.AddGroup(
		&cobra.Group{ID: "run", Title: "Run it:"},
		&cobra.Group{ID: "files", Title: "Use files without a mount:"},
		&cobra.Group{ID: "operate", Title: "Look after it:"})
	for group, commands := range map[string][]*cobra.Command{
		"run":     {newServerCommand(), newDevCommand(), newMountCommand(), newUmountCommand()},
		"files":   fileCommands(),
		"operate": operatorCommands(),
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	root.AddCommand(newVersionCommand())
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "tell the version", Args: noArgs, Example: "  dfs version",
		RunE: func(c *cobra.Command, _ []string) error {
			revision := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						revision = " " + s.Value
					}
				}
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "dfs %s%s %s %s/%s\n", version, revision, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// noArgs, exactArgs and rangeArgs are cobra's checks, told as usage errors.
func noArgs(c *cobra.Command, args []string) error { return usage(c, cobra.NoArgs(c, args)) }

func exactArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error { return usage(c, cobra.ExactArgs(n)(c, args)) }
}

func rangeArgs(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error { return usage(c, cobra.RangeArgs(least, most)(c, args)) }
}

func leastArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error { return usage(c, cobra.MinimumNArgs(n)(c, args)) }
}

func usage(c *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	return usageError{fmt.Errorf("%w; usage: %s (see: %s --help)", err, c.UseLine(), c.CommandPath())}
}
