package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dfs/internal/errors"
)

// What dfs dev finds when it starts: processes of an earlier start whose supervisor was killed, other clusters, ports in use.

// alive tells whether pid is a dfs process that was started with arg.
func alive(pid int, arg string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && pid > 0 && slices.Contains(strings.Split(string(line), "\x00"), arg)
}

// awaitEarlier waits until the processes of an earlier start are gone, and says so. They stop when their supervisor dies: the mount
// flushes and unmounts, then the nodes end. One that does not is killed.
func awaitEarlier(data string, out io.Writer) error {
	state, err := readDevState(data)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range state.processes() {
		if !alive(p.pid, p.arg) {
			continue
		}
		if _, err := fmt.Fprintf(out, "waiting for %s of an earlier start to stop (pid %d; at most %s, then it is killed)\n", p.what, p.pid, devStopWait); err != nil {
			return err
		}
		for deadline := time.Now().Add(devStopWait); alive(p.pid, p.arg); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				_ = syscall.Kill(p.pid, syscall.SIGKILL)
			}
		}
	}
	return nil
}

// devProcess is one process of a start, and the argument by which it is known.
type devProcess struct {
	what, arg string
	pid       int
}

// processes lists the mount and the nodes, in the order in which they end.
func (s *devState) processes() []devProcess {
	list := []devProcess{{"the mount", s.Dir, s.MountPID}}
	for _, n := range s.Nodes {
		list = append(list, devProcess{"node " + n.ID, n.Data, n.PID})
	}
	return list
}

// dead lists the nodes that have ended.
func (s *devState) dead() (ids []string) {
	for _, n := range s.Nodes {
		if !alive(n.PID, n.Data) {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

func newDevState(opt devOptions) (*devState, error) {
	state := &devState{Version: devStateVersion}
	for i := range opt.nodes {
		id := string(rune('a' + i))
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 7470+i))
		if err != nil {
			l, err = net.Listen("tcp", "127.0.0.1:0")
		}
		if err != nil {
			return nil, errors.New(errors.KindBusy, "finding a free port: %w", err)
		}
		defer l.Close()
		state.Nodes = append(state.Nodes, devNode{ID: id, Address: l.Addr().String(),
			Data: filepath.Join(opt.data, "node-"+id), Log: filepath.Join(opt.data, "node-"+id+".log")})
	}
	return state, nil
}

// lockDevPorts keeps other starts of dfs dev on this machine (in this network namespace) from choosing ports at the same
// time, until release: a port is free from when it was chosen until its node listens. Who waited for long goes on without.
func lockDevPorts(ctx context.Context) (release func()) {
	for deadline := time.Now().Add(devStopWait); time.Now().Before(deadline); {
		l, err := net.Listen("unix", "@dfs-dev-ports")
		if err == nil {
			return func() { _ = l.Close() }
		}
		select {
		case <-ctx.Done():
			return func() {}
		case <-time.After(50 * time.Millisecond):
		}
	}
	return func() {}
}

// listener says who listens on addr, as far as can be seen: a dfs node of this user in this network, mostly of another dfs dev.
func listener(addr string) string {
	network := func(pid string) string { to, _ := os.Readlink("/proc/" + pid + "/ns/net"); return to }
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, err := os.ReadFile(f)
		args := strings.Split(string(line), "\x00")
		i, j := slices.Index(args, "--listen"), slices.Index(args, "--data")
		pid := filepath.Base(filepath.Dir(f))
		if err == nil && i >= 0 && j >= 0 && i+1 < len(args) && j+1 < len(args) && args[i+1] == addr && network(pid) == network("self") {
			return fmt.Sprintf("another dfs node, pid %s, data %s", pid, args[j+1])
		}
	}
	return "another program"
}
