package device

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"dfs/wal"
)

// crashRun drives a device on a fake volume through crashes, and keeps the log and the model.
type crashRun struct {
	t    *testing.T
	dir  string
	vol  *fakeVolume
	d    *Device
	g    *gen
	log  []*wal.Record
	m    *model
	ckpt uint64 // index of the last checkpoint known to be finished

	cache, late int // options
}

func (r *crashRun) open() {
	r.t.Helper()
	if err := r.tryOpen(); err != nil {
		r.t.Fatal(err)
	}
	r.d.store = &faultMap{r.d.store, r.vol}
}

func (r *crashRun) tryOpen() error {
	opt := testOptions(r.vol)
	opt.CacheChunks, opt.lateMax = r.cache, r.late
	d, err := Open(r.dir, opt)
	if err == nil {
		r.d, d.double.keep = d, 3*blockSize
		r.t.Cleanup(func() { d.Close() })
	}
	return err
}

// run applies records, with checkpoints whose finish is called some records later, until I/O fails.
func (r *crashRun) run(steps int) {
	var finish func() error
	var at uint64
	for range steps {
		rec := r.g.record()
		r.log = append(r.log, rec)
		r.m.apply(rec)
		if r.d.Apply(uint64(len(r.log)), rec) != nil {
			return
		}
		if finish != nil && r.g.r.IntN(4) == 0 {
			if finish() != nil {
				return
			}
			r.ckpt, finish = at, nil
		}
		if (finish == nil || r.g.r.IntN(8) == 0) && r.g.r.IntN(8) == 0 {
			var err error
			if at, finish, err = r.d.Checkpoint([]byte(fmt.Sprint(len(r.log)))); err != nil {
				return // what was behind could not be written
			}
		}
	}
}

// recover reopens, redoes the log and returns the index of the checkpoint.
func (r *crashRun) recover() (from uint64) {
	r.t.Helper()
	r.d.Close()
	r.open()
	from, meta := r.d.Meta()
	if from < r.ckpt || from > uint64(len(r.log)) || from > 0 && string(meta) != fmt.Sprint(from) {
		r.t.Fatalf("reopened at %d with meta %q; %d was finished", from, meta, r.ckpt)
	}
	r.ckpt = from
	r.redo()
	return from
}

// redo applies the log from the checkpoint on, until I/O fails.
func (r *crashRun) redo() {
	from, _ := r.d.Meta()
	for i := from; i < uint64(len(r.log)); i++ {
		if err := r.d.Apply(i+1, r.log[i]); err != nil {
			return
		}
	}
	r.d.EndRedo()
}

// partial returns the blocks that were changed in part by the log after from.
func (r *crashRun) partial(from uint64) map[wal.Addr]bool {
	p := map[wal.Addr]bool{}
	for _, rec := range r.log[from:] {
		for _, x := range rec.Ranges {
			if len(x.Data) != blockSize {
				p[x.Addr] = true
			}
		}
	}
	return p
}

