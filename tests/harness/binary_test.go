package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestOldProcessesEnd: what a test process left running that was killed is ended by the next one.
func TestOldProcessesEnd(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	dir := binaryDir(dead.Process.Pid)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "dfs")
	if err := os.WriteFile(left, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(left, "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		killAllOf(dir) // it may not have begun yet
		select {
		case err := <-ended:
			if err == nil {
				t.Error("it ended by itself")
			}
			removeOldBinaries()
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("its program is still there: %v", err)
			}
			return
		default:
		}
	}
	t.Fatal("it still runs")
}
