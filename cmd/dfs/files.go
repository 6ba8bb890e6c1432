package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dfs/posixclient"
)

// The commands that use files through the client library, without a mount.

// fileCommand makes one: run gets a connected client.
func fileCommand(use, short, example string, args cobra.PositionalArgs, run func(c *cobra.Command, client *posixclient.Client, args []string) error) *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: args,
		RunE: func(c *cobra.Command, args []string) (err error) {
			client, err := flags.dial(c.Context())
			if err != nil {
				return err
			}
			defer closing(&err, client.Close)
			return run(c, client, args)
		},
	}
	flags.register(cmd)
	return cmd
}

func fileCommands() []*cobra.Command {
	return []*cobra.Command{newOpenCommand(), newReadCommand(), newWriteCommand(), newLsCommand(), newStatCommand(),
		newMkdirCommand(), newRmCommand(), newMvCommand(), newCpCommand(), newShellCommand()}
}

func newOpenCommand() *cobra.Command {
	var flagText, modeArg string
	cmd := fileCommand("open FILE", "open a file with POSIX flags and tell the descriptor's facts",
		"  dfs open --flags rw,creat,excl --mode 0600 /notes/new\n  dfs open --flags r /notes/new", exactArgs(1),
		func(c *cobra.Command, client *posixclient.Client, args []string) (err error) {
			flags, err := parseOpenFlags(flagText)
			if err != nil {
				return err
			}
			mode, err := parseMode(modeArg)
			if err != nil {
				return err
			}
			f, err := client.Open(args[0], flags, mode)
			if err != nil {
				return err
			}
			defer closing(&err, f.Close)
			info, err := f.Stat()
			if err != nil {
				return err
			}
			st := statOf(info)
			_, err = fmt.Fprintf(c.OutOrStdout(), "path    %s\nflags   %s (%#o)\ninode   %d\nmode    %s (%#o)\nowner   %d:%d\nlinks   %d\nsize    %d\nblocks  %d of 512 bytes\noffset  0\n",
				args[0], flagText, flags, st.Ino, modeText(st.Mode), st.Mode&0o7777, st.Uid, st.Gid, st.Nlink, st.Size, st.Blocks)
			return err
		})
	cmd.Flags().StringVar(&flagText, "flags", "r", "r, w or rw, and any of creat, excl, trunc, append, sync, dsync, directory, nofollow")
	cmd.Flags().StringVar(&modeArg, "mode", "0644", "permission bits of a file that is created, octal, before the umask")
	return cmd
}

func newReadCommand() *cobra.Command {
	var offset, length int64
	cmd := fileCommand("read FILE", "write a file's bytes to standard output",
		"  dfs read /notes/today\n  dfs read --offset 4096 --length 512 /disk.img", exactArgs(1),
		func(c *cobra.Command, client *posixclient.Client, args []string) (err error) {
			if offset < 0 || length < -1 {
				return usageError{fmt.Errorf("--offset and --length must not be negative")}
			}
			f, err := client.Open(args[0], os.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer closing(&err, f.Close)
			if length < 0 {
				length = 1<<62 - offset
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{c.OutOrStdout()}, io.NewSectionReader(f, offset, length), make([]byte, 1<<20))
			return err
		})
	cmd.Flags().Int64Var(&offset, "offset", 0, "first byte to read")
	cmd.Flags().Int64Var(&length, "length", -1, "bytes to read at most (default: to the end)")
	return cmd
}

func newWriteCommand() *cobra.Command {
	var offset, length int64
	var appending, noTrunc, exclusive bool
	var modeArg string
	cmd := fileCommand("write FILE", "write standard input to a file, durably",
		"  echo hello | dfs write /notes/today\n  dfs write --append /notes/today < more\n  dfs write --offset 4096 /disk.img < sector", exactArgs(1),
		func(c *cobra.Command, client *posixclient.Client, args []string) (err error) {
			mode, err := parseMode(modeArg)
			if err != nil {
				return err
			}
			flags := os.O_WRONLY | os.O_CREATE
			switch {
			case offset < 0 || length < -1:
				return usageError{fmt.Errorf("--offset and --length must not be negative")}
			case appending && c.Flags().Changed("offset"):
				return usageError{fmt.Errorf("--append and --offset exclude each other")}
			case appending:
				flags |= os.O_APPEND
			case !c.Flags().Changed("offset") && !noTrunc:
				flags |= os.O_TRUNC
			}
			if exclusive {
				flags |= os.O_EXCL
			}
			f, err := client.Open(args[0], flags, mode)
			if err != nil {
				return err
			}
			defer closing(&err, f.Close)
			if !appending {
				if _, err := f.Seek(offset, io.SeekStart); err != nil {
					return err
				}
			}
			in := c.InOrStdin()
			if length >= 0 {
				in = io.LimitReader(in, length)
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{in}, make([]byte, 1<<20))
			return err
		})
	cmd.Flags().Int64Var(&offset, "offset", 0, "byte at which to write; the rest of the file stays")
	cmd.Flags().Int64Var(&length, "length", -1, "bytes to write at most (default: all of standard input)")
	cmd.Flags().BoolVarP(&appending, "append", "a", false, "write at the end")
	cmd.Flags().BoolVar(&noTrunc, "no-truncate", false, "keep what lies behind the written bytes")
	cmd.Flags().BoolVar(&exclusive, "exclusive", false, "fail if the file exists")
	cmd.Flags().StringVar(&modeArg, "mode", "0644", "permission bits of a new file, octal, before the umask")
	return cmd
}

func newLsCommand() *cobra.Command {
	var long bool
	cmd := fileCommand("ls [PATH…]", "list directories", "  dfs ls /\n  dfs ls -l /notes", cobra.ArbitraryArgs,
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			if len(args) == 0 {
				args = []string{"/"}
			}
			for i, path := range args {
				if len(args) > 1 {
					sep := ""
					if i > 0 {
						sep = "\n"
					}
					if _, err := fmt.Fprintf(c.OutOrStdout(), "%s%s:\n", sep, path); err != nil {
						return err
					}
				}
				if err := list(c.OutOrStdout(), client, path, long); err != nil {
					return err
				}
			}
			return nil
		})
	cmd.Flags().BoolVarP(&long, "long", "l", false, "with mode, links, owner, size and time")
	return cmd
}

