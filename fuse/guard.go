package fuse

import (
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A mount whose process is killed ends by itself when the kernel closes its descriptors, which it does when the last of its
// threads has ended. A thread that drops pages waits in the kernel, where no signal reaches it, for READs of these pages to be
// answered; when the process is killed then, nobody answers any more, and the thread, its process and all callers wait for ever. So
// each mount has a guard: a small process of its own that aborts the connection when the mount's process is killed.
//
// The guard holds no descriptor of /dev/fuse, only the connection's control file, which leads to this connection whatever is
// mounted later at the same place. It leaves the mount point as it is: an error there is better than the directory below.
// That the process dies is told by its parent-death signal, which comes with the end of the thread that started the guard: a pipe that
// closes, or a pidfd, would tell of the end of the last thread only.

const (
	deathSignal = syscall.SIGUSR1
	guardFD     = 3 // the guard's descriptor of the control file

	fusectlMagic = 0x65735543 // FUSE_CTL_SUPER_MAGIC
)

// guard is a guard as the mount's process sees it.
type guard struct {
	cmd  *exec.Cmd
	once sync.Once
	stop chan struct{}
	over chan struct{}
}

// startGuard starts command, which must call Guard, for the connection that control leads to.
func startGuard(command []string, control *os.File) (*guard, error) {
	g := &guard{cmd: exec.Command(command[0], command[1:]...), stop: make(chan struct{}), over: make(chan struct{})}
	g.cmd.Stderr = os.Stderr
	g.cmd.ExtraFiles = []*os.File{control}
	g.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: deathSignal}
	started := make(chan error, 1)
	go func() {
		defer close(g.over)
		runtime.LockOSThread() // never undone: the thread must live as long as the guard is needed, and ends with this function
		var block unix.Sigset_t
		block.Val[0] = 1 << (deathSignal - 1)
		err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, nil) // the guard inherits it, so that the signal waits until it is ready
		if err == nil {
			err = g.cmd.Start()
		}
		started <- err
		if err != nil {
			return
		}
		<-g.stop
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return g, nil
}

// close ends the guard.
func (g *guard) close() {
	g.once.Do(func() { close(g.stop) })
	<-g.over
}

// Guard is what a mount's guard does (Options.Guard): it waits for the death of the mount's process and then aborts the
// connection. It returns when that is done; a mount that ends in order kills its guard.
func Guard(log *slog.Logger) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(guardFD, &st); err != nil || st.Type != fusectlMagic {
		log.Error("this is for a mount to start, which leaves it a descriptor of the FUSE control file system")
		return
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT) // it ends with the mount
	died := make(chan os.Signal, 1)
	control := os.NewFile(guardFD, "control")
	debug.FreeOSMemory()
	signal.Notify(died, deathSignal)
	<-died
	if err := abortBy(control); err != nil {
		log.Error("the mount's process was killed, and its connection cannot be aborted: umount -f ends those who wait", "error", err)
		return
	}
	log.Warn("the mount's process was killed: the connection is aborted")
}
