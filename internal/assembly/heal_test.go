package assembly

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dfs/internal/errors"
	"dfs/lockserver"
)

// fakeServer notes what reaches the file server.
type fakeServer struct{ told []string }

func (s *fakeServer) note(what string)                                 { s.told = append(s.told, what) }
func (s *fakeServer) PrepareRevoke(lockserver.LockID, lockserver.Mode) { s.note("prepare") }
func (s *fakeServer) LeaseExpired()                                    { s.note("expired") }
func (s *fakeServer) SessionEnded(error)                               { s.note("ended") }
func (s *fakeServer) Revoke(lockserver.LockID, lockserver.Mode) (uint64, bool, error) {
	s.note("revoke")
	return 7, true, nil
}

// TestOverIsNotHeard: what the clerk of a session says reaches the file server as long as the session is the present one, and not the one after.
func TestOverIsNotHeard(t *testing.T) {
	s := &fakeServer{}
	h := &holder{server: s}
	all := func() (index uint64, err error) {
		h.PrepareRevoke(1, lockserver.None)
		index, _, err = h.Revoke(1, lockserver.None)
		h.LeaseExpired()
		h.SessionEnded(nil)
		return index, err
	}
	if index, err := all(); index != 7 || err != nil || !slices.Equal(s.told, []string{"prepare", "revoke", "expired", "ended"}) {
		t.Errorf("of a live session: %d, %v, %v", index, err, s.told)
	}
	s.told = nil
	h.over.Store(true)
	if _, err := all(); !errors.Is(err, errors.KindSessionEnded) || s.told != nil {
		t.Errorf("of a session that is over: %v, %v", err, s.told)
	}
}

// TestLeaveDoesNotWait: the end of a lost session, which may wait for a kernel that waits for the next session, is not waited for.
func TestLeaveDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, kernel := &FileServer{opt: FileServerOptions{Logger: slog.New(slog.DiscardHandler)}}, make(chan struct{})
		b := &backend{holder: &holder{server: &fakeServer{}}, end: func() { <-kernel }}
		began := time.Now()
		f.leave(b)
		if !b.holder.over.Load() {
			t.Error("a session that was left is still heard")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f.awaitLeft(ctx)
		if took := time.Since(began); took != time.Second {
			t.Errorf("the end of a session that hangs was waited for %v at the close, want 1s", took)
		}
		close(kernel)
		f.awaitLeft(t.Context())
	})
}

// TestHeal: a lost session is replaced, however often that fails; the late notice of an older one ends nothing.
func TestHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var live atomic.Bool
		var did []string
		lost, fails := make(chan error, 1), 0
		h := healer{lost: lost, live: live.Load, log: slog.New(slog.DiscardHandler),
			leave: func() { did = append(did, "leave") },
			attach: func(context.Context) error {
				if fails > 0 {
					fails--
					did = append(did, "fail")
					if fails == 0 {
						lost <- errors.Of(errors.KindSessionEnded) // this one was lost while it was being opened
					}
					return errors.Of(errors.KindUnavailable)
				}
				did = append(did, "attach")
				live.Store(true)
				return nil
			}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.run(ctx)
		}()
		fails = 2
		lost <- errors.Of(errors.KindSessionEnded)
		time.Sleep(time.Minute)
		if want := []string{"leave", "fail", "fail", "attach"}; !slices.Equal(did, want) {
			t.Errorf("%v, want %v", did, want)
		}
		did = nil
		live.Store(false)
		lost <- errors.Of(errors.KindSessionEnded)
		time.Sleep(time.Minute)
		if want := []string{"leave", "attach"}; !slices.Equal(did, want) {
			t.Errorf("lost again: %v, want %v", did, want)
		}
		live.Store(false)
		fails = 1 << 30 // ends while there is no session
		lost <- errors.Of(errors.KindSessionEnded)
		time.Sleep(time.Minute)
		cancel()
		<-ended
	})
}
