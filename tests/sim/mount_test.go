package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"dfs/fs"
	"dfs/internal/assembly"
	"dfs/internal/cluster"
)

// mount is a machine on which a file server runs. Its clock of leases runs by rate, from an offset of its own,
// and may jump ahead (a suspended machine); its clock of day is anywhere and may jump both ways.
type mount struct {
	w    *world
	name string
	host *host

	rate float64
	skip atomic.Int64 // jumps of the lease clock
	day  atomic.Int64 // of the clock of day

	mu      sync.Mutex
	server  *assembly.FileServer // nil: no process
	cluster *cluster.Cluster
	life    int             // counts processes
	began   time.Duration   // when the process did
	ctx     context.Context // ends with the process
	kill    context.CancelFunc
	unwound chan struct{}
	frozen  chan struct{} // not nil: its processes do not run until it is closed
}

func (w *world) newMount(name string) *mount {
	m := &mount{w: w, name: name, host: w.net.host(name), unwound: make(chan struct{})}
	rng := rand.New(rand.NewPCG(w.seed, uint64(name[len(name)-1])))
	m.rate = 0.96 + 0.08*rng.Float64() // the lease allows for a tenth between two clocks
	m.skip.Store(int64(rng.Uint64N(uint64(1000 * time.Hour))))
	m.day.Store(int64(rng.IntN(7200)-3600) * int64(time.Second))
	close(m.unwound)
	w.mounts = append(w.mounts, m)
	return m
}

// leaseClock stands for CLOCK_BOOTTIME.
func (m *mount) leaseClock() time.Duration {
	return time.Duration(float64(time.Since(m.w.begun))*m.rate) + time.Duration(m.skip.Load())
}

func (m *mount) dayClock() time.Time { return time.Now().Add(time.Duration(m.day.Load())) }

// start starts the file server's process; it ends the session of the one before.
func (m *mount) start(ctx context.Context) error {
	<-m.unwound
	m.host.start()
	var addrs []string
	for _, n := range m.w.members() {
		addrs = append(addrs, addrOf(n.id))
	}
	log := m.w.logger(m.name)
	cl, err := cluster.Dial(addrs, cluster.Options{Dialer: m.host.Dial, Log: log})
	if err != nil {
		return err
	}
	server, err := assembly.OpenFileServer(ctx, cl, assembly.FileServerOptions{Name: m.name, TTL: 5 * time.Second, Logger: log, Clock: m.leaseClock,
		SessionFile: filepath.Join(m.w.dir, m.name, "session"),
		FS:          fs.Options{CacheBytes: 1 << 20, QuorumWait: 20 * time.Second, InodeBatch: 64, ReserveBatch: 256, Now: m.dayClock, OrphanInterval: 7 * time.Second}})
	if err != nil {
		cl.Close()
		return fmt.Errorf("file server %s does not start: %w", m.name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.life++
	m.began = m.w.since()
	m.server, m.cluster, m.unwound = server, cl, make(chan struct{})
	m.ctx, m.kill = context.WithCancel(context.Background())
	return nil
}

// crash kills the process.
func (m *mount) crash() bool {
	m.mu.Lock()
	server, cl, end, unwound := m.server, m.cluster, m.kill, m.unwound
	k := kill{m: m, life: m.life, since: m.began}
	m.server = nil
	m.mu.Unlock()
	if server == nil {
		return false
	}
	m.host.kill(false)
	end()
	k.writer = server.Clerk().Session().Writer
	m.w.mu.Lock()
	m.w.killed = append(m.w.killed, k)
	m.w.mu.Unlock()
	m.thaw()
	go func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = server.Close(ctx)
		cl.Close()
		close(unwound)
	}()
	return true
}

// stop ends the process in order.
func (m *mount) stop() error {
	m.mu.Lock()
	server, cl, kill, unwound := m.server, m.cluster, m.kill, m.unwound
	m.server = nil
	m.mu.Unlock()
	if server == nil {
		<-unwound
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := server.Close(ctx)
	kill()
	cl.Close()
	close(unwound)
	return err
}

// freeze stops the process: nothing goes in or out, no call is answered. (Its timers run on.)
func (m *mount) freeze() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil || m.server == nil {
		return false
	}
	m.frozen = make(chan struct{})
	m.host.freeze(true)
	return true
}

func (m *mount) thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil {
		close(m.frozen)
		m.frozen = nil
		m.host.freeze(false)
	}
}

// runs waits while the process is stopped.
func (m *mount) runs() {
	m.mu.Lock()
	c := m.frozen
	m.mu.Unlock()
	if c != nil {
		<-c
	}
}

// now returns the running server, nil if there is none, with the number of its life and a context that ends with it.
func (m *mount) now() (*assembly.FileServer, int, context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.server, m.life, m.ctx
}
