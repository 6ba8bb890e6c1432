package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dfs/fs"
	"dfs/internal/assembly"
)

// ledger is a program that counts in files of its own: step n writes n into file n%3, then renames its one named file from n-1
// to n. After a loss of its session what is found must be a prefix of its steps (R3), with all that it was told is durable (R2).
type ledger struct {
	task
	dir   fs.Ino
	files [ledgerFiles]fs.Ino
	owner int                 // the session that counted last; 0: none
	ses   uint64              // and its writer
	stray [ledgerFiles]uint64 // written while the session changed
	alone uint64              // a step whose name may have changed under the next session, and its file not
	doubt bool                // a step failed: look before going on
	next  uint64              // the step to do next
	sure  uint64              // steps up to this one are durable
	tried uint64              // no step above this one was begun

	lost, kept uint64 // steps lost with sessions, sessions of which something was lost
}

const ledgerFiles = 3

// set makes the ledger's files.
func (l *ledger) set(ctx context.Context, s *assembly.FileServer) error {
	e, err := s.Mkdir(ctx, nobody, fs.RootIno, "ledger-"+l.m.name, 0o700)
	if err != nil {
		return err
	}
	l.dir, l.next = e.Attr.Ino, 1
	for i := range l.files {
		e, h, _, err := s.Create(ctx, nobody, l.dir, fmt.Sprint("p", i), 0o600, rdwr)
		if err != nil {
			return err
		}
		l.files[i] = e.Attr.Ino
		_ = s.Release(ctx, h)
	}
	_, h, _, err := s.Create(ctx, nobody, l.dir, "n0", 0o600, rdwr)
	if err != nil {
		return err
	}
	_ = s.Release(ctx, h)
	return s.SyncAll(ctx)
}

// run counts until end is closed.
func (l *ledger) run(end <-chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(time.Duration(1 + l.rng.Int64N(int64(l.pause)))):
		}
		l.m.runs()
		server, life, ctx := l.m.now()
		if server == nil {
			continue
		}
		l.begin("ledger")
		err := l.step(ctx, server, l.m.owner(life))
		l.done()
		if err != nil {
			l.w.refused(err)
			l.doubt = true
		}
	}
}

// step looks what is there if something happened, and counts one.
func (l *ledger) step(ctx context.Context, s *assembly.FileServer, owner int) error {
	ses := uint64(s.Clerk().Session().Writer)
	if l.owner != owner || l.ses != ses || l.doubt {
		found, err := l.look(ctx, s)
		if err != nil {
			return err
		}
		if uint64(s.Clerk().Session().Writer) != ses {
			return nil
		}
		if l.owner == owner && l.ses == ses && found+1 < l.next {
			l.w.fail("%s's ledger is at step %d after step %d, and its session lives", l.m.name, found, l.next-1)
		}
		if found < l.sure || found > l.tried {
			l.w.fail("%s's ledger is at step %d; %d steps were durable, %d begun", l.m.name, found, l.sure, l.tried)
		}
		if found+1 < l.next {
			l.lost += l.next - 1 - found
			l.kept++
		}
		l.owner, l.ses, l.next, l.doubt = owner, ses, found+1, false
	}
	n := l.next
	l.tried = n
	err := l.put(ctx, s, n)
	if uint64(s.Clerk().Session().Writer) != ses {
		l.stray[n%ledgerFiles] = n // under the next session, to which the steps before it are lost
	}
	if err != nil {
		return err
	}
	err = s.Rename(ctx, nobody, l.dir, fmt.Sprint("n", n-1), l.dir, fmt.Sprint("n", n), 0)
	if uint64(s.Clerk().Session().Writer) != ses {
		l.alone = n // what this step wrote may have been lost before that
	}
	if err != nil {
		return err
	}
	l.next++
	if l.rng.IntN(6) == 0 && uint64(s.Clerk().Session().Writer) == ses {
		if err := s.SyncAll(ctx); err != nil {
			return err
		}
		if uint64(s.Clerk().Session().Writer) == ses {
			l.sure = n
		}
	}
	return nil
}

func (l *ledger) put(ctx context.Context, s *assembly.FileServer, n uint64) error {
	h, _, err := s.Open(ctx, nobody, l.files[n%ledgerFiles], rdwr)
	if err != nil {
		return err
	}
	defer l.release(s, h)
	_, err = s.Write(ctx, h, binary.LittleEndian.AppendUint64(nil, n), 0, false)
	return err
}

// look reads how far the ledger is. Its steps are whole only with the rename: one that has only begun is done again.
func (l *ledger) look(ctx context.Context, s *assembly.FileServer) (at uint64, err error) {
	var vals [ledgerFiles]uint64
	for i, ino := range l.files {
		h, _, err := s.Open(ctx, nobody, ino, syscall.O_RDONLY)
		if err != nil {
			return 0, err
		}
		var b [8]byte
		_, err = s.Read(ctx, h, b[:], 0)
		l.release(s, h)
		if err != nil {
			return 0, err
		}
		vals[i] = binary.LittleEndian.Uint64(b[:])
	}
	h, err := s.OpenDir(ctx, nobody, l.dir)
	if err != nil {
		return 0, err
	}
	var names []string
	err = s.ReadDir(ctx, h, 0, false, func(e fs.DirEntry) bool {
		if strings.HasPrefix(e.Name, "n") {
			names = append(names, e.Name)
		}
		return true
	})
	_ = s.ReleaseDir(ctx, h)
	if err != nil {
		return 0, err
	}
	if len(names) != 1 {
		l.w.fail("%s's ledger has the names %v: a rename is not whole", l.m.name, names)
		return 0, nil
	}
	at, _ = strconv.ParseUint(names[0][1:], 10, 64)
	for i, v := range vals { // of the steps with this file: the last up to at, or at+1 if that one had begun
		want := at
		for want%ledgerFiles != uint64(i) && want > 0 {
			want--
		}
		if want%ledgerFiles != uint64(i) {
			want = 0
		}
		if want == at && at == l.alone && v+ledgerFiles == at {
			continue
		}
		if v != want && !(v == at+1 && v%ledgerFiles == uint64(i)) && v != l.stray[i] {
			l.w.fail("%s's ledger: the name says step %d, the files say %v: not a prefix", l.m.name, at, vals)
		}
	}
	return at, nil
}

func (w *world) newLedger(m *mount) *ledger {
	return &ledger{task: task{w: w, m: m, rng: rand.New(rand.NewPCG(w.seed, 77+uint64(m.name[1]))), pause: 100 * time.Millisecond}}
}
