package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"dfs/posixclient"
)

// clusterVariable names the cluster for commands that are not told one.
const clusterVariable = "DFS_CLUSTER"

// clientFlags are the flags of every command that uses files without a mount.
type clientFlags struct {
	cluster string
	wait    time.Duration
}

func (f *clientFlags) register(c *cobra.Command) {
	c.Flags().StringVarP(&f.cluster, "cluster", "c", os.Getenv(clusterVariable), "the nodes' addresses, host:port,host:port,… (default $"+clusterVariable+")")
	c.Flags().DurationVar(&f.wait, "wait", 30*time.Second, "how long to wait for a node that answers")
}

// dial connects as the calling user.
func (f *clientFlags) dial(ctx context.Context) (*posixclient.Client, error) {
	addrs, err := clusterAddrs(f.cluster)
	if err != nil {
		return nil, err
	}
	opt := posixclient.Options{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Wait: f.wait}
	groups, _ := os.Getgroups()
	for _, g := range groups {
		opt.Groups = append(opt.Groups, uint32(g))
	}
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	opt.Umask = uint32(mask)
	c, err := posixclient.Dial(ctx, addrs, opt)
	if err != nil {
		return nil, err
	}
	return c.WithContext(ctx), nil
}

// clusterAddrs parses a CLUSTER argument.
func clusterAddrs(s string) ([]string, error) {
	if s == "" {
		return nil, usageError{fmt.Errorf("no cluster given: use --cluster host:port,… or set %s", clusterVariable)}
	}
	addrs, err := posixclient.ParseAddrs(s)
	if err != nil {
		return nil, usageError{err}
	}
	return addrs, nil
}

// clusterArg takes CLUSTER from args or the environment.
func clusterArg(args []string) ([]string, error) {
	if len(args) > 0 {
		return clusterAddrs(args[0])
	}
	return clusterAddrs(os.Getenv(clusterVariable))
}

// openFlagNames are the words for O_* flags in `dfs open` and the shell.
var openFlagNames = []struct {
	name string
	flag int
}{
	{"r", os.O_RDONLY}, {"rdonly", os.O_RDONLY}, {"w", os.O_WRONLY}, {"wronly", os.O_WRONLY}, {"rw", os.O_RDWR}, {"rdwr", os.O_RDWR},
	{"creat", os.O_CREATE}, {"create", os.O_CREATE}, {"excl", os.O_EXCL}, {"trunc", os.O_TRUNC}, {"append", os.O_APPEND},
	{"sync", os.O_SYNC}, {"dsync", syscall.O_DSYNC}, {"directory", syscall.O_DIRECTORY}, {"nofollow", syscall.O_NOFOLLOW},
}

// parseOpenFlags turns "rw,creat,trunc" (or O_RDWR|O_CREAT|O_TRUNC) into flags.
func parseOpenFlags(s string) (int, error) {
	flags := 0
	for _, word := range strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return r == ',' || r == '|' }) {
		word = strings.TrimPrefix(strings.TrimSpace(word), "o_")
		known := false
		for _, n := range openFlagNames {
			if n.name == word {
				flags |= n.flag
				known = true
			}
		}
		if !known {
			return 0, usageError{fmt.Errorf("open flag %q: want some of r, w, rw, creat, excl, trunc, append, sync, dsync, directory, nofollow, joined by commas", word)}
		}
	}
	return flags, nil
}

// parseMode reads permission bits in octal.
func parseMode(s string) (os.FileMode, error) {
	bits, err := strconv.ParseUint(s, 8, 32)
	if err != nil || bits > 0o7777 {
		return 0, usageError{fmt.Errorf("mode %q: want octal permission bits, such as 0644", s)}
	}
	m := os.FileMode(bits & 0o777)
	for bit, mode := range map[uint64]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if bits&bit != 0 {
			m |= mode
		}
	}
	return m, nil
}

// parseSize reads a byte count with an optional suffix K, M, G, T (powers of 1024; "iB" may follow).
func parseSize(s string) (int64, error) {
	number := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "B"), "I")
	shift := 0
	if i := strings.IndexAny(number, "KMGT"); i >= 0 && i == len(number)-1 {
		shift = 10 * (1 + strings.IndexByte("KMGT", number[i]))
		number = number[:i]
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, usageError{fmt.Errorf("size %q: want a number of bytes, or one with K, M, G or T such as 256M", s)}
	}
	return n << shift, nil
}

// modeText shows a mode as ls does.
func modeText(mode uint32) string {
	kinds := map[uint32]byte{syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFIFO: 'p', syscall.S_IFSOCK: 's', syscall.S_IFBLK: 'b', syscall.S_IFCHR: 'c'}
	text := []byte("-rwxrwxrwx")
	if k, ok := kinds[mode&syscall.S_IFMT]; ok {
		text[0] = k
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			text[1+i] = '-'
		}
	}
	for _, special := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{syscall.S_ISUID, 3, 's'}, {syscall.S_ISGID, 6, 's'}, {syscall.S_ISVTX, 9, 't'}} {
		if mode&special.bit == 0 {
			continue
		}
		if text[special.at] == '-' {
			special.letter -= 'a' - 'A'
		}
		text[special.at] = special.letter
	}
	return string(text)
}

// stat gives the Stat_t behind a FileInfo of the client library.
func statOf(info os.FileInfo) *syscall.Stat_t {
	st, _ := info.Sys().(*syscall.Stat_t)
	return st
}

// closing closes and keeps the first error.
func closing(err *error, close func() error) {
	if cerr := close(); *err == nil && cerr != nil {
		*err = cerr
	}
}
