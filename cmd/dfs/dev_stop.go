package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"dfs/fuse"
	"dfs/internal/errors"
)

// stopDev unmounts and stops what dfs dev started on data, also a start that is under way.
func stopDev(ctx context.Context, data string, out io.Writer) error {
	data, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	state, err := readDevState(data)
	if os.IsNotExist(err) && !devLocked(data) {
		_, err = fmt.Fprintln(out, "nothing runs here: there is no", devStatePath(data))
		return err
	}
	if os.IsNotExist(err) { // the first start is under way
		state, err = &devState{}, nil
	}
	if err != nil {
		return err
	}
	ran := alive(state.MountPID, state.Dir)
	for _, dir := range state.mounts(data) {
		if fuse.Mounted(dir) { // else somebody has unmounted it
			ran = true
			if err := umount(ctx, dir, umountOptions{wait: devStopWait}); err != nil {
				return err
			}
		}
		state.forgetMount(data, dir)
	}
	lock, stopped, err := stopSupervisor(ctx, data, out)
	if err != nil {
		return err
	}
	defer lock.Close()
	ran = ran || stopped
	if err := awaitEarlier(data, out); err != nil {
		return err
	}
	if state, err = readDevState(data); err == nil && fuse.Mounted(state.Dir) { // a start may have chosen another place
		err = fuse.Unmount(state.Dir, true)
	}
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	word := "stopped"
	if !ran {
		word = "nothing was running"
	}
	_, err = fmt.Fprintf(out, "%s; the data is kept in %s\n", word, data)
	return err
}

// stopSupervisor takes the supervisor's lock; of one that lives it does so after it has told it to end. Which process
// that is, dev.json tells only when a start is far enough: until then it names the one before, whose pid may be anybody's by now.
func stopSupervisor(ctx context.Context, data string, out io.Writer) (lock *os.File, stopped bool, err error) {
	told, waiting, began := 0, false, time.Now()
	for {
		lock, err = lockDev(data)
		if !errors.Is(err, errors.KindBusy) {
			return lock, stopped, err
		}
		stopped = true
		state, serr := readDevState(data)
		switch {
		case serr == nil && state.PID == told && told != 0:
		case serr == nil && alive(state.PID, "dev") && holdsDevLock(state.PID, data):
			told = state.PID
			if err := syscall.Kill(told, syscall.SIGTERM); err != nil && err != syscall.ESRCH {
				return nil, false, errors.New(errors.KindOf(err), "stopping process %d: %w", told, err)
			}
		case !waiting && time.Since(began) > time.Second: // one that has just ended keeps its lock for a moment
			waiting = true
			if _, err := fmt.Fprintf(out, "waiting for a start of this cluster that is under way, to stop it (at most %s)\n", devStartWait); err != nil {
				return nil, false, err
			}
		}
		if time.Since(began) > devStartWait {
			return nil, false, errors.New(errors.KindTimeout, "what runs on %s did not stop within %s; see %s", data, devStartWait, filepath.Join(data, "dev.log"))
		}
		select {
		case <-ctx.Done():
			return nil, false, errors.New(errors.KindInterrupted, "interrupted while stopping what runs on %s", data)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// devLocked tells whether a supervisor lives, without making its lock where there never was one.
func devLocked(data string) bool {
	if _, err := os.Stat(devLockPath(data)); err != nil {
		return false
	}
	lock, err := lockDev(data)
	if err == nil {
		_ = lock.Close()
	}
	return errors.Is(err, errors.KindBusy)
}

// holdsDevLock tells whether the process pid has the supervisor's lock of data open, as far as this user may see.
func holdsDevLock(pid int, data string) bool {
	lock, err := os.Stat(devLockPath(data))
	if err != nil {
		return false
	}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil && os.SameFile(info, lock) {
			return true
		}
	}
	return false
}
