package crash

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"dfs/tests/harness"
)

// returned is what a call that runs beside the test gave.
type returned struct {
	done chan struct{}
	err  error
}

func beside(f func() error) *returned {
	r := &returned{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = f()
	}()
	return r
}

// over tells whether the call has returned.
func (r *returned) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// wait waits for the call's end.
func (r *returned) wait(t *testing.T, what string) error {
	t.Helper()
	harness.Eventually(t, 90*time.Second, what, r.over)
	return r.err
}

// Two of three nodes are gone: calls wait, those of the mount with --quorum-wait fail with EIO after it, a waiting process can be
// killed; and when the nodes are back all that was written becomes durable.
func TestQuorumLost(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	patient, hasty := c.Mount(), c.Mount("--quorum-wait", "3s", "--lease", "2s") // the second one's lease runs out meanwhile
	open := func(m *harness.Mount, name string) *os.File {
		t.Helper()
		f, err := os.OpenFile(m.Path(name), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	write := func(f *os.File, s string) {
		t.Helper()
		if _, err := f.WriteAt([]byte(s), 0); err != nil {
			t.Fatal(err)
		}
	}
	p, h := open(patient, "patient"), open(hasty, "hasty")
	write(p, "before")
	write(h, "before")
	patient.Sync()
	hasty.Sync()

	gone := c.Followers()
	for _, n := range gone {
		n.Kill()
	}
	write(p, "meanwhile")
	waiting := beside(p.Sync)
	write(h, "meanwhile")
	if err := beside(h.Sync).wait(t, "the fsync to fail after --quorum-wait"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("fsync without a quorum: %v, want EIO", err)
	}
	if waiting.over() {
		t.Fatalf("the fsync of the patient mount returned without a quorum: %v", waiting.err)
	}
	killable(t, patient.Path("by-dd"))

	for _, n := range gone {
		n.Start()
	}
	if err := waiting.wait(t, "the waiting fsync"); err != nil {
		t.Fatalf("the fsync that waited for the quorum: %v", err)
	}
	c.WaitReady()
	if err := beside(h.Sync).wait(t, "the second fsync"); err != nil {
		t.Fatalf("fsync after the quorum's return: %v", err)
	}
	for m, name := range map[*harness.Mount]string{patient: "hasty", hasty: "patient"} {
		if b, err := os.ReadFile(m.Path(name)); err != nil || string(b) != "meanwhile" {
			t.Errorf("%s read through the other mount: %q, %v", name, b, err)
		}
	}
	write(open(hasty, "after"), "after") // the mounts go on
	c.Check()
}

// killable checks that SIGKILL ends a process that waits for the quorum.
func killable(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command("dd", "if=/dev/zero", "of="+path, "bs=4k", "count=1", "conv=fsync")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := beside(cmd.Wait)
	harness.Eventually(t, 30*time.Second, "dd to wait", func() bool {
		if r.over() {
			t.Fatalf("dd with fsync ended without a quorum: %v", r.err)
		}
		return harness.WaitsInFUSE(cmd.Process.Pid)
	})
	_ = cmd.Process.Kill()
	_ = r.wait(t, "dd to die of SIGKILL")
}
