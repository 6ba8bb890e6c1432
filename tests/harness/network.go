package harness

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Network is a network of hosts, each a network namespace of its own with one interface, joined by a switch that is
// a part of the test process: it passes packets on, delays, drops or doubles them, each direction of each pair by itself.
// Namespaces and interfaces have no names outside of the process and end with it.
type Network struct {
	t        testing.TB
	launcher *launcher

	mu    sync.RWMutex
	hosts []*Host
	lines map[[2]int]Line // from host to host; those that are not in it are perfect
	seed  uint64          // of what the lines do
}

// Host is one host of a network.
type Host struct {
	Name    string
	Address string // its IPv4 address

	index     int
	net       *Network
	namespace *os.File
	device    *os.File
}

// Line is what one direction between two hosts does to packets. The zero Line does nothing to them.
type Line struct {
	Cut    bool          // all are lost
	Loss   float64       // this part of them is lost
	Double float64       // this part of them comes twice
	Delay  time.Duration // each comes so late at most, chosen evenly, so that they overtake one another
}

// hostMTU is large, because each packet costs the switch two system calls.
const hostMTU = 32768

// NewNetwork makes an empty network, which ends with the test; the package's TestMain must be Main. What lossy lines do follows from the seed.
func NewNetwork(t testing.TB, seed uint64) *Network {
	t.Helper()
	n := &Network{t: t, lines: map[[2]int]Line{}, seed: seed, launcher: newLauncher(t)}
	t.Cleanup(n.close)
	return n
}

// Host makes a further host.
func (n *Network) Host(name string) *Host {
	n.t.Helper()
	h := &Host{Name: name, net: n, index: len(n.hosts) + 1}
	h.Address = fmt.Sprintf("10.77.0.%d", h.index)
	if err := h.make(); err != nil {
		n.t.Fatalf("making the network namespace of host %s (this takes root and /dev/net/tun): %v", name, err)
	}
	n.mu.Lock()
	n.hosts = append(n.hosts, h)
	n.mu.Unlock()
	go h.forward(rand.New(rand.NewPCG(n.seed, uint64(h.index))))
	return h
}

// make makes the namespace and its interface, on a thread that ends with it.
func (h *Host) make() error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		var err error
		if h.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if h.device, err = openTUN("dfs0"); err != nil {
			return err
		}
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", h.Address + "/24", "dev", "dfs0"},
			{"link", "set", "dfs0", "mtu", fmt.Sprint(hostMTU), "txqueuelen", "2000", "up"}} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w\n%s", args, err, out)
			}
		}
		return nil
	})
}

// openTUN makes a point-to-point interface in the thread's network namespace; each read and write is one IP packet.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], name)
	request.flags = unix.IFF_TUN | unix.IFF_NO_PI
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("TUNSETIFF", errno)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// forward passes on what the host sends, until its device is closed.
func (h *Host) forward(r *rand.Rand) {
	buf := make([]byte, hostMTU+128)
	for {
		size, err := h.device.Read(buf)
		if err != nil {
			return
		}
		if size < 20 || buf[0]>>4 != 4 {
			continue // no IPv4
		}
		to, line := h.net.line(h.index, int(buf[19]))
		if to == nil || line.Cut || r.Float64() < line.Loss {
			continue
		}
		if r.Float64() < line.Double {
			to.deliver(buf[:size], delay(r, line.Delay))
		}
		to.deliver(buf[:size], delay(r, line.Delay))
	}
}

func delay(r *rand.Rand, most time.Duration) time.Duration {
	if most == 0 {
		return 0
	}
	return time.Duration(r.Int64N(int64(most)))
}

func (n *Network) line(from, to int) (*Host, Line) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if to < 1 || to > len(n.hosts) {
		return nil, Line{}
	}
	return n.hosts[to-1], n.lines[[2]int{from, to}]
}

// deliver gives the host a packet. One that it cannot take is lost, as in any network.
func (h *Host) deliver(packet []byte, late time.Duration) {
	if late == 0 {
		_, _ = h.device.Write(packet)
		return
	}
	own := append([]byte(nil), packet...)
	time.AfterFunc(late, func() { _, _ = h.device.Write(own) })
}

// Set sets what the direction from one host to another does.
func (n *Network) Set(from, to *Host, line Line) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines[[2]int{from.index, to.index}] = line
}

// Cut loses everything between two sets of hosts, in both directions.
func (n *Network) Cut(some, others []*Host) {
	for _, a := range some {
		for _, b := range others {
			n.Set(a, b, Line{Cut: true})
			n.Set(b, a, Line{Cut: true})
		}
	}
}

// Heal makes every line perfect.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.lines)
}

func (n *Network) close() {
	for _, h := range n.hosts {
		_ = h.device.Close()
		_ = h.namespace.Close()
	}
}

// onThread calls f on a thread of its own, which ends with f.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: nobody else may run in another namespace
		done <- f()
	}()
	return <-done
}
