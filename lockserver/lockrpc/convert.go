package lockrpc

import (
	"math"
	"strings"
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/wire/lockpb"
	ls "dfs/lockserver"
)

// each converts a list, nil for an empty one.
func each[A, B any](list []A, f func(A) B) []B {
	if len(list) == 0 {
		return nil
	}
	out := make([]B, len(list))
	for i, a := range list {
		out[i] = f(a)
	}
	return out
}

func ttlMilli(d time.Duration) uint64 { return uint64(max(d, 0) / time.Millisecond) }

func duration(milli uint64) time.Duration {
	return time.Duration(min(milli, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond
}

// mode keeps what is out of range out of range.
func mode(m lockpb.Mode) ls.Mode { return ls.Mode(min(uint32(m), 255)) }

func clientToWire(m *ls.ClientMsg) *lockpb.ClientMessage {
	w := &lockpb.ClientMessage{
		KeepAlive: m.KeepAlive,
		Releases: each(m.Releases, func(r ls.Release) *lockpb.Release {
			return &lockpb.Release{Id: uint64(r.ID), Epoch: uint64(r.Epoch), Number: r.Number, To: lockpb.Mode(r.To), Index: r.Index, Open: r.Open}
		}),
		Acquires: each(m.Acquires, func(r ls.Request) *lockpb.Acquire {
			return &lockpb.Acquire{Id: uint64(r.ID), Mode: lockpb.Mode(r.Mode)}
		}),
		Files: each(m.Files, func(r ls.FileRequest) *lockpb.FileRequest {
			return &lockpb.FileRequest{Ref: r.Ref, Op: lockpb.FileOp(r.Op), Id: uint64(r.ID), Lock: fileToWire(r.Lock), Wait: r.Wait}
		}),
	}
	if h := m.Hello; h != nil {
		w.Hello = &lockpb.Hello{Writer: uint64(h.Writer), Token: h.Token[:], Name: strings.ToValidUTF8(h.Name, "\uFFFD"), TtlMilli: ttlMilli(h.TTL)}
	}
	if c := m.Claims; c != nil {
		w.Claims = &lockpb.Claims{
			Locks: each(c.Locks, func(k ls.Claim) *lockpb.Claim {
				return &lockpb.Claim{Id: uint64(k.ID), Mode: lockpb.Mode(k.Mode), Open: k.Open}
			}),
			Given: each(c.Given, func(r ls.IDRun) *lockpb.Run { return &lockpb.Run{First: uint64(r.First), Count: r.Count} }),
			Files: each(c.Files, func(f ls.FileClaim) *lockpb.FileClaim {
				return &lockpb.FileClaim{Id: uint64(f.ID), Lock: fileToWire(f.Lock)}
			}),
			Floor: c.Floor, Done: c.Done,
		}
	}
	if m.End != nil {
		w.End = &lockpb.End{Clean: m.End.Clean}
	}
	return w
}

// clientFromWire checks form only; what a message may say, lockserver decides.
func clientFromWire(w *lockpb.ClientMessage) (*ls.ClientMsg, error) {
	m := &ls.ClientMsg{
		KeepAlive: w.KeepAlive,
		Releases: each(w.Releases, func(r *lockpb.Release) ls.Release {
			return ls.Release{ID: ls.LockID(r.GetId()), Epoch: blockstore.Epoch(r.GetEpoch()), Number: r.GetNumber(), To: mode(r.GetTo()), Index: r.GetIndex(), Open: r.GetOpen()}
		}),
		Acquires: each(w.Acquires, func(r *lockpb.Acquire) ls.Request {
			return ls.Request{ID: ls.LockID(r.GetId()), Mode: mode(r.GetMode())}
		}),
		Files: each(w.Files, func(r *lockpb.FileRequest) ls.FileRequest {
			return ls.FileRequest{Ref: r.GetRef(), Op: ls.FileOp(min(uint32(r.GetOp()), 255)), ID: ls.LockID(r.GetId()), Lock: fileFromWire(r.GetLock()), Wait: r.GetWait()}
		}),
	}
	if h := w.Hello; h != nil {
		m.Hello = &ls.Hello{Writer: blockstore.WriterID(h.Writer), Name: h.Name, TTL: duration(h.TtlMilli)}
		if copy(m.Hello.Token[:], h.Token) != len(m.Hello.Token) || len(h.Token) != len(m.Hello.Token) {
			return nil, errors.New(errors.KindInvalid, "a session token of %d bytes, %d are due: the client is defective", len(h.Token), len(m.Hello.Token))
		}
	}
	if c := w.Claims; c != nil {
		m.Claims = &ls.Claims{
			Locks: each(c.Locks, func(k *lockpb.Claim) ls.Claim {
				return ls.Claim{ID: ls.LockID(k.GetId()), Mode: mode(k.GetMode()), Open: k.GetOpen()}
			}),
			Given: each(c.Given, func(r *lockpb.Run) ls.IDRun { return ls.IDRun{First: ls.LockID(r.GetFirst()), Count: r.GetCount()} }),
			Files: each(c.Files, func(f *lockpb.FileClaim) ls.FileClaim {
				return ls.FileClaim{ID: ls.LockID(f.GetId()), Lock: fileFromWire(f.GetLock())}
			}),
			Floor: c.Floor, Done: c.Done,
		}
	}
	if w.End != nil {
		m.End = &ls.End{Clean: w.End.Clean}
	}
	return m, nil
}

func fileToWire(l ls.FileLock) *lockpb.FileLock {
	if l == (ls.FileLock{}) {
		return nil
	}
	return &lockpb.FileLock{Owner: l.Owner, Start: l.Start, End: l.End, Type: lockpb.FileLockType(l.Type), Pid: l.PID, Flock: l.Flock}
}

func fileFromWire(w *lockpb.FileLock) ls.FileLock {
	return ls.FileLock{Owner: w.GetOwner(), Start: w.GetStart(), End: w.GetEnd(), Type: ls.FileLockType(min(uint32(w.GetType()), 255)), PID: w.GetPid(), Flock: w.GetFlock()}
}

func serverToWire(m *ls.ServerMsg) *lockpb.ServerMessage {
	w := &lockpb.ServerMessage{
		Epoch: uint64(m.Epoch), Seen: m.Seen, Renewed: m.Renewed,
		Grants: each(m.Grants, func(g ls.Grant) *lockpb.Grant {
			return &lockpb.Grant{Id: uint64(g.ID), Number: g.Number, Mode: lockpb.Mode(g.Mode), MinIndex: g.MinIndex, Open: g.Open}
		}),
		Revokes: each(m.Revokes, func(r ls.Revoke) *lockpb.Revoke {
			return &lockpb.Revoke{Id: uint64(r.ID), Number: r.Number, To: lockpb.Mode(r.To)}
		}),
		Files: each(m.Files, func(r ls.FileReply) *lockpb.FileReply {
			return &lockpb.FileReply{Ref: r.Ref, Ok: r.OK, Kind: uint32(r.Kind), Lock: fileToWire(r.Lock)}
		}),
	}
	if m.Welcome != nil {
		w.Welcome = &lockpb.Welcome{Writer: uint64(m.Welcome.Writer), TtlMilli: ttlMilli(m.Welcome.TTL)}
	}
	if m.Claimed != nil {
		w.Claimed = &lockpb.Claimed{First: m.Claimed.First, Count: m.Claimed.Count}
	}
	return w
}

func serverFromWire(w *lockpb.ServerMessage) *ls.ServerMsg {
	m := &ls.ServerMsg{
		Epoch: blockstore.Epoch(w.Epoch), Seen: w.Seen, Renewed: w.Renewed,
		Grants: each(w.Grants, func(g *lockpb.Grant) ls.Grant {
			return ls.Grant{ID: ls.LockID(g.GetId()), Number: g.GetNumber(), Mode: mode(g.GetMode()), MinIndex: g.GetMinIndex(), Open: g.GetOpen()}
		}),
		Revokes: each(w.Revokes, func(r *lockpb.Revoke) ls.Revoke {
			return ls.Revoke{ID: ls.LockID(r.GetId()), Number: r.GetNumber(), To: mode(r.GetTo())}
		}),
		Files: each(w.Files, func(r *lockpb.FileReply) ls.FileReply {
			return ls.FileReply{Ref: r.GetRef(), OK: r.GetOk(), Kind: errors.Kind(r.GetKind()), Lock: fileFromWire(r.GetLock())}
		}),
	}
	if w.Welcome != nil {
		m.Welcome = &ls.Welcome{Writer: blockstore.WriterID(w.Welcome.Writer), TTL: duration(w.Welcome.TtlMilli)}
	}
	if w.Claimed != nil {
		m.Claimed = &ls.Claimed{First: w.Claimed.First, Count: w.Claimed.Count}
	}
	return m
}
