package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"dfs/fuse"
)

// mountMemoryBytes is what a mount's process may use beside its cache.
const mountMemoryBytes = 64 << 20

type mountFlags struct {
	foreground  bool
	options     []string
	cache       string
	cacheBlocks int
	wait        time.Duration
	lease       time.Duration
	quorumWait  time.Duration
	stuckAfter  time.Duration
	logFile     string
	logLevel    string
	trace       bool
	onlyMe      bool
	sloppy      bool
	remount     bool // only the kernel's flags change
	debug       string
	via         string // the nodes whose file service is used; viaSource: CLUSTER's
}

// viaSource is the value of via that stands for the nodes that CLUSTER names.
const viaSource = "*"

func newMountCommand() *cobra.Command {
	var f mountFlags
	c := &cobra.Command{
		Use:   "mount CLUSTER DIR | mount --via NODE,NODE DIR",
		Short: "mount a cluster at DIR",
		Long: `Mount the file system of a cluster at DIR. CLUSTER is a list of addresses, host:port,host:port,…,
of any of its nodes. The mount goes on in the background once it is ready; --foreground keeps it here.

With --via the mount is a thin client: it holds no blocks, no locks and no cache, and each call goes to the file service of
one of these nodes, of another when that fails. The nodes check every permission and take the user for nobody unless they were started with
--allow-ids. For machines that should not, or cannot, reach the blocks; slower, as nothing is cached.

In /etc/fstab, with mount.dfs in /sbin (a link to dfs):
  10.0.0.1:7470,10.0.0.2:7470  /mnt/dfs  dfs  _netdev,cache=1G  0 0
  10.0.0.1:7470,10.0.0.2:7470  /mnt/dfs  dfs  _netdev,via        0 0   (or via=NODE, once for each)`,
		Example: "  dfs mount 127.0.0.1:7470 /mnt/dfs\n  dfs mount --cache 1G -o ro 10.0.0.1:7470,10.0.0.2:7470 /mnt/dfs\n  dfs mount --via 10.0.0.1:7470,10.0.0.2:7470 /mnt/dfs",
		Args: func(c *cobra.Command, args []string) error {
			if f.via != "" && len(args) == 1 {
				return nil
			}
			return exactArgs(2)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				args = []string{f.via, args[0]}
			}
			if c.Flags().Changed("cache-blocks") && f.cacheBlocks == 0 { // which stands for none given
				return usageError{fmt.Errorf("--cache-blocks 0: the least is 1")}
			}
			return runMount(c.Context(), f, args[0], args[1], c.OutOrStdout())
		},
	}
	c.Flags().BoolVarP(&f.foreground, "foreground", "f", false, "stay in the foreground; Ctrl-C unmounts")
	c.Flags().StringArrayVarP(&f.options, "option", "o", nil, "mount options as in fstab: ro, nosuid, nodev, noexec, noatime, sync, dirsync, cache=SIZE, lease=TIME, quorum-wait=TIME, …")
	c.Flags().StringVar(&f.via, "via", "", "mount through the file service of these nodes, host:port,host:port,…, as a thin client")
	c.Flags().StringVar(&f.cache, "cache", "256M", "memory for cached blocks, 4K at least")
	c.Flags().IntVar(&f.cacheBlocks, "cache-blocks", 0, "the same as a number of 4 KiB blocks; 1 is the least")
	c.Flags().DurationVar(&f.wait, "wait", 30*time.Second, "how long to wait for the cluster")
	c.Flags().DurationVar(&f.lease, "lease", 0, "the lease to ask for (default: the cluster's, 10s)")
	c.Flags().DurationVar(&f.quorumWait, "quorum-wait", time.Minute, "how long a call waits when too few nodes answer, before it fails with EIO; 0: for ever")
	c.Flags().DurationVar(&f.stuckAfter, "stuck-after", 15*time.Minute, "age at which a request counts as stuck and the mount is turned into errors; 0: never")
	c.Flags().StringVar(&f.logFile, "log", "", "log file of a background mount (default: /var/log/dfs/…, or ~/.local/state/dfs/… for users)")
	c.Flags().StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	c.Flags().BoolVar(&f.onlyMe, "only-me", false, "keep other users (root too) out")
	c.Flags().BoolVar(&f.sloppy, "sloppy", false, "ignore unknown mount options, as mount -s does")
	_ = c.Flags().MarkHidden("sloppy")
	addDebugFlag(c, &f.debug)
	c.Flags().BoolVar(&f.trace, "trace", false, "log every request of the kernel")
	return c
}

