package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dev is a cluster that `dfs dev` runs.
type dev struct {
	c         config
	data, mnt string
	state     struct {
		PID      int `json:"pid"`
		MountPID int `json:"mount_pid"`
		Nodes    []struct {
			PID int `json:"pid"`
		} `json:"nodes"`
	}
}

// startDev starts a cluster in a directory of its own; more are flags of dfs dev.
func startDev(c config, name string, more ...string) (*dev, error) {
	d := &dev{c: c, data: filepath.Join(c.dir, name), mnt: filepath.Join(c.dir, name+"-mnt")}
	return d, d.start(more...)
}

func (d *dev) start(more ...string) error {
	args := append([]string{"dev", "--background", "--data", d.data}, more...)
	if out, err := exec.Command(d.c.dfs, append(args, d.mnt)...).CombinedOutput(); err != nil {
		return fmt.Errorf("dfs dev: %w\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(d.data, "dev.json"))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, &d.state)
}

func (d *dev) pids() []int {
	list := []int{d.state.PID, d.state.MountPID}
	for _, n := range d.state.Nodes {
		list = append(list, n.PID)
	}
	return list
}

// stop ends the cluster and removes its data.
func (d *dev) stop() error {
	if out, err := exec.Command(d.c.dfs, "dev", "stop", "--data", d.data).CombinedOutput(); err != nil {
		return fmt.Errorf("dfs dev stop: %w\n%s", err, out)
	}
	return os.RemoveAll(d.data)
}

// kill ends every process at once with SIGKILL.
func (d *dev) kill() {
	for _, pid := range d.pids() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, pid := range d.pids() {
		for range 200 {
			if syscall.Kill(pid, 0) == syscall.ESRCH {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	_ = syscall.Unmount(d.mnt, syscall.MNT_DETACH)
}

// fsync fsyncs a file or directory.
func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// pss is the proportional set size of a process, in bytes.
func pss(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of %d", pid)
}

// cpu is the processor time a process has used.
func cpu(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, err
}
