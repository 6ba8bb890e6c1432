package conformance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// lockerEnv makes this test binary a locker: a process that sets locks as its arguments say and answers with an errno.
const lockerEnv = "DFS_CONFORMANCE_LOCKER"

func TestMain(m *testing.M) {
	if os.Getenv(lockerEnv) != "" {
		locker()
		return
	}
	harness.Main(m)
}

// locker reads commands from standard input: "open NAME", "close N", and "KIND TYPE START LENGTH N", where KIND is posix,
// ofd or flock, with a "w" in front to wait, and N the number of the descriptor.
func locker() {
	var fds []int
	for {
		var kind, arg string
		if _, err := fmt.Scan(&kind, &arg); err != nil {
			return
		}
		switch kind {
		case "open":
			fd, err := unix.Open(arg, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o666)
			fds = append(fds, fd)
			fmt.Println(errno(err))
		case "close":
			var n int
			_, _ = fmt.Sscan(arg, &n)
			fmt.Println(errno(unix.Close(fds[n])))
		default:
			var start, length int64
			var n int
			if _, err := fmt.Scan(&start, &length, &n); err != nil {
				return
			}
			fmt.Println(lockCall(fds[n], kind, arg, start, length))
		}
	}
}

func lockCall(fd int, kind, typ string, start, length int64) string {
	if strings.HasSuffix(kind, "flock") {
		how := map[string]int{"read": unix.LOCK_SH, "write": unix.LOCK_EX, "unlock": unix.LOCK_UN}[typ]
		if kind == "flock" {
			how |= unix.LOCK_NB
		}
		return errno(unix.Flock(fd, how))
	}
	l := unix.Flock_t{Start: start, Len: length, Type: map[string]int16{"read": unix.F_RDLCK, "write": unix.F_WRLCK, "unlock": unix.F_UNLCK}[typ]}
	if typ == "test" {
		l.Type = unix.F_WRLCK
	}
	cmd := map[string]int{"posix": unix.F_SETLK, "wposix": unix.F_SETLKW, "ofd": unix.F_OFD_SETLK, "wofd": unix.F_OFD_SETLKW}[kind]
	if typ == "test" {
		if err := unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &l); err != nil {
			return errno(err)
		}
		return fmt.Sprintf("%d:%d-%d", l.Type, l.Start, l.Len)
	}
	return errno(unix.FcntlFlock(uintptr(fd), cmd, &l))
}

// process is a running locker.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *os.File
	out chan string
	// file is the one that it opens first.
	file, last string
}

func startLocker(t *testing.T) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(exe), out: make(chan string, 10)}
	p.cmd.Env = append(os.Environ(), lockerEnv+"=1")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.cmd.Stdin = w, r
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	go func() {
		for {
			var line string
			if _, err := fmt.Fscanln(out, &line); err != nil {
				close(p.out)
				return
			}
			p.out <- line
		}
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.in.Close()
}

func (p *process) send(command string) {
	p.last = command
	fmt.Fprintln(p.in, command)
}

// answer waits for the answer of a command.
func (p *process) answer() string {
	p.t.Helper()
	select {
	case a := <-p.out:
		return a
	case <-time.After(10 * time.Second):
		p.t.Fatalf("no answer to %q within 10 s", p.last)
	}
	return ""
}

func (p *process) do(command, want string) {
	p.t.Helper()
	p.send(command)
	if got := p.answer(); got != want {
		p.t.Errorf("%s: %s, want %s", command, got, want)
	}
}

// waits sends a command that must not be answered yet.
func (p *process) waits(command string) {
	p.t.Helper()
	p.send(command)
	select {
	case a := <-p.out:
		p.t.Errorf("%s did not wait: %s", command, a)
	case <-time.After(300 * time.Millisecond):
	}
}

// TestFileLocks runs the same locking between two processes in a local directory, on one mount and on two.
func TestFileLocks(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	one, two := c.Mount(), c.Mount()
	local := localDir(t)
	for _, where := range []struct{ name, first, second string }{
		{"local", local, local}, {"one mount", one.Dir, one.Dir}, {"two mounts", one.Dir, two.Dir},
	} {
		t.Run(where.name, func(t *testing.T) {
			for name, f := range map[string]func(a, b *process){"posix": posixLocks, "descriptors": descriptorLocks, "waiting": waitingLocks} {
				t.Run(name, func(t *testing.T) {
					file := strings.ReplaceAll(where.name, " ", "-") + "-" + name
					a, b := startLocker(t), startLocker(t)
					a.file = filepath.Join(where.first, file)
					a.do("open "+filepath.Join(where.first, file), "OK")
					b.do("open "+filepath.Join(where.second, file), "OK")
					f(a, b)
				})
			}
		})
	}
}