func list(out io.Writer, client *posixclient.Client, path string, long bool) error {
	info, err := client.Lstat(path)
	if err != nil {
		return err
	}
	var infos []os.FileInfo
	inside := info.IsDir()
	if inside {
		entries, err := client.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				return err
			}
			infos = append(infos, info)
		}
	} else {
		infos = append(infos, info)
	}
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 1, ' ', tabwriter.AlignRight)
	for _, info := range infos {
		name := strconv.Quote(info.Name())
		name = name[1 : len(name)-1]
		if !long {
			if _, err := fmt.Fprintln(out, name); err != nil {
				return err
			}
			continue
		}
		st := statOf(info)
		if info.Mode()&os.ModeSymlink != 0 {
			at := path
			if inside {
				at += "/" + info.Name()
			}
			if target, err := client.Readlink(at); err == nil {
				name += " -> " + target
			}
		}
		if _, err := fmt.Fprintf(w, "%s %4d\t%d\t%d\t%d\t%s\t %s\n", modeText(st.Mode), st.Nlink, st.Uid, st.Gid, st.Size,
			info.ModTime().Format("2006-01-02 15:04"), name); err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range bytes.Lines(table.Bytes()) {
		if _, err := out.Write(bytes.TrimLeft(line, " ")); err != nil { // the first column is padded, too
			return err
		}
	}
	return nil
}

func newStatCommand() *cobra.Command {
	return fileCommand("stat FILE", "tell a file's attributes", "  dfs stat /notes/today", exactArgs(1),
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			info, err := client.Lstat(args[0])
			if err != nil {
				return err
			}
			st := statOf(info)
			t := func(ts syscall.Timespec) string { return time.Unix(ts.Sec, ts.Nsec).Format(time.RFC3339Nano) }
			_, err = fmt.Fprintf(c.OutOrStdout(), "path    %s\ninode   %d\nmode    %s (%#o)\nowner   %d:%d\nlinks   %d\nsize    %d\nblocks  %d of 512 bytes\naccess  %s\nmodify  %s\nchange  %s\n",
				args[0], st.Ino, modeText(st.Mode), st.Mode&0o7777, st.Uid, st.Gid, st.Nlink, st.Size, st.Blocks, t(st.Atim), t(st.Mtim), t(st.Ctim))
			return err
		})
}

func newMkdirCommand() *cobra.Command {
	var parents bool
	var modeArg string
	cmd := fileCommand("mkdir DIR", "make a directory", "  dfs mkdir -p /notes/2026", exactArgs(1),
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			mode, err := parseMode(modeArg)
			if err != nil {
				return err
			}
			if parents {
				return client.MkdirAll(args[0], mode)
			}
			return client.Mkdir(args[0], mode)
		})
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make what is missing above it, too; no error if it exists")
	cmd.Flags().StringVar(&modeArg, "mode", "0755", "permission bits, octal, before the umask")
	return cmd
}

func newRmCommand() *cobra.Command {
	var recursive bool
	cmd := fileCommand("rm PATH…", "remove files, and directories with -r", "  dfs rm /notes/old\n  dfs rm -r /build", leastArgs(1),
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			for _, path := range args {
				remove := client.Unlink
				if recursive {
					if _, err := client.Lstat(path); err != nil {
						return err
					}
					remove = client.RemoveAll
				}
				if err := remove(path); err != nil {
					return err
				}
			}
			return nil
		})
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove directories and all below them")
	return cmd
}

func newMvCommand() *cobra.Command {
	var noReplace, exchange bool
	cmd := fileCommand("mv OLD NEW", "rename", "  dfs mv /notes/a /notes/b\n  dfs mv --exchange /live /next", exactArgs(2),
		func(c *cobra.Command, client *posixclient.Client, args []string) error {
			var flags uint32
			if noReplace {
				flags |= posixclient.RenameNoReplace
			}
			if exchange {
				flags |= posixclient.RenameExchange
			}
			to := args[1]
			if info, err := client.Stat(to); err == nil && info.IsDir() && !exchange {
				if from, err := client.Lstat(args[0]); err == nil {
					to += "/" + from.Name()
				}
			}
			return client.Rename2(args[0], to, flags)
		})
	cmd.Flags().BoolVarP(&noReplace, "no-clobber", "n", false, "fail if NEW exists")
	cmd.Flags().BoolVar(&exchange, "exchange", false, "swap the two names atomically")
	return cmd
}
