package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// farm is a cluster of three nodes with mounts that stand in network namespaces of their own, joined by a bridge, as
// boxes of a network would. Where namespaces cannot be made (no ip command, not root) everything is on loopback.
type farm struct {
	c      config
	dir    string
	net    string // the bridge's name and the namespaces' prefix; "" is loopback
	host   string // the nodes' address
	nodes  []*exec.Cmd
	addrs  []string
	mounts []*farmMount
	spaces int
}

// farmMount is one mount of a farm.
type farmMount struct {
	dir, log string
	space    string // its namespace, "" none
	cmd      *exec.Cmd
}

const (
	farmNodes = 3
	farmWait  = 30 * time.Second
)

// startFarm starts the nodes; stop must follow, whatever it returns.
func startFarm(c config, name string) (*farm, error) {
	f := &farm{c: c, dir: filepath.Join(c.dir, name), host: "127.0.0.1"}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return f, err
	}
	if err := f.bridge(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: mounts share the machine's network: %v\n", name, err)
		f.unbridge()
	}
	var boot []string
	for i := range farmNodes {
		l, err := net.Listen("tcp", f.host+":0")
		if err != nil {
			return f, err
		}
		f.addrs = append(f.addrs, l.Addr().String())
		boot = append(boot, fmt.Sprintf("n%d=%s", i, l.Addr()))
		if err := l.Close(); err != nil {
			return f, err
		}
	}
	for i, addr := range f.addrs {
		args := []string{"server", "--insecure-listen", "--id", fmt.Sprintf("n%d", i), "--listen", addr,
			"--data", filepath.Join(f.dir, fmt.Sprintf("n%d", i)), "--bootstrap", strings.Join(boot, ",")}
		cmd, err := f.spawn(fmt.Sprintf("n%d.log", i), c.dfs, args...)
		if err != nil {
			return f, err
		}
		f.nodes = append(f.nodes, cmd)
	}
	return f, nil
}

// where says how the mounts are connected, for the report.
func (f *farm) where() string {
	if f.net == "" {
		return "on loopback"
	}
	return "in network namespaces of their own"
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// bridge makes the network, of addresses that are set aside for benchmarks (198.18.0.0/15).
func (f *farm) bridge() error {
	id := os.Getpid() & 0xffff
	f.net = fmt.Sprintf("dfsb%04x", id)
	f.host = fmt.Sprintf("198.%d.%d.1", 18+id>>15, id>>7&0xff)
	for _, args := range [][]string{{"link", "add", f.net, "type", "bridge"}, {"addr", "add", f.host + "/24", "dev", f.net}, {"link", "set", f.net, "up"}} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

func (f *farm) unbridge() {
	if f.net != "" {
		_ = ip("link", "del", f.net)
	}
	f.net, f.host = "", "127.0.0.1"
}

// namespace makes one with an address on the bridge and returns its name; "" on loopback.
func (f *farm) namespace() (string, error) {
	if f.net == "" {
		return "", nil
	}
	f.spaces++
	name, veth := fmt.Sprintf("%s-%d", f.net, f.spaces), fmt.Sprintf("%sv%d", f.net, f.spaces)
	addr := fmt.Sprintf("%s.%d/24", strings.TrimSuffix(f.host, ".1"), 1+f.spaces)
	for _, args := range [][]string{{"netns", "add", name}, {"link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", name},
		{"link", "set", veth, "master", f.net, "up"}, {"-n", name, "addr", "add", addr, "dev", "eth0"},
		{"-n", name, "link", "set", "eth0", "up"}, {"-n", name, "link", "set", "lo", "up"}} {
		if err := ip(args...); err != nil {
			return name, err
		}
	}
	return name, nil
}

func (f *farm) spawn(log, path string, args ...string) (*exec.Cmd, error) {
	out, err := os.Create(filepath.Join(f.dir, log))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, cmd.Start()
}

// mount adds a mount in a namespace of its own and waits for it; more are flags of dfs mount.
func (f *farm) mount(more ...string) (*farmMount, error) {
	space, err := f.namespace()
	m := &farmMount{space: space}
	f.mounts = append(f.mounts, m)
	if err != nil {
		return m, err
	}
	name := fmt.Sprintf("mnt%d", len(f.mounts))
	m.dir, m.log = filepath.Join(f.dir, name), filepath.Join(f.dir, name+".log")
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return m, err
	}
	return m, f.remount(m, more...)
}

// remount mounts m's directory (again).
func (f *farm) remount(m *farmMount, more ...string) error {
	path, args := f.c.dfs, append(append([]string{"mount", "--foreground"}, more...), strings.Join(f.addrs, ","), m.dir)
	if m.space != "" { // not ip netns exec, which would hide the mount from everybody else
		path, args = "nsenter", append([]string{"--net=/run/netns/" + m.space, f.c.dfs}, args...)
	}
	var before, now syscall.Stat_t
	if err := syscall.Stat(f.dir, &before); err != nil {
		return err
	}
	cmd, err := f.spawn(filepath.Base(m.log), path, args...)
	if err != nil {
		return err
	}
	m.cmd = cmd
	for end := time.Now().Add(farmWait); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := syscall.Stat(m.dir, &now); err == nil && now.Dev != before.Dev {
			return nil
		}
	}
	log, _ := os.ReadFile(m.log)
	return fmt.Errorf("no mount at %s within %v:\n%s", m.dir, farmWait, log)
}

// unmount flushes and ends a mount; its directory and namespace stay.
func (f *farm) unmount(m *farmMount) error {
	if m.cmd == nil {
		return nil
	}
	out, err := exec.Command(f.c.dfs, "umount", m.dir).CombinedOutput()
	if err != nil {
		_ = m.cmd.Process.Kill()
		_ = syscall.Unmount(m.dir, syscall.MNT_DETACH)
		err = fmt.Errorf("dfs umount: %w\n%s", err, out)
	}
	_ = m.cmd.Wait()
	m.cmd = nil
	return err
}

// stop ends everything and removes the data and the network.
func (f *farm) stop() (err error) {
	for _, m := range f.mounts {
		err = first(err, f.unmount(m))
		if m.space != "" {
			_ = ip("netns", "del", m.space)
		}
	}
	for _, n := range f.nodes {
		_ = n.Process.Signal(syscall.SIGTERM)
	}
	for _, n := range f.nodes {
		kill := time.AfterFunc(farmWait, func() { _ = n.Process.Kill() })
		_ = n.Wait()
		kill.Stop()
	}
	f.unbridge()
	return first(err, os.RemoveAll(f.dir))
}

// withFarm runs measure on a farm with that many mounts.
func withFarm(c config, name string, mounts int, measure func(f *farm) ([]result, error)) (r []result, err error) {
	f, err := startFarm(c, name)
	defer func() { err = first(err, f.stop()) }()
	for i := 0; i < mounts && err == nil; i++ {
		_, err = f.mount()
	}
	if err != nil {
		return nil, err
	}
	return measure(f)
}
