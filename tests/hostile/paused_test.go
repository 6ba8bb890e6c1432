package hostile

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// commit is a transaction that its program was told to be done.
type commit struct {
	who, n     int
	began, end time.Time
}

// committer commits one transaction after the other to a database that others share.
type committer struct {
	who  int
	db   string
	mu   sync.Mutex
	done []commit // guarded by mu
	errs []error  // guarded by mu
}

func (c *committer) run(stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		began := time.Now()
		err := c.commit(n)
		c.mu.Lock()
		if err == nil {
			c.done = append(c.done, commit{c.who, n, began, time.Now()})
		} else {
			c.errs = append(c.errs, err)
		}
		c.mu.Unlock()
	}
}

func (c *committer) commit(n int) error {
	_, err := sh("/", `sqlite3 -bail "$1" <<<"$2"`, c.db, fmt.Sprintf(
		".timeout 100000\npragma synchronous=full;\nbegin immediate; insert into log values(%d, %d); update count set n = n + 1; commit;\n", c.who, n))
	return err
}

func (c *committer) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.done)
}

// TestPausedAndSharing stops one of four mounts that share a database for longer than its lease, in the midst of its transactions. The others go on
// without an error, nothing that was committed is lost, and the mount works again once it goes on. What the program on it was at when it was stopped
// may have failed or not: it lost its lock of the database.
func TestPausedAndSharing(t *testing.T) {
	if os.Getenv("DFS_SOAK_MINUTES") == "" {
		return
	}
	c := harness.Start(t, harness.Options{})
	c.WaitReady()
	var all []*committer
	var mounts []*harness.Mount
	for i := range 4 {
		m := c.Mount("--lease", lease.String())
		mounts = append(mounts, m)
		all = append(all, &committer{who: i, db: m.Path("db")})
	}
	_, err := sh("/", `sqlite3 -bail "$1" 'pragma journal_mode=delete; create table log(who, n, unique(who, n)); create table count(n); insert into count values(0)'`, all[0].db)
	must(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() { w.run(stop) })
	}
	progress := func(what string, from []int, who ...*committer) {
		harness.Eventually(t, patience, what, func() bool {
			for _, w := range who {
				if w.count() < from[w.who]+3 {
					return false
				}
			}
			return true
		})
	}
	counts := func() (n []int) {
		for _, w := range all {
			n = append(n, w.count())
		}
		return n
	}
	progress("commits on all mounts", counts(), all...)
	stopped := time.Now()
	mounts[3].Process().Signal(syscall.SIGSTOP)
	t.Cleanup(func() { mounts[3].Process().Signal(syscall.SIGCONT) })
	time.Sleep(2 * lease)
	progress("commits beside the mount that is stopped", counts(), all[:3]...)
	mounts[3].Process().Signal(syscall.SIGCONT)
	woken := time.Now()
	progress("commits on the mount that went on, too", counts(), all...)
	close(stop)
	wg.Wait()
	for _, w := range all[:3] {
		if len(w.errs) > 0 {
			t.Errorf("%d transactions failed on mount %d, which was not stopped: %v", len(w.errs), w.who, w.errs[0])
		}
	}
	t.Logf("commits: %v; %d failed on the mount that was stopped", counts(), len(all[3].errs))
	for _, m := range mounts {
		checkCommits(t, m, all, stopped, woken)
		m.Unmount()
	}
	c.Check()
}

// checkCommits looks that the database is whole, and has every transaction that was told to be done, but for one of the last mount's at the stop.
func checkCommits(t *testing.T, m *harness.Mount, all []*committer, stopped, woken time.Time) {
	t.Helper()
	out, err := sh("/", `sqlite3 -bail "$1" '.timeout 100000' "pragma integrity_check; select count(*) = (select n from count) from log; select who || '.' || n from log"`, m.Path("db"))
	must(t, err)
	rest, ok := strings.CutPrefix(out, "ok\n1\n")
	if !ok {
		t.Fatalf("the database is damaged: %.100q", out)
	}
	there := map[string]bool{}
	for _, name := range strings.Fields(rest) {
		there[name] = true
	}
	for _, w := range all {
		for _, d := range w.done {
			atStop := w.who == len(all)-1 && d.began.Before(woken) && d.end.After(stopped)
			if !there[fmt.Sprintf("%d.%d", d.who, d.n)] && !atStop {
				t.Errorf("transaction %d of mount %d was done at %v, and is not there", d.n, d.who, d.end)
			}
		}
	}
}
