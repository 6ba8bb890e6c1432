package command

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// result is what one run of the command gave.
type result struct {
	code        int
	out, errors string
}

// dfs runs the command, which must end within a minute.
func dfs(t *testing.T, in string, env []string, args ...string) result {
	t.Helper()
	return run(t, in, env, harness.Binary(t), args...)
}

func run(t *testing.T, in string, env []string, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(in)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %q did not end", name, args)
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func TestBadUsage(t *testing.T) {
	dir := t.TempDir()
	full, file := filepath.Join(dir, "full"), filepath.Join(dir, "file")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	nowhere := "127.0.0.1:1"
	for _, tt := range []struct {
		args string
		code int
		says string // a regular expression
	}{
		{"bogus", 2, `unknown command "bogus"`},
		{"--bogus", 2, `unknown flag: --bogus`},
		{"ls --bogus", 2, `unknown flag.*dfs ls --help`},
		{"node bogus", 2, `unknown command`},
		{"ls", 2, `no cluster given: use --cluster .* or set DFS_CLUSTER`},
		{"status", 2, `no cluster given`},
		{"ls -c nonsense /", 2, `"nonsense" is not host:port`},
		{"ls -c a:1,a:1 /", 2, `given twice`},
		{"ls -c a:99999 /", 2, `not a number from 1 to 65535`},
		{"ls --wait 100ms -c " + nowhere, 3, `connection refused.*check that they run`},
		{"shell --wait 100ms -c " + nowhere, 3, `connection refused`},
		{"status " + nowhere, 3, `no leader: 0 of 1 nodes answer`},
		{"fsck " + nowhere, 3, `no node answers`},
		{"compare " + nowhere, 3, `127.0.0.1:1 does not answer`},
		{"scrub " + nowhere, 3, `does not answer`},
		{"mount " + nowhere, 2, `accepts 2 arg\(s\), received 1; usage: dfs mount CLUSTER DIR`},
		{"mount " + nowhere + " " + dir + "/none", 1, `does not exist; create it`},
		{"mount " + nowhere + " " + full, 1, `not empty \(it holds "x"\)`},
		{"mount " + nowhere + " " + file, 1, `not a directory`},
		{"mount " + nowhere + " /proc", 1, `already a mount point \(proc\)`},
		{"mount -o nonsense " + nowhere + " " + dir, 2, `unknown mount option "nonsense"; known are`},
		{"mount -o lease=soon " + nowhere + " " + dir, 2, `mount option lease=soon`},
		{"mount --cache 12x " + nowhere + " " + dir, 2, `size "12x"`},
		{"mount --cache -1 " + nowhere + " " + dir, 2, `size "-1"`},
		{"mount --cache 0 " + nowhere + " " + dir, 2, `--cache 0 holds no block .* the least is --cache-blocks 1`},
		{"mount --cache 4095 " + nowhere + " " + dir, 2, `--cache 4095 holds no block`},
		{"mount -o cache=0 " + nowhere + " " + dir, 2, `--cache 0 holds no block`},
		{"mount --cache-blocks 0 " + nowhere + " " + dir, 2, `--cache-blocks 0: the least is 1`},
		{"mount --cache 0 --cache-blocks 1 --foreground --wait 100ms " + nowhere + " " + full + "/x", 3, `cannot mount`},
		{"mount --cache 0 --via " + nowhere + " --foreground --wait 100ms " + full + "/x", 3, `cannot mount`},
		{"umount " + dir, 1, `is not a dfs mount point`},
		{"server", 2, `--id and --data are needed`},
		{"server --id a --data " + dir + "/d --listen 0.0.0.0:7000", 2, `needs --insecure-listen`},
		{"server --id a --data " + dir + "/d --listen 7000", 2, `want host:port`},
		{"server --id a --data " + dir + "/d --allow-ids 1,b", 2, `--allow-ids "1,b"`},
		{"server --id a --data " + dir + "/d --bootstrap a", 2, `want a=host:port`},
		{"server --id a --data " + dir + "/d --bootstrap a=b:1,a=c:1", 2, `names node a twice`},
		{"server --id a --data " + dir + "/d --bootstrap a=b:1 --join c:1", 2, `exclude each other`},
		{"server --id a --data " + dir + "/d --capacity 1", 2, `less than a block`},
		{"server --id a --data " + dir + "/d --log-level loud", 2, `want debug, info, warn or error`},
		{"server --id a --data " + file, 1, `not a directory`},
		{"dev --nodes 0 --data " + dir + "/dev", 2, `--nodes 0`},
		{"dev --data " + file, 1, `not a directory`},
		{"dev mount --data " + dir + "/dev " + dir + "/m", 1, `start one first: dfs dev --data`},
	} {
		r := dfs(t, "", []string{"DFS_CLUSTER="}, strings.Fields(tt.args)...)
		if r.code != tt.code || !regexp.MustCompile("(?s)"+tt.says).MatchString(r.errors) {
			t.Errorf("dfs %s: exit %d, want %d\n%swant: %s", tt.args, r.code, tt.code, r.errors, tt.says)
		}
		if n := strings.Count(r.errors, "\n"); n != 1 {
			t.Errorf("dfs %s: the error has %d lines:\n%s", tt.args, n, r.errors)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range []string{"", "--help", "version", "completion bash", "completion zsh", "completion fish", "node --help"} {
		if r := dfs(t, "", nil, strings.Fields(args)...); r.code != 0 || r.out == "" || r.errors != "" {
			t.Errorf("dfs %s: %+v", args, r)
		}
	}
	commands := subcommands(t)
	if len(commands) < 25 {
		t.Errorf("only %d commands are found: %q", len(commands), commands)
	}
	for _, words := range commands {
		name := strings.Join(words, " ")
		r := dfs(t, "", nil, append(words, "--help")...)
		_, examples, _ := strings.Cut(r.out, "Examples:\n")
		examples, _, _ = strings.Cut(examples, "\n\n")
		if r.code != 0 || !strings.Contains(examples, "dfs "+name) {
			t.Errorf("dfs %s --help has no example of it:\n%s", name, r.out)
		}
	}
	if r := dfs(t, "", nil, "__complete", "no"); !strings.Contains(r.out, "node") {
		t.Errorf("completion of no: %q", r.out)
	}
}

// subcommands lists all commands below the one that words name, as the completion knows them, but for cobra's own.
func subcommands(t *testing.T, words ...string) (all [][]string) {
	t.Helper()
	r := dfs(t, "", nil, append(append([]string{"__complete"}, words...), "")...)
	for _, line := range strings.Split(r.out, "\n") {
		name, _, described := strings.Cut(line, "\t")
		if !described || name == "help" || name == "completion" {
			continue
		}
		sub := append(slices.Clone(words), name)
		all = append(append(all, sub), subcommands(t, sub...)...)
	}
	return all
}

// TestFiles: the file commands against a real node.
func TestFiles(t *testing.T) {
	c := harness.Start(t, harness.Options{Nodes: 1, Args: []string{"--allow-ids", "all"}})
	env := []string{"DFS_CLUSTER=" + c.Addresses()}
	dir := t.TempDir()
	big := bytes.Repeat([]byte("0123456789abcdef"), 200000) // more than one call carries
	if err := os.MkdirAll(dir+"/tree/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/tree/sub/big", big, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		in   string
		args []string
		code int
		out  string // a regular expression of standard output, or of the error if the code is not 0
	}{
		{"", []string{"fsck"}, 0, `the store is empty.*the first mount makes it; 0 problems`},
		{"hello\n", []string{"write", "/f"}, 0, `^$`},
		{"", []string{"read", "/f"}, 0, `^hello\n$`},
		{"", []string{"read", "--offset", "1", "--length", "3", "/f"}, 0, `^ell$`},
		{"", []string{"read", "--offset", "100", "/f"}, 0, `^$`},
		{"", []string{"read", "--offset", "-1", "/f"}, 2, `must not be negative`},
		{"XXYY", []string{"write", "--offset", "2", "--length", "2", "/f"}, 0, `^$`},
		{"more\n", []string{"write", "-a", "/f"}, 0, `^$`},
		{"", []string{"read", "/f"}, 0, `^heXXo\nmore\n$`},
		{"", []string{"write", "--offset", "1", "-a", "/f"}, 2, `exclude each other`},
		{"", []string{"write", "--exclusive", "/f"}, 1, `^dfs: open /f: file exists\n$`},
		{"", []string{"read", "/missing"}, 1, `^dfs: open /missing: no such file or directory\n$`},
		{"", []string{"read", "/"}, 1, `is a directory`},
		{"", []string{"open", "--flags", "rw,creat,excl", "--mode", "0600", "/new"}, 0, `inode   \d+\nmode    -rw------- \(0600\)`},
		{"", []string{"open", "--flags", "nonsense", "/new"}, 2, `open flag "nonsense"`},
		{"", []string{"open", "--mode", "9", "/new"}, 2, `mode "9"`},
		{"", []string{"mkdir", "-p", "/a/b/c"}, 0, `^$`},
		{"", []string{"mkdir", "/a"}, 1, `mkdir /a: file exists`},
		{"", []string{"mv", "/f", "/a"}, 0, `^$`},
		{"", []string{"mv", "-n", "/new", "/a/f"}, 1, `file exists`},
		{"", []string{"mv", "--exchange", "/new", "/a/f"}, 0, `^$`},
		{"", []string{"ls"}, 0, `^a\nnew\n$`},
		{"", []string{"ls", "-l", "/a"}, 0, `drwxr-xr-x .* b\n.*-rw------- .* 0 .* f\n`},
		{"", []string{"ls", "/a", "/missing"}, 1, `/missing: no such file`},
		{"", []string{"stat", "/new"}, 0, `size    11\n`},
		{"", []string{"rm", "/a"}, 1, `is a directory`},
		{"", []string{"rm", "-r", "/a", "/new"}, 0, `^$`},
		{"", []string{"rm", "-r", "/a"}, 1, `no such file`},
		{"", []string{"cp", dir + "/tree", "dfs:/"}, 1, `copy it with -r`},
		{"", []string{"cp", "-r", dir + "/tree", "dfs:/"}, 0, `^$`},
		{"", []string{"cp", "-r", "dfs:/tree", dir + "/back"}, 0, `^$`},
		{"", []string{"cp", "dfs:/nothing", dir}, 1, `no such file`},
		{"open /s rw,creat\nwrite 3  two  words\\n\nseek 3 0\nread 3\nfds\ncd /tree\nls\nclose 3\n", []string{"shell"}, 0,
			`(?s)^3\n11 bytes\n0\ntwo  words\n3  /s  inode \d+  offset \d+  size \d+\n.*sub\n$`},
		{"open /s\nclose 3\nread 3\n", []string{"shell"}, 1, `line 3: descriptor 3 is not open`},
		{"nonsense\n", []string{"shell"}, 2, `line 1: unknown command "nonsense"`},
		{"open\n", []string{"shell"}, 2, `usage: open FILE`},
		{"", []string{"status"}, 0, `(?s)NODE +ADDRESS.*a +127.* leader .*cluster [0-9a-f]+: .* used`},
		{"", []string{"fsck"}, 0, ` 0 problems`},
		{"", []string{"compare"}, 0, `identical`},
		{"", []string{"node", "ls"}, 0, `a +127.* yes +leader`},
		{"", []string{"node", "remove", "a"}, 1, `add a node first, or use --force`},
		{"", []string{"fsck", "--node", "z"}, 1, `no node "z"`},
	} {
		r := dfs(t, tt.in, env, tt.args...)
		text := r.out
		if tt.code != 0 {
			text = r.errors
		}
		if r.code != tt.code || !regexp.MustCompile(tt.out).MatchString(text) {
			t.Errorf("dfs %q: exit %d, want %d\n%s%swant: %s", tt.args, r.code, tt.code, r.out, r.errors, tt.out)
		}
	}
	if back, err := os.ReadFile(dir + "/back/sub/big"); err != nil || !bytes.Equal(back, big) {
		t.Errorf("%d bytes came back: %v", len(back), err)
	}
}

// TestShellsSeeEachOther: what one console writes, another one that was open before reads.
func TestShellsSeeEachOther(t *testing.T) {
	c := harness.Start(t, harness.Options{Nodes: 1, Args: []string{"--allow-ids", "all"}})
	a, b := newConsole(t, c), newConsole(t, c)
	a.say("open /shared rw,creat", "3")
	b.say("open /shared r", "3")
	a.say("write 3 first", "5 bytes")
	b.say("read 3", "first")
	a.say("write 3 second", "6 bytes")
	b.say("read 3", "second")
	b.say("read 3", "(end of file)")
}

// console is a dfs shell that reads from a pipe.
type console struct {
	t   *testing.T
	in  *os.File
	out chan string
}

func newConsole(t *testing.T, c *harness.Cluster) *console {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), "shell", "-c", c.Addresses())
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = in.Close(), out.Close()
	s := &console{t: t, in: w, out: make(chan string, 100)}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			if err != nil {
				return
			}
			s.out <- string(buf[:n])
		}
	}()
	t.Cleanup(func() { _, _ = w.Close(), cmd.Wait() })
	return s
}

// say types a line; the console must answer with want.
func (s *console) say(line, want string) {
	s.t.Helper()
	if _, err := s.in.WriteString(line + "\n"); err != nil {
		s.t.Fatal(err)
	}
	select {
	case got := <-s.out:
		if strings.TrimSpace(got) != want {
			s.t.Errorf("%s: %q, want %q", line, got, want)
		}
	case <-time.After(20 * time.Second):
		s.t.Fatalf("%s: no answer", line)
	}
}