// check compares with the model, repairs what is bad from it, and compares again.
func (r *crashRun) check(from uint64, suspectsAllowed bool) (suspects int) {
	r.t.Helper()
	bad, err := differs(r.d, r.m, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	partial := r.partial(from)
	for _, b := range bad {
		if !suspectsAllowed || !b.Suspect || !partial[b.Addr] {
			r.t.Fatalf("bad block %+v after redo from %d (changed in part since: %v)", b, from, partial[b.Addr])
		}
	}
	told, err := r.d.Suspects(1 << 20)
	if err != nil {
		r.t.Fatal(err)
	}
	if len(told) != len(bad) {
		r.t.Fatalf("Suspects tells %d blocks, reads find %d", len(told), len(bad))
	}
	for _, b := range told {
		content := r.m.blocks[b.Addr]
		if done, err := r.d.Repair(b, content[:], true); !done || err != nil {
			r.t.Fatal("repair:", done, err)
		}
	}
	mustEqual(r.t, r.d, r.m)
	if err := r.d.checkInvariants(); err != nil {
		r.t.Fatal(err)
	}
	return len(bad)
}

// crashSeeds is n, or what DFS_CRASH_SEEDS says: more for a long run.
func crashSeeds(n uint64) uint64 {
	if v, err := strconv.ParseUint(os.Getenv("DFS_CRASH_SEEDS"), 10, 32); err == nil {
		return v
	}
	return n
}

// TestCrash crashes at random I/O operations, several times in a row, also in the midst of redo, and checks the content
// after redo. No block may be bad then, whatever was torn. Where the double-write area is lost as well, blocks that were changed in part may
// be suspect, and nothing worse.
func TestCrash(t *testing.T) {
	for _, what := range []string{"process", "power", "power and area"} {
		suspects, restored := 0, 0
		for seed := range crashSeeds(30) {
			t.Run(fmt.Sprintf("%s/%d", what, seed), func(t *testing.T) {
				r := &crashRun{t: t, dir: t.TempDir(), vol: newFakeVolume(seed), g: &gen{rand.New(rand.NewPCG(seed, 3))}, m: newModel()}
				r.cache, r.late = []int{4, 64}[seed%2], []int{3, 12}[seed/2%2]
				crash := func() {
					if what == "process" {
						r.vol.processDeath()
					} else {
						r.vol.powerLoss()
					}
					if what == "power and area" {
						delete(r.vol.files, doubleName(0))
						delete(r.vol.files, doubleName(1))
					}
				}
				r.open()
				for range 3 {
					r.vol.ops, r.vol.fail, r.vol.err, r.vol.crash = 0, 1+r.g.r.IntN(300), errCrash, true
					r.run(60)
					for range 1 + r.g.r.IntN(2) {
						r.d.Close()
						crash()
						if r.g.r.IntN(2) == 0 { // the redo crashes too
							r.vol.ops, r.vol.fail, r.vol.crash = 0, 1+r.g.r.IntN(100), true
							if r.tryOpen() == nil {
								restored += r.d.double.restored
								r.redo()
								r.d.Close()
							}
							crash()
						}
					}
					from := r.recover()
					restored += r.d.double.restored
					suspects += r.check(from, what == "power and area")
				}
			})
		}
		if what == "power and area" && suspects == 0 || what == "power" && restored == 0 {
			t.Errorf("%s: no crash tore anything: the fault model does nothing", what)
		}
		t.Logf("%s: %d suspects, %d blocks restored", what, suspects, restored)
	}
}

// TestFaults fails each I/O operation of a fixed run once, and every one from there on: the error surfaces and the device is dead.
func TestFaults(t *testing.T) {
	sites := map[string]bool{}
	for n := 1; ; n++ {
		vol := newFakeVolume(1)
		vol.reads, vol.err, vol.room = true, errFault, 0 // no spares: windows are emptied at once
		d := mustOpen(t, t.TempDir(), vol)
		d.store = &faultMap{d.store, vol}
		vol.ops, vol.fail = 0, n
		err := faultScript(d)
		if vol.site == "" {
			if err != nil {
				t.Fatal("the script fails by itself:", err)
			}
			if n < 100 {
				t.Fatalf("only %d operations", n)
			}
			break
		}
		sites[vol.site] = true
		vol.fail = 0
		// A block that the disk cannot read is a bad block, not a failure.
		if err == nil {
			if vol.site != "read small.0000.data" && vol.site != "read large.0000.data" {
				t.Fatalf("operation %d (%s) failed and nobody was told", n, vol.site)
			}
			d.Close()
			continue
		}
		if err := d.Apply(1000, &wal.Record{}); err == nil {
			t.Fatalf("operation %d (%s): the device lives on after %v", n, vol.site, err)
		}
		if _, err := d.Read(wal.Span{Count: 1}, make([]byte, blockSize), make([]byte, 1)); err == nil {
			t.Fatalf("operation %d (%s): a dead device serves a read", n, vol.site)
		}
		if _, _, err := d.Checkpoint(nil); err == nil {
			t.Fatalf("operation %d (%s): a dead device begins a checkpoint", n, vol.site)
		}
		d.Close()
	}
	for _, s := range []string{"create", "grow", "write", "punch", "sync"} {
		for _, f := range []string{"small.0000.data", "large.0000.sum"} {
			if s == "punch" && f == "large.0000.sum" {
				continue
			}
			if !sites[s+" "+f] {
				t.Errorf("no operation %s %s was failed", s, f)
			}
		}
	}
	if !sites["map commit"] || !sites["map get"] {
		t.Error("the map was not failed")
	}
}

// faultScript changes things in every way there is; reads only where a change does, since a failed read kills nothing.
func faultScript(d *Device) error {
	g := &gen{rand.New(rand.NewPCG(1, 4))}
	for i := range uint64(40) {
		if err := d.Apply(i+1, g.record()); err != nil {
			return err
		}
		if i%8 == 7 {
			_, finish, err := d.Checkpoint(nil)
			if err != nil {
				return err
			}
			if err := finish(); err != nil {
				return err
			}
		}
	}
	return nil
}
