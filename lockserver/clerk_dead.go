package lockserver

import (
	"context"
	"log/slog"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// EndDead ends a session whose process is known to be dead, as its owner: it
// attaches with the session's token, claims nothing, and has the writer
// closed. So what the dead process held is free at once instead of after its lease. Whoever
// calls must KNOW that the process is dead (not stopped, not cut off): it may answer from its
// caches until its lease ends. Its orphan list is left to be adopted. A session that is over already is no error.
func EndDead(ctx context.Context, t Transport, session blockstore.Session, log *slog.Logger) error {
	c, err := NewClerk(t, ClerkOptions{Holder: deadHolder{}, Logger: log})
	if err != nil {
		return err
	}
	c.ses = session
	err = c.Start(ctx)
	if err == nil {
		err = c.Close(ctx)
	}
	switch {
	case errors.Is(err, errors.KindDeadWriter), errors.Is(err, errors.KindSessionEnded), errors.Is(err, errors.KindWrongToken):
		return nil
	}
	return err
}

// deadHolder holds nothing; what it left behind is an orphan list.
type deadHolder struct{}

func (deadHolder) Revoke(LockID, Mode) (index uint64, open bool, err error) { return 0, false, nil }
func (deadHolder) LeaseExpired()                                            {}
func (deadHolder) SessionEnded(error)                                       {}
func (deadHolder) OrphansLeft() bool                                        { return true }

var (
	_ Holder         = deadHolder{}
	_ OrphanReporter = deadHolder{}
)
