package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"dfs/internal/errors"
	"dfs/posixclient"
)

func newShellCommand() *cobra.Command {
	return fileCommand("shell", "a console with file descriptors: open, read, write, seek, close …",
		`  dfs shell                       # two of them side by side: what one writes, the other reads
  printf 'open /f rw,creat\nwrite 3 hello\nclose 3\n' | dfs shell`, noArgs,
		func(c *cobra.Command, client *posixclient.Client, _ []string) error {
			s := &shell{client: client, out: c.OutOrStdout(), files: map[int]*posixclient.File{}, cwd: "/"}
			defer s.closeAll()
			if in, ok := c.InOrStdin().(*os.File); ok && term.IsTerminal(int(in.Fd())) {
				return s.interactive(c.Context(), in)
			}
			return untilStopped(c.Context(), func() error { return s.script(c.InOrStdin()) })
		})
}

// firstDescriptor is the lowest number that open gives, as in a process.
const firstDescriptor = 3

// shell is a console over the client library.
type shell struct {
	client *posixclient.Client
	out    io.Writer
	files  map[int]*posixclient.File
	cwd    string
}

// untilStopped runs f, which may wait for input, and gives up waiting for it when ctx ends (a signal).
func untilStopped(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New(errors.KindInterrupted, "interrupted")
	}
}

// keys is what is typed, with Ctrl-C turned into what empties the line and asks anew: a Terminal takes it for the end.
type keys struct {
	in   io.Reader
	left []byte
}

// clearLine goes to the end of the line (Ctrl-E), removes all before it (Ctrl-U) and ends it.
const clearLine = "\x05\x15\r"

// Read implements io.Reader.
func (k *keys) Read(p []byte) (int, error) {
	if len(k.left) == 0 {
		n, err := k.in.Read(p)
		if err != nil {
			return 0, err
		}
		k.left = bytes.ReplaceAll(p[:n], []byte{3}, []byte(clearLine))
	}
	n := copy(p, k.left)
	k.left = k.left[n:]
	return n, nil
}

// interactive reads commands from a terminal; errors are shown and it goes on.
func (s *shell) interactive(ctx context.Context, in *os.File) error {
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return err
	}
	defer func() { _ = term.Restore(int(in.Fd()), state) }()
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{&keys{in: in}, os.Stdout}, "dfs> ")
	s.out = t
	s.print("type help for the commands, exit or Ctrl-D to leave\n")
	return untilStopped(ctx, func() error { return s.lines(t) })
}

// lines runs what is typed until its end.
func (s *shell) lines(t *term.Terminal) error {
	for {
		if width, height, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 0 {
			_ = t.SetSize(width, height)
		}
		line, err := t.ReadLine()
		if err == io.EOF {
			s.print("\n")
			return nil
		}
		if err == term.ErrPasteIndicator {
			err = nil
		}
		if err != nil {
			return err
		}
		done, err := s.run(line)
		if err != nil {
			s.print("%v\n", err)
		}
		if done {
			return nil
		}
	}
}

// script reads commands from a pipe or file; the first error ends it.
func (s *shell) script(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 4<<20)
	for n := 1; lines.Scan(); n++ {
		done, err := s.run(lines.Text())
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if done {
			return nil
		}
	}
	return lines.Err()
}

func (s *shell) print(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

func (s *shell) closeAll() {
	for _, f := range s.files {
		_ = f.Close()
	}
}

// shellCommand is one word of the console.
type shellCommand struct {
	name, args, help string
	least, most      int // arguments
	run              func(s *shell, args []string) error
}

// shellCommands are the console's words, in the order help shows them.
func shellCommands() []shellCommand {
	return []shellCommand{
		{"open", "FILE [FLAGS [MODE]]", "open; prints the descriptor. FLAGS: r, w, rw, creat, excl, trunc, append, …", 1, 3, (*shell).open},
		{"close", "FD", "close", 1, 1, (*shell).close},
		{"read", "FD [COUNT]", "read COUNT bytes (default 4096) at the offset", 1, 2, (*shell).read},
		{"write", "FD TEXT…", "write TEXT at the offset; \\n and \\t are understood", 2, 1 << 20, (*shell).write},
		{"seek", "FD OFFSET [set|cur|end|data|hole]", "move the offset", 2, 3, (*shell).seek},
		{"trunc", "FD SIZE", "set the size", 2, 2, (*shell).truncate},
		{"sync", "[FD]", "make a file, or everything, durable", 0, 1, (*shell).sync},
		{"fds", "", "list the open descriptors", 0, 0, (*shell).descriptors},
		{"ls", "[PATH]", "list a directory", 0, 1, func(s *shell, a []string) error { return list(s.out, s.client, s.path(arg(a, 0, ".")), true) }},
		{"cd", "DIR", "change the directory", 1, 1, (*shell).chdir},
		{"cat", "FILE", "print a file", 1, 1, (*shell).cat},
		{"mkdir", "DIR", "make a directory", 1, 1, func(s *shell, a []string) error { return s.client.Mkdir(s.path(a[0]), 0o755) }},
		{"rm", "PATH", "remove a file or an empty directory", 1, 1, func(s *shell, a []string) error { return s.client.Remove(s.path(a[0])) }},
		{"mv", "OLD NEW", "rename", 2, 2, func(s *shell, a []string) error { return s.client.Rename(s.path(a[0]), s.path(a[1])) }},
		{"ln", "TARGET NAME", "make a symbolic link", 2, 2, func(s *shell, a []string) error { return s.client.Symlink(a[0], s.path(a[1])) }},
	}
}

func arg(args []string, i int, def string) string {
	if i < len(args) {
		return args[i]
	}
	return def
}

// run runs one line; done after exit.
func (s *shell) run(line string) (done bool, err error) {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return false, nil
	}
	switch words[0] {
	case "exit", "quit":
		return true, nil
	case "help", "?":
		for _, c := range shellCommands() {
			s.print("  %-40s %s\n", c.name+" "+c.args, c.help)
		}
		s.print("  %-40s %s\n", "exit", "leave")
		return false, nil
	}
	for _, c := range shellCommands() {
		if c.name != words[0] {
			continue
		}
		if n := len(words) - 1; n < c.least || n > c.most {
			return false, usageError{fmt.Errorf("usage: %s %s", c.name, c.args)}
		}
		if c.name == "write" { // the text keeps its spaces
			text := strings.TrimLeft(strings.TrimPrefix(strings.TrimLeft(line, " \t"), "write"), " \t")
			text = strings.TrimLeft(strings.TrimPrefix(text, words[1]), " \t")
			return false, c.run(s, []string{words[1], text})
		}
		return false, c.run(s, words[1:])
	}
	return false, usageError{fmt.Errorf("unknown command %q; type help", words[0])}
}

