package crash

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"dfs/tests/harness"
)

// copier copies the files of a tree into a mount, over and over into new directories, with an
// fsync of every 20th file, until it is told to stop.
type copier struct {
	root  string // of the originals
	files []string
	to    string

	stop    chan struct{}
	done    chan struct{}
	copied  atomic.Int64
	failure error             // why it ended by itself
	slowest time.Duration     // the longest that one file took
	want    map[string]string // what was copied: path below to, and hash; looked at when done
}

// startCopier runs a copier; each file's hash is known beforehand.
func startCopier(t *testing.T, to string, n int) *copier {
	root, files := harness.GoSource(t, n)
	c := &copier{root: root, files: files, to: to, stop: make(chan struct{}), done: make(chan struct{}), want: map[string]string{}}
	sums := map[string]string{}
	for _, f := range files {
		sum, err := harness.HashFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		sums[f] = sum
	}
	go func() {
		defer close(c.done)
		for round := 0; ; round++ {
			for _, f := range files {
				select {
				case <-c.stop:
					return
				default:
				}
				rel := filepath.Join(fmt.Sprintf("copy-%d", round), f)
				begun := time.Now()
				if err := harness.CopyFile(filepath.Join(root, f), filepath.Join(to, rel)); err != nil {
					c.failure = err
					return
				}
				if c.copied.Load()%20 == 0 {
					if err := harness.SyncPath(filepath.Join(to, rel)); err != nil {
						c.failure = err
						return
					}
				}
				c.slowest = max(c.slowest, time.Since(begun))
				c.want[rel] = sums[f]
				c.copied.Add(1)
			}
		}
	}()
	return c
}

// advance waits until n more files are copied.
func (c *copier) advance(t *testing.T, n int64, what string) {
	t.Helper()
	goal := c.copied.Load() + n
	harness.Eventually(t, 90*time.Second, what, func() bool {
		select {
		case <-c.done:
			t.Fatalf("the copy ended while it waited for %s: %v", what, c.failure)
		default:
		}
		return c.copied.Load() >= goal
	})
}

// end stops the copier and returns what it copied; any error that it met fails the test.
func (c *copier) end(t *testing.T) map[string]string {
	t.Helper()
	close(c.stop)
	<-c.done
	if c.failure != nil {
		t.Fatalf("a program that wrote through the mount got an error: %v", c.failure)
	}
	return c.want
}

// A follower, then the leader, is killed and comes back while a tree is being copied into a mount.
func TestKillNodesUnderWriter(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	w := startCopier(t, m.Dir, 3000)

	w.advance(t, 300, "the start of the copy")
	follower := c.Followers()[0]
	follower.Kill()
	w.advance(t, 600, "files copied without a follower")
	follower.Start()
	w.advance(t, 300, "files copied after the follower's return")

	c.WaitReady()
	leader := c.WaitLeader()
	leader.Kill()
	w.advance(t, 600, "files copied under the next leader")
	leader.Start()
	w.advance(t, 300, "files copied after the old leader's return")
	c.WaitReady()

	want := w.end(t)
	m.Sync()
	t.Logf("%d files copied; the slowest took %v", len(want), w.slowest)
	if len(want) < 2100 {
		t.Fatalf("only %d files were copied", len(want))
	}
	harness.SameTree(t, "through the mount that wrote", want, harness.Hashes(t, m.Dir))
	m.Unmount()
	harness.SameTree(t, "through a new mount", want, harness.Hashes(t, c.Mount().Dir))
	c.Check()
}