func posixLocks(a, b *process) {
	a.do("posix write 100 100 0", "OK")
	a.do("posix write 100 100 0", "OK")
	b.do("posix write 150 1 0", "EAGAIN")
	b.do("posix read 199 1 0", "EAGAIN")
	b.do("posix write 200 100 0", "OK")
	b.do("posix write 0 100 0", "OK")
	b.do("posix test 0 1000 0", fmt.Sprintf("%d:100-100", unix.F_WRLCK))
	a.do("posix test 300 10 0", fmt.Sprintf("%d:300-10", unix.F_UNLCK))
	a.do("posix read 100 100 0", "OK") // a downgrade
	b.do("posix read 150 10 0", "OK")
	a.do("posix write 100 100 0", "EAGAIN") // no upgrade over another's
	b.do("posix unlock 150 10 0", "OK")
	a.do("posix write 100 100 0", "OK")
	a.do("posix unlock 140 20 0", "OK") // a hole in the middle
	b.do("posix write 140 20 0", "OK")
	b.do("posix write 130 20 0", "EAGAIN")
	a.do("posix write 500 0 0", "OK") // to the end, wherever that is
	b.do("posix write 1000000000000 1 0", "EAGAIN")
	// A close of any descriptor of the file lets go all of the process's locks on it.
	a.do("open "+a.file, "OK")
	a.do("posix write 5000 10 1", "OK")
	a.do("close 1", "OK")
	b.do("posix write 100 40 0", "OK")
	// The death of a process, too.
	b.kill()
	a.do("wposix write 0 0 0", "OK")
}

func descriptorLocks(a, b *process) {
	a.do("open "+a.file, "OK")
	// flock: of the descriptor, independent of POSIX locks.
	a.do("flock write 0 0 0", "OK")
	a.do("flock write 0 0 1", "EAGAIN")
	b.do("flock read 0 0 0", "EAGAIN")
	b.do("posix write 0 0 0", "OK")
	b.do("posix unlock 0 0 0", "OK")
	a.do("flock read 0 0 0", "OK")
	b.do("flock read 0 0 0", "OK")
	b.do("flock write 0 0 0", "EAGAIN")
	// (A failed change of a flock may have lost the old one: it is taken away and set anew, on Linux as elsewhere.)
	b.do("flock unlock 0 0 0", "OK")
	a.do("close 0", "OK")
	b.do("wflock write 0 0 0", "OK")
	b.do("flock unlock 0 0 0", "OK")
	// Open file description locks: against others of the same process, against POSIX locks, and gone with the close.
	a.do("open "+a.file, "OK")
	a.do("ofd write 0 10 1", "OK")
	a.do("ofd write 5 10 2", "EAGAIN")
	a.do("posix write 5 10 2", "EAGAIN")
	b.do("ofd read 0 1 0", "EAGAIN")
	b.do("ofd write 10 10 0", "OK")
	a.do("close 1", "OK")
	b.do("wofd write 0 10 0", "OK")
}

func waitingLocks(a, b *process) {
	a.do("posix write 0 10 0", "OK")
	b.do("posix write 100 10 0", "OK")
	b.waits("wposix write 0 10 0")
	a.do("wposix write 100 10 0", "EDEADLK")
	a.do("posix unlock 0 10 0", "OK")
	if got := b.answer(); got != "OK" {
		b.t.Errorf("the waiting lock: %s", got)
	}
	a.waits("wposix read 0 10 0")
	b.kill()
	if got := a.answer(); got != "OK" {
		a.t.Errorf("the lock that waits for the dead: %s", got)
	}
}

// TestTimers: a program with an interval timer sees no EINTR from stat, open, read, mkdir or rename, as on a local file system.
func TestTimers(t *testing.T) {
	m := harness.Start(t, harness.Options{}).Mount()
	out, err := harness.UnderTimer(500*time.Microsecond, `
os.chdir(sys.argv[1])
end = time.monotonic() + 4
buf = ctypes.create_string_buffer(65536)
n = 0
while time.monotonic() < end:
    n += 1
    name = b"f%d" % (n % 50)
    fd = call("open", name, os.O_CREAT | os.O_RDWR, 0o644)
    call("pwrite", fd, buf, 65536, ctypes.c_long(0))
    call("pread", fd, buf, 65536, ctypes.c_long(0))
    if n % 20 == 0:
        call("fsync", fd)
    call("close", fd)
    call("access", name, 4)
    call("mkdir", b"d", 0o755)
    call("rename", name, b"d/x")
    call("unlink", b"d/x")
    call("rmdir", b"d")
print("rounds", n, "ticks", ticks)
if n <= 20 or ticks <= 100:
    sys.exit("too few")
`, m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", out)
}