// mountHelperArgs turns what mount(8) passes to mount.dfs (SOURCE DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE])
// into dfs mount's arguments; !ok if only a pretended mount (-f) is asked for.
func mountHelperArgs(args []string) (out []string, ok bool) {
	ok = true
	for i := 0; i < len(args); i++ {
		switch {
		case args[i] == "-o" && i+1 < len(args):
			i++
			out = append(out, "-o", args[i])
		case (args[i] == "-t" || args[i] == "-N") && i+1 < len(args):
			i++
		case args[i] == "-h" || args[i] == "--help":
			out = append(out, args[i])
		case strings.HasPrefix(args[i], "-"):
			ok = ok && !strings.Contains(args[i], "f")
			if strings.Contains(args[i], "s") {
				out = append(out, "--sloppy")
			}
		default:
			out = append(out, args[i])
		}
	}
	return out, ok
}

// mountOptionFlags are the MS_* flags that fstab's words stand for.
var mountOptionFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC,
}

// mountOptionIgnored are words that say what is so anyway, or are for others.
var mountOptionIgnored = map[string]bool{"rw": true, "suid": true, "dev": true, "exec": true, "atime": true, "relatime": true, "diratime": true, "lazytime": true, "nolazytime": true, "async": true,
	"auto": true, "noauto": true, "user": true, "nouser": true, "users": true, "nofail": true, "_netdev": true, "defaults": true, "allow_other": true, "default_permissions": true}

// parseOptions applies -o words to the command's flags.
func (f *mountFlags) parseOptions() (flags uintptr, err error) {
	for _, list := range f.options {
		for _, word := range strings.Split(list, ",") {
			key, value, _ := strings.Cut(word, "=")
			switch {
			case mountOptionFlags[key] != 0:
				flags |= mountOptionFlags[key]
			case word == "" || mountOptionIgnored[key] || strings.HasPrefix(word, "x-") || strings.HasPrefix(word, "comment="):
			case word == "remount":
				f.remount = true
			case key == "cache":
				f.cache = value
			case key == "log":
				f.logFile = value
			case word == "via":
				f.via = viaSource
			case key == "via":
				f.via = strings.TrimPrefix(f.via+","+value, ",")
			case key == "lease", key == "quorum-wait", key == "wait", key == "stuck-after":
				d, derr := time.ParseDuration(value)
				if derr != nil {
					return 0, usageError{fmt.Errorf("mount option %s: %w", word, derr)}
				}
				*map[string]*time.Duration{"lease": &f.lease, "quorum-wait": &f.quorumWait, "wait": &f.wait, "stuck-after": &f.stuckAfter}[key] = d
			case !f.sloppy:
				return 0, usageError{fmt.Errorf("unknown mount option %q; known are %s, cache=SIZE, lease=TIME, quorum-wait=TIME, wait=TIME, stuck-after=TIME, log=FILE, via, via=NODE, and fstab's own such as _netdev, noauto, nofail",
					word, strings.Join(slices.Sorted(maps.Keys(mountOptionFlags)), ", "))}
			}
		}
	}
	return flags, nil
}

// mountPlan is what the flags and arguments of dfs mount come to.
type mountPlan struct {
	mountFlags
	source, dir string // dir is absolute
	addrs       []string
	flags       uintptr // MS_*
	cacheBytes  int64
}

