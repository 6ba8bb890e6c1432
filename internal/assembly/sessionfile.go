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
	"dfs/lockserver/lockrpc"
)

// sessionFileVersion is the format of a session file:
//
//	{"magic": "dfs-session", "version": 1, "cluster": "…", "writer": 7, "token": "32 hex digits"}
const (
	sessionFileMagic   = "dfs-session"
	sessionFileVersion = 1
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
	Magic   string `json:"magic"`
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	Writer  uint64 `json:"writer"`
	Token   string `json:"token"`
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

// endPredecessor ends the session that a dead process left in the file. It never fails the
// start: a session that cannot be ended runs out with its lease.
func (s *sessionFile) endPredecessor(ctx context.Context, cl *cluster.Cluster) {
	b, err := io.ReadAll(io.NewSectionReader(s.f, 0, 1<<16))
	if err != nil || len(b) == 0 {
		return
	}
	var r sessionRecord
	var session blockstore.Session
	token, terr := []byte(nil), error(nil)
	if err = json.Unmarshal(b, &r); err == nil {
		token, terr = hex.DecodeString(r.Token)
	}
	if err != nil || terr != nil || r.Magic != sessionFileMagic || r.Version != sessionFileVersion || len(token) != len(session.Token) {
		s.log.Warn("the session file is not readable by this dfs; the session it names runs out by itself", "file", s.f.Name())
		return
	}
	session.Writer = blockstore.WriterID(r.Writer)
	copy(session.Token[:], token)
	ctx, cancel := context.WithTimeout(ctx, deadSessionWait)
	defer cancel()
	if err := cl.Refresh(ctx); err != nil || (r.Cluster != "" && cl.ID() != "" && cl.ID() != r.Cluster) {
		return // another cluster's: nothing to end here
	}
	if err := lockrpc.EndDead(ctx, cl, session); err != nil {
		s.log.Warn("the session of this mount's dead predecessor could not be ended; it runs out by itself", "session", r.Writer, "error", err)
		return
	}
	s.log.Info("ended the session that a dead process had left", "session", r.Writer)
}

// write remembers session as the owner's.
func (s *sessionFile) write(cluster string, session blockstore.Session) error {
	b, err := json.Marshal(sessionRecord{Magic: sessionFileMagic, Version: sessionFileVersion, Cluster: cluster,
		Writer: uint64(session.Writer), Token: hex.EncodeToString(session.Token[:])})
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
