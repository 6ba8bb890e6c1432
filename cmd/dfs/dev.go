package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dfs/fuse"
	"dfs/internal/errors"
)

// dfs dev: a whole cluster on this machine, to try and to develop with.

// devStartWait bounds how long a start may take: a replay of a full log, and a mount.
const devStartWait = 2 * time.Minute

// devStopWait bounds how long one process may take to stop before it is killed.
const devStopWait = 30 * time.Second

func newDevCommand() *cobra.Command {
	var opt devOptions
	c := &cobra.Command{
		Use:   "dev [DIR]",
		Short: "start a three-node cluster on this machine and mount it at DIR",
		Long: `Start three node processes on this machine, each with its own data, and mount the
cluster at DIR (default ./mnt). Ctrl-C unmounts and stops them; the data is
there again at the next start.`,
		Example: `  dfs dev                         # mount at ./mnt, data in ./.dfs-dev
  dfs dev --data /srv/try /mnt/try
  dfs dev --background ./mnt      # returns once the mount is ready
  dfs dev mount /mnt/second       # one more mount of the same cluster
  dfs dev stop`,
		Args: rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			opt.dir = "mnt"
			if len(args) == 1 {
				opt.dir = args[0]
			}
			return runDev(c.Context(), opt, c.OutOrStdout())
		},
	}
	c.PersistentFlags().StringVar(&opt.data, "data", ".dfs-dev", "directory for the nodes' data, logs and state")
	c.Flags().BoolVar(&opt.background, "background", false, "return once the mount is ready, and go on in the background")
	c.Flags().IntVar(&opt.nodes, "nodes", 3, "number of nodes (at the first start)")
	c.Flags().StringVar(&opt.logLevel, "log-level", "info", "what the processes log: debug, info, warn or error")
	c.Flags().StringArrayVar(&opt.mountArgs, "mount-option", nil, "flag for the mount, such as --mount-option=--cache=512MiB (repeatable)")
	c.AddCommand(
		&cobra.Command{Use: "stop", Short: "unmount and stop what dfs dev started", Args: noArgs, Example: "  dfs dev stop\n  dfs dev stop --data /srv/try",
			RunE: func(c *cobra.Command, _ []string) error { return stopDev(c.Context(), opt.data, c.OutOrStdout()) }},
		&cobra.Command{Use: "mount DIR", Short: "add an independent mount of the dev cluster", Args: exactArgs(1), Example: "  dfs dev mount /mnt/second",
			RunE: func(c *cobra.Command, args []string) error {
				return mountDev(c.Context(), opt.data, args[0], c.OutOrStdout())
			}},
	)
	return c
}

type devOptions struct {
	dir, data, logLevel string
	background          bool
	nodes               int
	mountArgs           []string
}

func runDev(ctx context.Context, opt devOptions, out io.Writer) error {
	dir, err := filepath.Abs(opt.dir)
	if err != nil {
		return err
	}
	opt.dir = dir
	if opt.data, err = filepath.Abs(opt.data); err != nil {
		return err
	}
	if opt.nodes < 1 || opt.nodes > 9 {
		return usageError{fmt.Errorf("--nodes %d: want 1 to 9", opt.nodes)}
	}
	if err := os.MkdirAll(opt.data, 0o755); err != nil {
		return errors.New(errors.KindOf(err), "the data directory: %w", err)
	}
	ready := newReadiness()
	lock, running, err := awaitDevLock(ctx, opt)
	if err != nil {
		return ready.failed(err)
	}
	if running != nil {
		if _, err := fmt.Fprintf(out, "already running\n%s", devBanner(opt.data, running)); err != nil {
			return err
		}
		return checkDev(opt.data, running)
	}
	if err := awaitEarlier(opt.data, out); err != nil {
		_ = lock.Close()
		return ready.failed(err)
	}
	if opt.background && !ready.daemon() {
		_ = lock.Close()
		args := []string{"dev", "--data", opt.data, "--nodes", fmt.Sprint(opt.nodes), "--log-level", opt.logLevel}
		for _, a := range opt.mountArgs {
			args = append(args, "--mount-option="+a)
		}
		return background(ctx, append(args, "--", opt.dir), filepath.Join(opt.data, "dev.log"), out)
	}
	defer lock.Close()
	return ready.failed(superviseDev(ctx, opt, ready, out))
}

