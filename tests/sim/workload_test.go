package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"dfs/fs"
	"dfs/internal/assembly"
	"dfs/internal/errors"
)

// The name space: a few files with registers in them, files that are appended to, and two directories of three names each.
type space struct {
	regs    []register
	appends []file
	dirs    [2]fs.Ino
}

type file struct {
	name string
	ino  fs.Ino
}

// register is a place of 16 bytes in a file.
type register struct {
	file
	off uint64
}

func (r register) obj() string { return fmt.Sprintf("%s@%d", r.name, r.off) }

// registers: in the inode, over the edge of two blocks, behind a hole.
var registers = []struct {
	name string
	off  uint64
}{{"f0", 0}, {"f1", 4090}, {"f1", 0}, {"f2", 9000}, {"f2", 1 << 20}}

var nobody = &fs.Caller{UID: 0}

const (
	rdwr  = uint32(syscall.O_RDWR)
	osync = uint32(syscall.O_SYNC)
)

// makeSpace makes the name space, durably.
func makeSpace(ctx context.Context, s *assembly.FileServer) (*space, error) {
	sp := &space{}
	inos := map[string]fs.Ino{}
	make := func(name string) (fs.Ino, error) {
		e, h, _, err := s.Create(ctx, nobody, fs.RootIno, name, 0o644, rdwr)
		if err != nil {
			return 0, err
		}
		return e.Attr.Ino, s.Release(ctx, h)
	}
	for _, r := range registers {
		if inos[r.name] == 0 {
			ino, err := make(r.name)
			if err != nil {
				return nil, err
			}
			inos[r.name] = ino
		}
		sp.regs = append(sp.regs, register{file{r.name, inos[r.name]}, r.off})
	}
	for _, name := range []string{"a0", "a1"} {
		ino, err := make(name)
		if err != nil {
			return nil, err
		}
		sp.appends = append(sp.appends, file{name, ino})
	}
	for i := range sp.dirs {
		e, err := s.Mkdir(ctx, nobody, fs.RootIno, fmt.Sprint("d", i), 0o755)
		if err != nil {
			return nil, err
		}
		sp.dirs[i] = e.Attr.Ino
	}
	return sp, s.SyncAll(ctx)
}

func slotName(slot int) string { return string(rune('x' + slot%3)) }

// task is one program on a file server: it does an operation after another.
type task struct {
	w   *world
	m   *mount
	rng *rand.Rand
	// pause is the longest between two operations.
	pause time.Duration

	busySince time.Duration // of the operation under way; 0: none. Guarded by world.mu.
	doing     string
}

// run does operations until end is closed.
func (t *task) run(end <-chan struct{}) {
	for {
		select {
		case <-end:
			return
		case <-time.After(time.Duration(1 + t.rng.Int64N(int64(t.pause)))):
		}
		t.m.runs()
		server, life, ctx := t.m.now()
		if server == nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		if t.rng.IntN(40) == 0 { // the caller is killed
			context.AfterFunc(ctx, cancel)
			time.AfterFunc(time.Duration(t.rng.Int64N(int64(20*time.Millisecond))), cancel)
		}
		t.one(ctx, server, t.m.owner(life))
		cancel()
	}
}

// begin and done note an operation under way.
func (t *task) begin(what string) time.Duration {
	now := t.w.since()
	t.w.mu.Lock()
	t.busySince, t.doing = now, what
	t.w.mu.Unlock()
	return now
}

func (t *task) done() {
	t.w.mu.Lock()
	t.busySince = 0
	t.w.mu.Unlock()
}

// one does one operation.
func (t *task) one(ctx context.Context, s *assembly.FileServer, owner int) {
	sp := t.w.space
	switch t.rng.IntN(10) {
	case 0, 1, 2:
		t.write(ctx, s, owner, sp.regs[t.rng.IntN(len(sp.regs))])
	case 3, 4:
		t.read(ctx, s, owner, sp.regs[t.rng.IntN(len(sp.regs))])
	case 5:
		t.append(ctx, s, owner, sp.appends[t.rng.IntN(len(sp.appends))])
	case 6:
		t.readAll(ctx, s, owner, sp.appends[t.rng.IntN(len(sp.appends))])
	case 7, 8:
		t.names(ctx, s, owner)
	default:
		t.sync(ctx, s, owner)
	}
}

// record does the call of an operation and adds it to the history.
func (t *task) record(o op, call func(o *op) error) {
	o.call = t.begin(o.String())
	err := call(&o)
	t.m.runs()
	o.ret = t.w.since()
	o.sure = err == nil
	t.done()
	t.w.add(o, err)
}

func (t *task) open(ctx context.Context, s *assembly.FileServer, ino fs.Ino, flags uint32) (fs.Handle, bool) {
	t.begin("open")
	h, _, err := s.Open(ctx, nobody, ino, flags)
	t.done()
	if err != nil {
		t.w.refused(err)
		return 0, false
	}
	return h, true
}

func (t *task) release(s *assembly.FileServer, h fs.Handle) {
	t.begin("release")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	_ = s.Flush(ctx, h, 1)
	_ = s.Release(ctx, h)
	cancel()
	t.done()
}

