package fuse

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/fs"
)

// guardRole, in the environment, has this test's binary be a guard, or a mount whose READs are never answered.
const guardRole = "FUSE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(guardRole) {
	case "guard":
		Guard(slog.New(slog.DiscardHandler))
	case "mount":
		_ = os.Setenv(guardRole, "guard")
		mountSilent(os.Args[1], os.Args[2] == "guarded")
	default:
		os.Exit(m.Run())
	}
}

// silentFS is a file system that never answers a READ, and has the page dropped that it fills.
type silentFS struct {
	*fakeFS
	m chan *Mount
}

func (f *silentFS) Open(context.Context, *fs.Caller, fs.Ino, uint32) (fs.Handle, fs.OpenInfo, error) {
	return 1, fs.OpenInfo{}, nil
}

func (f *silentFS) Read(_ context.Context, _ fs.Handle, _ []byte, _ uint64) (int, error) {
	m := <-f.m
	go m.conn.DropData(1005, 0, 0)
	go func() { // the drop has got to where it waits
		time.Sleep(50 * time.Millisecond)
		_, _ = os.Stdout.WriteString("dropping\n")
	}()
	select {}
}

func mountSilent(dir string, guarded bool) {
	f := &silentFS{&fakeFS{version: 4096}, make(chan *Mount, 1)}
	o := Options{Source: "silent", Logger: slog.New(slog.DiscardHandler)}
	if guarded {
		o.Guard = []string{"/proc/self/exe"}
	}
	m, err := New(dir, f, o)
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	f.m <- m
	_, _ = os.Stdout.WriteString("mounted\n")
	<-m.Done()
}

// TestKilledWhileDropping kills a mount's process while a thread of it drops a page that a READ fills: who reads is told, the
// process ends, and so does its guard. (Without a guard the reader waits until somebody aborts the connection.)
func TestKilledWhileDropping(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	said, process := startSilent(t, dir, "guarded")
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_FORCE) }) // a failed test ends
	expectLine(t, said, "mounted")
	read := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(dir, "5"))
		read <- err
	}()
	expectLine(t, said, "dropping")
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("a READ that nobody answered succeeded")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a reader waits for a mount whose process was killed")
	}
	if err := syscall.Lstat(filepath.Join(dir, "6"), new(syscall.Stat_t)); err != syscall.ENOTCONN {
		t.Errorf("a call to a mount whose process was killed: %v", err)
	}
	if !Mounted(dir) {
		t.Error("the directory below a mount whose process was killed is open to view")
	}
	expectLine(t, said, "") // both have ended: nobody has the pipe
}

// TestGuardEnds: a guard ends with its mount.
func TestGuardEnds(t *testing.T) {
	dir := t.TempDir()
	said, _ := startSilent(t, dir, "guarded")
	expectLine(t, said, "mounted")
	if err := Unmount(dir, false); err != nil {
		t.Fatal(err)
	}
	expectLine(t, said, "")
}

// TestGuardByHand: started by anybody else it ends at once.
func TestGuardByHand(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), guardRole+"=guard")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("a guard without a mount waits")
	}
}

// startSilent starts a mount of a silentFS at dir, whose lines come from said; "" is the end of it and of its guard.
func startSilent(t *testing.T, dir, guarded string) (said chan string, p *os.Process) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", dir, guarded)
	cmd.Env = append(os.Environ(), guardRole+"=mount")
	cmd.Stdout, cmd.Stderr = w, w // the guard has it as standard error
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	said = make(chan string, 16)
	go func() {
		defer close(said)
		defer r.Close()
		buf := make([]byte, 256)
		for {
			n, err := r.Read(buf)
			if err != nil {
				return
			}
			said <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		go func() { _ = cmd.Wait() }()
	})
	return said, cmd.Process
}

func expectLine(t *testing.T, said chan string, want string) {
	t.Helper()
	select {
	case got := <-said:
		if got != want && got != want+"\n" {
			t.Fatalf("it says %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not say %q", want)
	}
}
