package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// request goes to a child as a JSON line, a reply comes back.
type request struct {
	Load     string  `json:"load"` // a load; "": only tell the state
	Seconds  float64 `json:"seconds"`
	BytesMax int64   `json:"bytes_max"` // ends the load early; 0: does not
	Quiet    bool    `json:"quiet"`     // log nothing any more: the group is about to end
}

type reply struct {
	Err        string  `json:"err"`
	Leader     bool    `json:"leader"`
	CPUSeconds float64 `json:"cpu_s"`
	MaxRSSMiB  float64 `json:"max_rss_mib"`
	Mode       string  `json:"mode"`
	Round      round   `json:"round"`
}

// child is one process of the group.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

type group struct {
	children []*child
	leader   *child
}

// startGroup starts three children and waits for a leader.
func startGroup(kind, dir string) (*group, error) {
	addrs, err := freeAddresses(3)
	if err != nil {
		return nil, err
	}
	g := &group{}
	for i := range addrs {
		c, err := startChild(kind, filepath.Join(dir, fmt.Sprint(i)), i, addrs)
		if err != nil {
			g.stop()
			return nil, err
		}
		g.children = append(g.children, c)
	}
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, c := range g.children {
			r, err := c.ask(request{})
			if err != nil {
				g.stop()
				return nil, err
			}
			if r.Leader {
				g.leader = c
				return g, nil
			}
		}
	}
	g.stop()
	return nil, fmt.Errorf("no leader within %v", startTimeout)
}

func freeAddresses(n int) ([]string, error) {
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func startChild(kind, dir string, id int, addrs []string) (*child, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "child", kind, dir, fmt.Sprint(id), strings.Join(addrs, ","))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{cmd: cmd, in: in, out: bufio.NewReader(out)}, nil
}

// ask sends a request and waits for its reply, bounded in time.
func (c *child) ask(q request) (reply, error) {
	limit := time.Duration((q.Seconds + 60) * float64(time.Second))
	timer := time.AfterFunc(limit, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	b, err := json.Marshal(q)
	if err != nil {
		return reply{}, err
	}
	if _, err := c.in.Write(append(b, '\n')); err != nil {
		return reply{}, fmt.Errorf("a node ended: %w", err)
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return reply{}, fmt.Errorf("a node ended or gave no answer within %v: %w", limit, err)
	}
	var r reply
	if err := json.Unmarshal(line, &r); err != nil {
		return r, err
	}
	if r.Err != "" {
		return r, fmt.Errorf("a node said: %s", r.Err)
	}
	return r, nil
}

// cpu is the CPU time of all nodes so far.
func (g *group) cpu() (sum float64, err error) {
	for _, c := range g.children {
		r, err := c.ask(request{})
		if err != nil {
			return 0, err
		}
		sum += r.CPUSeconds
	}
	return sum, nil
}

// load runs a load in the leader's process.
func (g *group) load(q request) (round, error) {
	before, err := g.cpu()
	if err != nil {
		return round{}, err
	}
	r, err := g.leader.ask(q)
	if err != nil {
		return round{}, err
	}
	after, err := g.cpu()
	r.Round.CPUSeconds = after - before
	return r.Round, err
}

func (g *group) usage(rep *report) error {
	for _, c := range g.children {
		r, err := c.ask(request{})
		if err != nil {
			return err
		}
		rep.AllCPUSeconds += r.CPUSeconds
		rep.MaxRSSMiB = max(rep.MaxRSSMiB, r.MaxRSSMiB)
		if c == g.leader {
			rep.LeaderCPUSeconds, rep.Mode = r.CPUSeconds, r.Mode
		}
	}
	return nil
}

// stop ends the children: they exit when their input ends. One that hangs is killed.
func (g *group) stop() {
	for _, c := range g.children {
		_, _ = c.ask(request{Quiet: true})
	}
	for _, c := range g.children {
		_ = c.in.Close()
	}
	for _, c := range g.children {
		timer := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
		_ = c.cmd.Wait()
		timer.Stop()
	}
}

// kill ends the children at once.
func (g *group) kill() {
	for _, c := range g.children {
		_ = c.cmd.Process.Kill()
	}
	for _, c := range g.children {
		_, _ = c.cmd.Process.Wait()
	}
}
