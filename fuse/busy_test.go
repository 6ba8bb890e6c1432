package fuse

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dfs/internal/errors"
)

// TestBusyForAMoment: a mount that is in use for a moment only is unmounted, and one that stays in use is not.
func TestBusyForAMoment(t *testing.T) {
	m, err := New(t.TempDir(), &fakeFS{}, Options{Source: "fake", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(m.Dir(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	user := os.NewFile(uintptr(fd), m.Dir())
	if err := m.Unmount(false); !errors.Is(err, errors.KindBusy) {
		t.Errorf("a mount in use: %v", err)
	}
	time.AfterFunc(busyPause, func() { _ = user.Close() })
	if err := m.Unmount(false); err != nil {
		t.Errorf("a mount that was in use for a moment: %v", err)
		_ = m.Unmount(true)
	}
	<-m.Done()
}