func (f *mountFlags) plan(source, dir string) (p *mountPlan, err error) {
	p = &mountPlan{source: source}
	if p.flags, err = f.parseOptions(); err != nil {
		return nil, err
	}
	p.mountFlags = *f // the options changed them
	nodes := source
	if f.via != "" && f.via != viaSource {
		nodes = f.via
	}
	if p.addrs, err = clusterAddrs(nodes); err != nil {
		return nil, err
	}
	if p.cacheBytes, err = parseSize(f.cache); err != nil {
		return nil, err
	}
	switch {
	case f.via != "":
		p.cacheBytes = 0
	case f.cacheBlocks > 0:
		p.cacheBytes = int64(f.cacheBlocks) * 4096
	case p.cacheBytes < 4096:
		return nil, usageError{fmt.Errorf("--cache %s holds no block of 4 KiB, and a mount cannot do without one; the least is --cache-blocks 1", f.cache)}
	}
	if f.lease < 0 || f.quorumWait < 0 || f.wait < 0 || f.cacheBlocks < 0 {
		return nil, usageError{fmt.Errorf("times and sizes must not be negative")}
	}
	if dir == "" { // which Abs takes for the working directory
		return nil, usageError{fmt.Errorf("no mount point: its name is empty")}
	}
	p.dir, err = filepath.Abs(dir)
	return p, err
}

func runMount(ctx context.Context, f mountFlags, source, dir string, out io.Writer) error {
	p, err := f.plan(source, dir)
	if err != nil {
		return err
	}
	if p.remount {
		return remount(p)
	}
	if line := takeLifeline(); line != nil {
		defer line.Close() // the nodes of dfs dev end after this process
	}
	ready := newReadiness()
	if !f.foreground && !ready.daemon() {
		if err := fuse.CheckMountPoint(p.dir); err != nil {
			return err
		}
		log := p.logFile
		if log == "" {
			log = defaultLog(p.dir)
		}
		return background(ctx, os.Args[1:], log, out)
	}
	log, err := newLogger(p.logLevel)
	if err != nil {
		return ready.failed(err)
	}
	if err := fuse.CheckMountPoint(p.dir); err != nil {
		return ready.failed(err)
	}
	if err := serveDebug(p.debug); err != nil {
		return ready.failed(err)
	}
	debug.SetMemoryLimit(p.cacheBytes + mountMemoryBytes)
	debug.SetGCPercent(50)
	m, server, err := p.mount(ctx, log)
	if err != nil {
		return ready.failed(err)
	}
	log.Info("mounted", "cluster", source, "dir", p.dir)
	ready.ready(fmt.Sprintf("mounted at %s\n", p.dir))
	return serveMount(ctx, m, server)
}

// sessionFile is where a mount at dir remembers its session across a crash.
func sessionFile(dir string) string { return mountFile(dir, "/var/lib/dfs", ".json", "") }

// defaultLog is where a background mount logs.
func defaultLog(dir string) string {
	return mountFile(dir, "/var/log/dfs", ".log", filepath.Join(os.TempDir(), "dfs-"+mountFileName(dir, ".log")))
}

// mountFileName names a file after a mount point, an absolute path: no two share one.
func mountFileName(dir, suffix string) string { return "mount" + escapePath(dir) + suffix }

// escapedMax is the length to which an escaped path is shortened: a file name has 255 bytes at most.
const escapedMax = 200

// escapePath makes a path a part of a file name, as systemd does: / becomes -, which itself is escaped. The end of a long path
// stands for itself only in a hash.
func escapePath(path string) string {
	name := strings.NewReplacer(`\`, `\x5c`, "-", `\x2d`, "/", "-").Replace(path)
	if len(name) > escapedMax {
		sum := sha256.Sum256([]byte(path))
		name = fmt.Sprintf("%s\\%x", name[:escapedMax-33], sum[:16]) // an escape goes on with x
	}
	return name
}

// mountFile is a file of the mount at dir: below rootDir for root, below the home directory for users, and
// homeless for a user without one.
func mountFile(dir, rootDir, suffix, homeless string) string {
	if os.Geteuid() == 0 {
		return filepath.Join(rootDir, mountFileName(dir, suffix))
	}
	home, err := os.UserHomeDir()
	if err == nil {
		_, err = os.Stat(home) // some users have one in name only
	}
	if err != nil {
		return homeless
	}
	return filepath.Join(home, ".local", "state", "dfs", mountFileName(dir, suffix))
}
