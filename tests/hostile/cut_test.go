package hostile

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/tests/harness"
)

// TestOneWayCut cuts one direction between a mount and all nodes, for longer than its lease, while it has dirty data and others
// wait for what it holds: they go on when its lease is over, it tells what it lost and serves nothing old, and goes on by itself.
func TestOneWayCut(t *testing.T) {
	net := harness.NewNetwork(t, 1)
	c := harness.Start(t, harness.Options{Network: net})
	c.WaitReady()
	cut, other := c.Mount("--lease", lease.String()), c.Mount("--lease", lease.String())
	for _, way := range []string{"nothing goes out", "nothing comes in"} {
		t.Run(way, func(t *testing.T) {
			name := way
			defer net.Heal()
			must(t, os.WriteFile(cut.Path(name), []byte("first "), 0o666))
			f := open(t, cut.Path(name))
			defer f.Close()
			must(t, f.Sync())
			for _, n := range c.Nodes {
				if way == "nothing goes out" {
					net.Set(cut.Host, n.Host, harness.Line{Cut: true})
				} else {
					net.Set(n.Host, cut.Host, harness.Line{Cut: true})
				}
			}
			_, err := f.WriteAt([]byte("second"), 0)
			must(t, err)
			began := time.Now()
			within(t, "a write to what a mount that was cut off held", func() error { return os.WriteFile(other.Path(name), []byte("third "), 0o666) })
			t.Logf("the others waited %v for a lease of %v", time.Since(began).Round(time.Millisecond), lease)

			// While it is cut off it answers nothing from its caches; what waits is answered, rightly, afterwards.
			read := waits(t, "a read through a mount that is cut off", func() error {
				data, err := os.ReadFile(cut.Path(name))
				if err == nil && string(data) != "third " {
					err = errors.New("it is old: " + string(data))
				}
				return err
			})
			timed := waits(t, "a program with a timer on a mount that is cut off", func() error { return underTimer(cut.Path(name), cut.Path("moved")) })
			net.Heal()
			arrives(t, "the program with a timer", timed)
			arrives(t, "the read, after the network healed", read)
			told := 0
			for range 3 {
				if err := f.Sync(); errors.Is(err, unix.EIO) {
					told++
				} else if err != nil {
					t.Errorf("fsync: %v", err)
				}
			}
			if told != 1 {
				t.Errorf("the loss of what was written was told %d times", told)
			}
			within(t, "a write after the network healed", func() error { return os.WriteFile(cut.Path(name), []byte("fourth"), 0o666) })
			if got, err := os.ReadFile(other.Path(name)); err != nil || string(got) != "fourth" {
				t.Errorf("the other mount reads %q, %v", got, err)
			}
		})
	}
	if t.Failed() {
		return
	}
	cut.Unmount()
	other.Unmount()
	c.Check()
}

// underTimer uses a file of a mount that answers late: no call may fail with EINTR.
func underTimer(path, moved string) error {
	_, err := harness.UnderTimer(time.Millisecond, `
path, moved = sys.argv[1].encode(), sys.argv[2].encode()
call("access", path, 4)
fd = call("open", path, os.O_RDWR)
call("read", fd, ctypes.create_string_buffer(10), 10)
call("rename", path, moved)
call("rename", moved, path)
call("close", fd)
`, path, moved) // python runs its handler between calls, the kernel interrupts in them
	return err
}