// twice is a register's content: the number, twice, so that a torn one is seen.
func twice(v uint64) []byte {
	b := binary.LittleEndian.AppendUint64(nil, v)
	return append(b, b...)
}

func (t *task) write(ctx context.Context, s *assembly.FileServer, owner int, r register) {
	flags := rdwr
	if t.rng.IntN(12) == 0 {
		flags |= osync
	}
	h, ok := t.open(ctx, s, r.ino, flags)
	if !ok {
		return
	}
	v := t.w.number()
	o := op{kind: opWrite, owner: owner, obj: r.obj(), val: v}
	t.record(o, func(o *op) error {
		_, err := s.Write(ctx, h, twice(v), r.off, false)
		return err
	})
	if t.rng.IntN(4) == 0 {
		t.record(op{kind: opSync, owner: owner, obj: r.obj()}, func(*op) error { return s.Fsync(ctx, h, t.rng.IntN(2) == 0) })
	}
	t.release(s, h)
}

func (t *task) read(ctx context.Context, s *assembly.FileServer, owner int, r register) {
	flags := rdwr
	if t.rng.IntN(3) > 0 {
		flags = syscall.O_RDONLY
	}
	h, ok := t.open(ctx, s, r.ino, flags)
	if !ok {
		return
	}
	t.record(op{kind: opRead, owner: owner, obj: r.obj()}, func(o *op) error {
		var b [16]byte
		n, err := s.Read(ctx, h, b[:], r.off)
		if err != nil {
			return err
		}
		clear(b[n:])
		o.val = binary.LittleEndian.Uint64(b[:])
		if o.val != binary.LittleEndian.Uint64(b[8:]) {
			t.w.fail("torn: %s reads %x", o, b)
		}
		return nil
	})
	t.release(s, h)
}

func (t *task) append(ctx context.Context, s *assembly.FileServer, owner int, f file) {
	h, ok := t.open(ctx, s, f.ino, rdwr|uint32(syscall.O_APPEND))
	if !ok {
		return
	}
	v := t.w.number()
	t.record(op{kind: opAppend, owner: owner, obj: f.name, val: v}, func(*op) error {
		_, err := s.Write(ctx, h, []byte(token(v)), 0, false)
		return err
	})
	if t.rng.IntN(4) == 0 {
		t.record(op{kind: opSync, owner: owner, obj: f.name}, func(*op) error { return s.Fsync(ctx, h, false) })
	}
	t.release(s, h)
}

func (t *task) readAll(ctx context.Context, s *assembly.FileServer, owner int, f file) {
	h, ok := t.open(ctx, s, f.ino, syscall.O_RDONLY)
	if !ok {
		return
	}
	t.record(op{kind: opRead, owner: owner, obj: f.name}, func(o *op) error {
		b := make([]byte, 64<<10)
		n, err := s.Read(ctx, h, b, 0)
		o.text = strings.Clone(string(b[:n]))
		return err
	})
	t.release(s, h)
}

// names does something to the names.
func (t *task) names(ctx context.Context, s *assembly.FileServer, owner int) {
	sp := t.w.space
	slot, to := t.rng.IntN(namesMax), t.rng.IntN(namesMax)
	dir, name := sp.dirs[slotDir(slot)], slotName(slot)
	o := op{owner: owner, obj: "names", slot: slot, to: to}
	switch t.rng.IntN(5) {
	case 0:
		o.kind = opCreate
		t.record(o, func(o *op) error {
			e, h, _, err := s.Create(ctx, nobody, dir, name, 0o600, rdwr|uint32(syscall.O_EXCL))
			if errors.Is(err, errors.KindExist) {
				o.found = true
				return nil
			}
			if err == nil {
				o.val = uint64(e.Attr.Ino)
				_ = s.Release(ctx, h)
			}
			return err
		})
	case 1:
		o.kind = opUnlink
		t.record(o, func(o *op) error { return o.missing(s.Unlink(ctx, nobody, dir, name)) })
	case 2:
		o.kind = opRename
		t.record(o, func(o *op) error {
			return o.missing(s.Rename(ctx, nobody, dir, name, sp.dirs[slotDir(to)], slotName(to), 0))
		})
	default:
		o.kind = opLookup
		t.lookup(ctx, s, o)
	}
}

func (t *task) lookup(ctx context.Context, s *assembly.FileServer, o op) {
	t.record(o, func(o *op) error {
		e, err := s.Lookup(ctx, nobody, t.w.space.dirs[slotDir(o.slot)], slotName(o.slot))
		o.val = uint64(e.Attr.Ino)
		return o.missing(err)
	})
}

// missing takes 'it is not there' for an answer.
func (o *op) missing(err error) error {
	o.found = err == nil
	if errors.Is(err, errors.KindNotExist) {
		return nil
	}
	return err
}

func (t *task) sync(ctx context.Context, s *assembly.FileServer, owner int) {
	t.record(op{kind: opSync, owner: owner}, func(*op) error { return s.SyncAll(ctx) })
}