// awaitDevLock takes the supervisor's lock. One that is just stopping is waited for; of one that
// runs, the state is returned if it is what opt asks for.
func awaitDevLock(ctx context.Context, opt devOptions) (lock *os.File, running *devState, err error) {
	deadline := time.Now().Add(devStopWait)
	for {
		if lock, err = lockDev(opt.data); err == nil {
			return lock, nil, nil
		}
		state, serr := readDevState(opt.data)
		// A supervisor that was just killed has the lock for a moment yet, and its mount for as long as that flushes.
		if serr == nil && alive(state.PID, "dev") && fuse.Mounted(state.Dir) && alive(state.MountPID, state.Dir) {
			switch {
			case state.Dir != opt.dir:
				return nil, nil, errors.New(errors.KindBusy, "this dev cluster runs already, mounted at %s; for one more mount: dfs dev mount --data %s %s", state.Dir, opt.data, opt.dir)
			case opt.background:
				return nil, state, nil
			}
			return nil, nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, nil, err
		}
	}
}

// superviseDev starts everything, waits for the end, and stops everything.
func superviseDev(ctx context.Context, opt devOptions, ready *readiness, out io.Writer) (err error) {
	release := lockDevPorts(ctx)
	defer func() { release() }()
	state, err := prepareDev(opt)
	if err != nil {
		return err
	}
	var children devChildren
	defer func() { err = firstError(err, children.stop(out)) }()
	startCtx, cancel := context.WithTimeout(ctx, devStartWait)
	defer cancel()
	for i := range state.Nodes {
		n := &state.Nodes[i]
		pid, err := children.start(n.Log, "server", "--id", n.ID, "--listen", n.Address, "--data", n.Data,
			"--bootstrap", state.bootstrap(), "--log-level", opt.logLevel, "--allow-ids", "all") // they listen on loopback
		if err != nil {
			return err
		}
		n.PID = pid
	}
	state.PID = os.Getpid()
	if err := writeDevState(opt.data, state); err != nil {
		return err
	}
	if err := clearStaleMount(state.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(state.Dir, 0o755); err != nil {
		return errors.New(errors.KindOf(err), "the mount point %s cannot be made: %w", state.Dir, err)
	}
	mountLog := filepath.Join(opt.data, "mount.log")
	args := append([]string{"mount", "--foreground", "--log-level", opt.logLevel, "--wait", devStartWait.String()}, opt.mountArgs...)
	state.MountPID, err = children.start(mountLog, append(args, state.cluster(), state.Dir)...)
	if err != nil {
		return err
	}
	if err := writeDevState(opt.data, state); err != nil {
		return err
	}
	if err := awaitDevMount(startCtx, opt.data, state, &children); err != nil || ctx.Err() != nil {
		return err
	}
	release()
	banner := devBanner(opt.data, state)
	ready.ready(banner)
	if _, err := io.WriteString(out, banner); err != nil {
		return err
	}
	return children.watch(ctx, out)
}

// awaitDevMount waits until the mount is there and a majority of the nodes runs, or ctx has been interrupted.
func awaitDevMount(ctx context.Context, data string, state *devState, children *devChildren) error {
	for !fuse.Mounted(state.Dir) {
		select {
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return errors.New(errors.KindTimeout, "the mount was not ready within %s; see the logs in %s", devStartWait, data)
			}
			return nil
		case dead := <-children.died():
			return errors.New(errors.KindIO, "%s ended: %s\nits log, %s, ends with:\n%s", dead.what, dead.state, dead.log, tailOf(dead.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return checkDev(data, state)
}

// prepareDev reads the state of an earlier start, or makes a first one.
func prepareDev(opt devOptions) (*devState, error) {
	state, err := readDevState(opt.data)
	if os.IsNotExist(err) {
		state, err = newDevState(opt)
	}
	if err != nil {
		return nil, err
	}
	state.Dir = opt.dir
	for _, n := range state.Nodes {
		l, err := net.Listen("tcp", n.Address)
		if err != nil {
			return nil, errors.New(errors.KindBusy, "node %s's address %s is in use by %s (%w); stop that, or start afresh with another --data (a cluster keeps the addresses of its first start)",
				n.ID, n.Address, listener(n.Address), err)
		}
		_ = l.Close()
	}
	return state, nil
}

// clearStaleMount detaches a dfs mount at dir whose daemon is dead.
func clearStaleMount(dir string) error {
	if !fuse.Mounted(dir) {
		return nil
	}
	var st syscall.Statfs_t // stat may be answered by what the kernel still knows of a dead mount
	if err := syscall.Statfs(dir, &st); err == syscall.ENOTCONN || err == syscall.ECONNABORTED {
		return fuse.Unmount(dir, true)
	}
	return errors.New(errors.KindBusy, "%s is already a dfs mount; unmount it first (dfs umount %s)", dir, dir)
}

// checkDev is the error of a cluster most of whose nodes have ended.
func checkDev(data string, s *devState) error {
	if dead := s.dead(); 2*len(dead) >= len(s.Nodes) {
		return errors.New(errors.KindUnavailable, "the dev cluster in %s is not ready: node %s ended, and a majority must run; stop it (dfs dev stop --data %s) and start it again",
			data, strings.Join(dead, ", "), data)
	}
	return nil
}

func devBanner(data string, s *devState) string {
	var b strings.Builder
	self, err := os.Executable()
	if err != nil {
		self = "dfs"
	}
	var rows strings.Builder
	dead := s.dead()
	for _, n := range s.Nodes {
		process := fmt.Sprintf("pid %d", n.PID)
		if slices.Contains(dead, n.ID) {
			process = "NOT RUNNING"
		}
		fmt.Fprintf(&rows, "  node %s   %-21s %-11s log %s\n", n.ID, n.Address, process, n.Log)
	}
	switch {
	case len(dead) == 0:
		fmt.Fprintf(&b, "\ndfs is ready.\n\n")
	case 2*len(dead) < len(s.Nodes):
		fmt.Fprintf(&b, "\ndfs is ready, but without node %s; to have all nodes again, stop it (below) and start it.\n\n", strings.Join(dead, ", "))
	default:
		fmt.Fprintf(&b, "\ndfs is NOT ready: node %s ended, and a majority must run; stop it (below) and start it again.\n\n", strings.Join(dead, ", "))
	}
	fmt.Fprintf(&b, "  mount    %s\n  cluster  %s\n%s", s.Dir, s.cluster(), rows.String())
	fmt.Fprintf(&b, "  data     %s\n\ntry\n", data)
	fmt.Fprintf(&b, "  echo hello > %s/hello && cat %s/hello\n", s.Dir, s.Dir)
	fmt.Fprintf(&b, "  %s status %s\n", self, s.cluster())
	if len(dead) == 0 {
		fmt.Fprintf(&b, "  kill -9 %d                      # one node: the mount goes on\n", s.Nodes[0].PID)
	}
	fmt.Fprintf(&b, "  %s dev mount --data %s /tmp/second   # a second, independent mount\n", self, data)
	fmt.Fprintf(&b, "stop\n  %s dev stop --data %s   (or Ctrl-C where it runs in the foreground)\n\n", self, data)
	return b.String()
}

func mountDev(ctx context.Context, data, dir string, out io.Writer) error {
	data, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	state, err := readDevState(data)
	if err != nil {
		return errors.New(errors.KindNotExist, "no dev cluster in %s (%w); start one first: dfs dev --data %s", data, err, data)
	}
	if err := clearStaleMount(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return errors.New(errors.KindOf(err), "the mount point %s cannot be made: %w", dir, err)
	}
	state.rememberMount(data, dir)
	log := filepath.Join(data, mountFileName(dir, ".log"))
	return background(ctx, []string{"mount", state.cluster(), dir}, log, out)
}
