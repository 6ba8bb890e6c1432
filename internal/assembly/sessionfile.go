package assembly

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/jsonfile"
	"dfs/lockserver/lockrpc"
)

// A session file's frame is that of package jsonfile.
const (
	sessionFileMagic   = "dfs-session"
	sessionFileVersion = 2
	sessionFileMax     = 64 << 10 // bytes
)

// deadSessionWait bounds the end of a dead predecessor's session; what remains then runs out with its lease.
const deadSessionWait = 10 * time.Second

// sessionFile remembers the session of a file server on its machine's disk. Its
// owner holds a lock on it (flock) as long as the process lives, so whoever gets the
// lock knows that the process that wrote it is dead, and may end its session: what
// that held is free at once, and a mount that crashed is back without waiting for its own old lease. The file holds the session's
// secret: it is readable by its owner only.
type sessionFile struct {
	f   *os.File
	log *slog.Logger
}

// sessionRecord is the file's content.
type sessionRecord struct {
	Cluster string `json:"cluster"`
	Writer  uint64 `json:"writer"`
	Token   string `json:"token"` // 32 hex digits
}

func encodeSession(cluster string, session blockstore.Session) ([]byte, error) {
	return jsonfile.Encode(sessionFileMagic, sessionFileVersion,
		sessionRecord{Cluster: cluster, Writer: uint64(session.Writer), Token: hex.EncodeToString(session.Token[:])})
}

// decodeSession: KindForeign, KindTooNew, KindCorrupt. Version 1 had no checksum: its fields stand beside the magic.
func decodeSession(b []byte) (cluster string, session blockstore.Session, err error) {
	var first struct {
		Magic   string `json:"magic"`
		Version int    `json:"version"`
		sessionRecord
	}
	if err := json.Unmarshal(b, &first); err != nil || first.Magic != sessionFileMagic || first.Version != 1 {
		if err := jsonfile.Decode(b, sessionFileMagic, sessionFileVersion, &first.sessionRecord); err != nil {
			return "", session, err
		}
	}
	token, err := hex.DecodeString(first.Token)
	if err != nil || len(token) != len(session.Token) {
		return "", session, errors.New(errors.KindCorrupt, "the session's secret is not %d hex digits", 2*len(session.Token))
	}
	session.Writer = blockstore.WriterID(first.Writer)
	copy(session.Token[:], token)
	return first.Cluster, session, nil
}

// takeSessionFile takes the file and ends the session that it names; nil with an error if it cannot be used.
func takeSessionFile(ctx context.Context, path string, cl *cluster.Cluster, log *slog.Logger) (*sessionFile, error) {
	s, err := openSessionFile(path, log)
	if err != nil {
		return nil, err
	}
	if err := s.endPredecessor(ctx, cl); err != nil {
		s.f.Close()
		return nil, err
	}
	return s, nil
}

// openSessionFile takes the file; KindBusy where its owner lives.
func openSessionFile(path string, log *slog.Logger) (*sessionFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, errors.New(errors.KindOf(err), "the session file's directory: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "the session file: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.New(errors.KindBusy, "%s is held by another process: this mount or node runs already", path)
	}
	return &sessionFile{f: f, log: log}, nil
}

// endPredecessor ends the session that a dead process left in the file. A session that cannot be ended runs out with its
// lease, and what is damaged is overwritten. KindTooNew, KindForeign: the file is not this program's to write.
func (s *sessionFile) endPredecessor(ctx context.Context, cl *cluster.Cluster) error {
	b, err := io.ReadAll(io.NewSectionReader(s.f, 0, sessionFileMax))
	if err != nil || len(b) == 0 {
		return nil
	}
	name, session, err := decodeSession(b)
	switch {
	case errors.Is(err, errors.KindTooNew), errors.Is(err, errors.KindForeign):
		return errors.New(errors.KindOf(err), "the session file %s is left alone: %w", s.f.Name(), err)
	case err != nil:
		s.log.Warn("the session file is damaged; the session it names runs out by itself", "file", s.f.Name(), "error", err)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, deadSessionWait)
	defer cancel()
	if err := cl.Refresh(ctx); err != nil || (name != "" && cl.ID() != "" && cl.ID() != name) {
		return nil // another cluster's: nothing to end here
	}
	if err := lockrpc.EndDead(ctx, cl, session); err != nil {
		s.log.Warn("the session of this mount's dead predecessor could not be ended; it runs out by itself", "session", session.Writer, "error", err)
		return nil
	}
	s.log.Info("ended the session that a dead process had left", "session", session.Writer)
	return nil
}

// write remembers session as the owner's.
func (s *sessionFile) write(cluster string, session blockstore.Session) error {
	b, err := encodeSession(cluster, session)
	if err != nil {
		return err
	}
	if err := s.f.Truncate(0); err != nil {
		return err
	}
	_, err = s.f.WriteAt(b, 0)
	return err
}

// close gives the file up; with over, the session has ended and there is nothing to remember.
func (s *sessionFile) close(over bool) {
	if over {
		_ = s.f.Truncate(0) // else the next owner ends a session that is over: no error
	}
	s.f.Close()
}
