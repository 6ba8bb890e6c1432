package command

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// terminal is a pseudo-terminal with a dfs command on it.
type terminal struct {
	t    *testing.T
	keys *os.File
	cmd  *exec.Cmd
	done chan struct{}

	mu     sync.Mutex
	screen strings.Builder // everything that was shown
	seen   int             // of it, by shows
}

// newTerminal is a terminal with a dfs shell that waits for a command.
func newTerminal(t *testing.T, c *harness.Cluster) *terminal {
	t.Helper()
	s := startTerminal(t, "shell", "-c", c.Addresses())
	s.shows("dfs> ")
	return s
}

func startTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 200}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	s := &terminal{t: t, keys: master, cmd: exec.Command(harness.Binary(t), args...), done: make(chan struct{})}
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go s.watch()
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.done
		_ = master.Close()
	})
	return s
}

func (s *terminal) watch() {
	buf := make([]byte, 4096)
	for {
		n, err := s.keys.Read(buf)
		if err != nil {
			return // the last user of the other side is gone
		}
		s.mu.Lock()
		s.screen.Write(buf[:n])
		s.mu.Unlock()
	}
}

// types presses keys.
func (s *terminal) types(keys string) {
	s.t.Helper()
	if _, err := s.keys.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// shows waits until text comes on the screen, behind what was waited for before.
func (s *terminal) shows(text string) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		s.mu.Lock()
		screen := s.screen.String()
		at := strings.Index(screen[s.seen:], text)
		if at >= 0 {
			s.seen += at + len(text)
		}
		s.mu.Unlock()
		if at >= 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%q does not come; the screen: %q", text, screen[s.seen:])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// ends waits for the end of the command.
func (s *terminal) ends(code int) {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.t.Fatal("the command does not end")
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit %d, want %d; the screen: %q", got, code, s.screen.String())
	}
}

// TestShellOnTerminal: prompt, help, line editing, history, Ctrl-C, Ctrl-D; what one shell writes the other one reads.
func TestShellOnTerminal(t *testing.T) {
	c := harness.Start(t, harness.Options{Nodes: 1, Args: []string{"--allow-ids", "all"}})
	a, b := newTerminal(t, c), newTerminal(t, c)
	a.types("help\r")
	a.shows("  open FILE [FLAGS [MODE]] ")
	a.shows("  exit ")
	a.shows("\r\ndfs> ")
	a.types("opne /f rw,creat\x1b[D\x1b[D\x01\x1b[C\x1b[C\x1b[C\x1b[C\x7f\x7fen\r") // Left, Left, Ctrl-A, Right four times, Backspace twice
	a.shows("\r\n3\r\n")
	a.types("write 3 hello\r")
	a.shows("5 bytes")
	a.types("\x1b[A\r") // the line before, again
	a.shows("5 bytes")
	b.types("open /f\r")
	b.shows("\r\n3\r\n")
	b.types("read 3\r")
	b.shows("hellohello")
	b.types("rm /f\x03") // taken back
	b.shows("dfs> ")
	b.types("ls\r")
	b.shows(" f\r\n")
	b.types("nonsense\r")
	b.shows(`unknown command "nonsense"; type help`)
	b.types("read 9\r")
	b.shows("descriptor 9 is not open")
	b.shows("dfs> ")
	b.types("\x04")
	b.ends(0)
	a.types("exit\r")
	a.ends(0)
	s := newTerminal(t, c)
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.ends(1)
	s.shows("interrupted")
}