// path makes a path absolute.
func (s *shell) path(p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return strings.TrimRight(s.cwd, "/") + "/" + p
}

func (s *shell) file(word string) (*posixclient.File, error) {
	fd, err := strconv.Atoi(word)
	if err != nil {
		return nil, usageError{fmt.Errorf("descriptor %q: want a number that open gave", word)}
	}
	f := s.files[fd]
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is not open", fd)
	}
	return f, nil
}

func (s *shell) open(args []string) error {
	flags, err := parseOpenFlags(arg(args, 1, "r"))
	if err != nil {
		return err
	}
	mode, err := parseMode(arg(args, 2, "0644"))
	if err != nil {
		return err
	}
	f, err := s.client.Open(s.path(args[0]), flags, mode)
	if err != nil {
		return err
	}
	fd := firstDescriptor
	for s.files[fd] != nil {
		fd++
	}
	s.files[fd] = f
	s.print("%d\n", fd)
	return nil
}

func (s *shell) close(args []string) error {
	f, err := s.file(args[0])
	if err != nil {
		return err
	}
	fd, _ := strconv.Atoi(args[0])
	delete(s.files, fd)
	return f.Close()
}

func (s *shell) read(args []string) error {
	f, err := s.file(args[0])
	if err != nil {
		return err
	}
	n, err := parseSize(arg(args, 1, "4096"))
	if err != nil {
		return err
	}
	buf := make([]byte, min(n, 1<<20))
	got, err := f.Read(buf)
	if err == io.EOF {
		s.print("(end of file)\n")
		return nil
	}
	if err != nil {
		return err
	}
	text := string(buf[:got])
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	s.print("%s", text)
	return nil
}

func (s *shell) write(args []string) error {
	f, err := s.file(args[0])
	if err != nil {
		return err
	}
	text := strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`).Replace(args[1])
	n, err := f.Write([]byte(text))
	if err == nil {
		s.print("%d bytes\n", n)
	}
	return err
}

func (s *shell) seek(args []string) error {
	f, err := s.file(args[0])
	if err != nil {
		return err
	}
	off, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return usageError{fmt.Errorf("offset %q: want a number", args[1])}
	}
	whence := slices.Index([]string{"set", "cur", "end", "data", "hole"}, arg(args, 2, "set"))
	if whence < 0 {
		return usageError{fmt.Errorf("%q: want set, cur, end, data or hole", args[2])}
	}
	at, err := f.Seek(off, whence)
	if err == nil {
		s.print("%d\n", at)
	}
	return err
}

func (s *shell) truncate(args []string) error {
	f, err := s.file(args[0])
	if err != nil {
		return err
	}
	size, err := parseSize(args[1])
	if err != nil {
		return err
	}
	return f.Truncate(size)
}

func (s *shell) sync(args []string) error {
	if len(args) == 0 {
		return s.client.Sync()
	}
	f, err := s.file(args[0])
	if err != nil {
		return err
	}
	return f.Sync()
}

func (s *shell) descriptors([]string) error {
	var fds []int
	for fd := range s.files {
		fds = append(fds, fd)
	}
	slices.Sort(fds)
	for _, fd := range fds {
		f := s.files[fd]
		info, err := f.Stat()
		if err != nil {
			return err
		}
		off, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		s.print("%d  %s  inode %d  offset %d  size %d\n", fd, f.Name(), f.Ino(), off, info.Size())
	}
	return nil
}

func (s *shell) chdir(args []string) error {
	p := s.path(args[0])
	info, err := s.client.Stat(p)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", p)
	}
	s.cwd = p
	return nil
}

func (s *shell) cat(args []string) error {
	b, err := s.client.ReadFile(s.path(args[0]))
	if err != nil {
		return err
	}
	s.print("%s", b)
	return nil
}
