package rot

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dfs/tests/harness"
)

// A server that must not start says why: the directory is another node's, another cluster's or in use, or the port is.
func TestForeignDirectories(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	other := harness.Start(t, harness.Options{Nodes: 1})
	c.Mount().Unmount() // makes the file system
	a := c.Nodes[0]
	bootstrap := "a=" + a.Address + ",b=" + c.Nodes[1].Address + ",c=" + c.Nodes[2].Address
	refuse := func(name, says string, args ...string) {
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			p := harness.StartProcess(t, log, harness.Binary(t), append([]string{"server"}, args...)...)
			defer p.Kill()
			if !p.Wait(30 * time.Second) {
				t.Fatalf("it runs:\n%s", harness.Tail(log, 20))
			}
			said := harness.Tail(log, 1)
			t.Logf("it said: %s", said)
			if p.ExitCode() == 0 || !strings.HasPrefix(said, "dfs: ") || !strings.Contains(said, says) {
				t.Errorf("it ended with %d and did not say %q", p.ExitCode(), says)
			}
		})
	}
	free := harness.FreeAddress(t)
	refuse("in use", "in use by", "--id", "a", "--listen", free, "--data", a.Data, "--bootstrap", strings.ReplaceAll(bootstrap, a.Address, free))
	refuse("port in use", "listening on "+a.Address, "--id", "x", "--listen", a.Address, "--data", t.TempDir(), "--join", c.Addresses())
	refuse("no cluster", "belongs to no cluster", "--id", "x", "--listen", free, "--data", t.TempDir())
	refuse("a wrong peer", "the bootstrap list says that node x is at "+a.Address+", but there is node a: correct the list",
		"--id", "y", "--listen", free, "--data", t.TempDir(), "--bootstrap", "x="+a.Address+",y="+free)
	refuse("a list without itself", "must name this node: y at ", "--id", "y", "--listen", free, "--data", t.TempDir(), "--bootstrap", "x="+a.Address)
	mixed := a.Address + "," + other.Nodes[0].Address
	for _, args := range [][]string{{"status", mixed}, {"mount", mixed, t.TempDir()}} {
		if out, err := c.TryBoth(args...); err == nil || !strings.Contains(out, "correct the list of addresses") {
			t.Errorf("dfs %q of two clusters: %v\n%s", args, err, out)
		}
	}
	missing(t, c, free)
	a.Process().Stop()
	refuse("another node's", `belongs to node "a"`, "--id", "b", "--listen", free, "--data", a.Data, "--join", c.Addresses())
	stranger := other.Nodes[0]
	stranger.Process().Stop()
	refuse("another cluster's", "belongs to cluster", "--id", stranger.ID, "--listen", a.Address, "--data", stranger.Data, "--bootstrap", bootstrap)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refuse("a file", "data directory", "--id", "x", "--listen", free, "--data", file, "--join", c.Addresses())
	a.Start()
	c.WaitReady()
	c.Check()
}

// missing starts a founder whose peer does not answer: it waits, and says for whom; who asks it is told, too.
func missing(t *testing.T, c *harness.Cluster, free string) {
	t.Helper()
	log, nobody := filepath.Join(t.TempDir(), "log"), harness.FreeAddress(t)
	p := harness.StartProcess(t, log, harness.Binary(t), "server", "--id", "y", "--listen", free, "--data", t.TempDir(), "--bootstrap", "x="+nobody+",y="+free)
	defer p.Kill()
	harness.Eventually(t, 30*time.Second, "the founder to say for whom it waits", func() bool {
		b, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(b), "waiting for other nodes before the first start") && strings.Contains(string(b), nobody)
	})
	if out, err := c.TryBoth("status", free); err == nil || !strings.Contains(out, "no leader") {
		t.Errorf("dfs status of a founder that waits: %v\n%s", err, out)
	}
}

// Whatever is sent to a node's port harms nothing.
func TestGarbageToPort(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	noise := make([]byte, 64<<10)
	_, _ = rand.Read(noise)
	pieces := [][]byte{nil, noise[:1], noise, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + string(noise)),
		{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, []byte(strings.Repeat("\xff", 4096)), make([]byte, 1<<20)}
	for _, n := range c.Nodes {
		greeting := captured(t, n.Address)
		for i, p := range append(pieces, greeting, append(greeting[:len(greeting):len(greeting)], noise...)) {
			conn, err := net.DialTimeout("tcp", n.Address, 5*time.Second)
			if err != nil {
				t.Fatalf("piece %d: %v", i, err)
			}
			_, _ = conn.Write(p)
			if i%2 == 0 {
				_ = conn.(*net.TCPConn).CloseWrite()
				_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				_, _ = io.Copy(io.Discard, conn)
			}
			_ = conn.Close()
		}
	}
	for i := range 5 {
		name := fmt.Sprintf("f%d", i)
		harness.WriteRandom(t, m.Path(name), name, 1, 100<<10)
	}
	for _, n := range c.Nodes {
		if n.Process().Exited() {
			t.Errorf("node %s ended:\n%s", n.ID, harness.Tail(n.Log, 20))
		}
		if b, err := os.ReadFile(n.Log); err != nil || strings.Contains(string(b), "panic") {
			t.Errorf("node %s: %v\n%s", n.ID, err, harness.Tail(n.Log, 40))
		}
	}
	m.Unmount()
	c.Check()
}

// captured is what a client of the administrator's service says first.
func captured(t *testing.T, address string) []byte {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan []byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer conn.Close()
		b := make([]byte, 4096)
		_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, _ := conn.Read(b)
		got <- b[:n]
	}()
	log := filepath.Join(t.TempDir(), "log")
	p := harness.StartProcess(t, log, harness.Binary(t), "status", l.Addr().String())
	b := <-got
	p.Kill()
	if len(b) == 0 {
		t.Fatal("dfs status sent nothing")
	}
	return b
}
