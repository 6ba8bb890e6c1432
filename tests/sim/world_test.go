package sim

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dfs/blockstore"
)

// world is one run: machines, their network, what was done and what was seen.
type world struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand // of the schedule; used by one goroutine
	dir    string
	begun  time.Time
	net    *network
	boot   map[blockstore.NodeID]string
	nodes  []*node
	mounts []*mount

	mu      sync.Mutex
	trace   []string // what was done, with its time
	logs    []string // the same, and what the parts logged; only if it is kept
	stacks  []byte   // of all goroutines at the first violation
	failed  []string
	lasted  time.Duration
	faults  map[string]int
	history []op
	killed  []kill // processes, since the watcher of losses looked last
	numbers uint64
	errors  int // operations that failed

	leaders  map[uint64]string // by term
	compared int
	space    *space
	tasks    []*task
	ledgers  []*ledger
	repairs  sync.WaitGroup // of faults
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), begun: time.Now(),
		boot: map[blockstore.NodeID]string{}, faults: map[string]int{}, leaders: map[uint64]string{}}
	w.net = newNetwork(rand.New(rand.NewPCG(seed, 2)))
	for _, id := range []string{"a", "b", "c"} {
		w.boot[blockstore.NodeID(id)] = addrOf(id)
		w.newNode(id)
	}
	return w
}

// note adds to the trace.
func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%9.4f ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
	if keepDir != "" {
		w.logs = append(w.logs, w.trace[len(w.trace)-1])
	}
	if os.Getenv("DFS_SIM_LOG") != "" {
		fmt.Fprintln(os.Stderr, w.trace[len(w.trace)-1])
	}
}

// fault notes a fault that was put in.
func (w *world) fault(kind, format string, args ...any) {
	w.note("FAULT %s: %s", kind, fmt.Sprintf(format, args...))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[kind]++
}

// fail notes a violation.
func (w *world) fail(format string, args ...any) {
	w.note("VIOLATION "+format, args...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, fmt.Sprintf(format, args...))
	if keepDir != "" && w.stacks == nil {
		w.stacks = make([]byte, 4<<20)
		w.stacks = w.stacks[:runtime.Stack(w.stacks, true)]
	}
}

// keepDir is where the whole log of a seed that failed is kept; "": nowhere.
var keepDir = os.Getenv("DFS_SIM_KEEP")

// keep writes what was done and logged, and where all goroutines stood at the first violation.
func (w *world) keep(failed []string) {
	if keepDir == "" || len(failed) == 0 {
		return
	}
	text := strings.Join(w.logs, "\n") + "\n\n" + strings.Join(failed, "\n") + "\n\n" + string(w.stacks)
	_ = os.WriteFile(filepath.Join(keepDir, fmt.Sprintf("seed-%d-%d.log", w.seed, os.Getpid())), []byte(text), 0o600)
}

func (w *world) ok() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.failed) == 0
}

// logger is what a part logs to: nowhere, but for warnings when the run is looked at.
func (w *world) logger(who string) *slog.Logger {
	switch os.Getenv("DFS_SIM_LOG") {
	case "":
		if keepDir != "" {
			return slog.New(slog.NewTextHandler(logKeeper{w, who}, &slog.HandlerOptions{Level: slog.LevelInfo}))
		}
		return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	case "debug":
		return slog.New(slog.NewTextHandler(traceWriter{w, who}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(traceWriter{w, who}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type traceWriter struct {
	w   *world
	who string
}

func (t traceWriter) Write(p []byte) (int, error) {
	_, line, _ := strings.Cut(strings.TrimSpace(string(p)), " ")
	t.w.note("%s: %s", t.who, line)
	return len(p), nil
}

// logKeeper keeps what is logged for a seed that fails.
type logKeeper struct {
	w   *world
	who string
}

func (k logKeeper) Write(p []byte) (int, error) {
	_, line, _ := strings.Cut(strings.TrimSpace(string(p)), " ")
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	k.w.logs = append(k.w.logs, fmt.Sprintf("%9.4f %s: %s", time.Since(k.w.begun).Seconds(), k.who, line))
	return len(p), nil
}

// excused tells whether a node had a reason to end itself.
func (w *world) excused(n *node, err error) bool {
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	return n.disk.excuse
}

// everyNode is every node that there ever was.
func (w *world) everyNode() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// members are the nodes that belong to the cluster.
func (w *world) members() []*node {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*node
	for _, n := range w.nodes {
		if !n.gone {
			out = append(out, n)
		}
	}
	return out
}
