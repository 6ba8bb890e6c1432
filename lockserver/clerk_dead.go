package lockserver

import (
	"context"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// EndDead ends a session whose process is known to be dead, as its owner: it
// attaches with the session's token and says End. So what the dead process held is free as soon as its
// writer is closed in the log, instead of after its lease. It claims nothing, because claims settle:
// locks would be free before the writer is closed, and a record of the dead process that is still
// under way could be applied under the next holder. Whoever calls must KNOW that the process is dead (not
// stopped, not cut off), since it may answer from its caches until its lease ends. Its orphan list is left to be adopted.
// A session that is over already is no error.
func EndDead(ctx context.Context, t Transport, session blockstore.Session) error {
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		err := endDeadOnce(ctx, t, session)
		if final(err) {
			return nil
		}
		if !sleep(ctx, wait) {
			return errors.New(errors.KindOf(ctx.Err()), "ending session %d of a dead process: %w", session.Writer, err)
		}
	}
}

// endDeadOnce asks on one stream; what it returns is never nil, and final once the session is over.
func endDeadOnce(ctx context.Context, t Transport, session blockstore.Session) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := t.Dial(ctx)
	if err != nil {
		return err
	}
	defer func() { stream.Close(err) }()
	if err = stream.Send(&ClientMsg{Hello: &Hello{Writer: session.Writer, Token: session.Token}}); err != nil {
		return err
	}
	if _, err = stream.Recv(); err != nil {
		return err
	}
	if err = stream.Send(&ClientMsg{End: &End{}}); err != nil {
		return err
	}
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}
