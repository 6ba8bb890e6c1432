package fs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"dfs/internal/errors"
)

// manyFiles makes empty files in a directory, all durable.
func manyFiles(a *mount, files int) (dir Ino, names []string) {
	e, err := a.Mkdir(ctx, root, RootIno, "many", 0o755)
	a.must(err)
	for i := range files {
		name := fmt.Sprintf("file-%05d", i)
		_, h := a.create(e.Attr.Ino, name)
		a.must(a.Release(ctx, h))
		names = append(names, name)
	}
	a.must(a.SyncAll(ctx))
	return e.Attr.Ino, names
}

// Removing many files is no question to the store for each, whatever order they are removed in, and whether the mount that does it
// has forgotten them, has never seen them, or takes them from another.
func TestRemoveManyInFewReads(t *testing.T) {
	const files, cache = 1200, 600
	for _, order := range []string{"made", "listed", "by four"} {
		for _, other := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/other=%v", order, other), func(t *testing.T) {
				w := newWorld(t, 1<<20)
				a := w.mount(Options{CacheInodes: cache})
				dir, names := manyFiles(a, files)
				m := a
				if other {
					m = w.mount(Options{CacheInodes: cache})
				}
				if order == "listed" {
					names = names[:0]
					d, err := m.OpenDir(ctx, root, dir)
					m.must(err)
					m.must(m.ReadDir(ctx, d, 2, false, func(e DirEntry) bool { names = append(names, e.Name); return true }))
					m.must(m.ReleaseDir(ctx, d))
				}
				tasks := 1
				if order == "by four" {
					tasks = 4
				}
				reads := w.reads(func() {
					var wg sync.WaitGroup
					for task := range tasks {
						wg.Go(func() {
							for i := task; i < len(names); i += tasks {
								if _, err := m.Lookup(ctx, root, dir, names[i]); err != nil {
									t.Errorf("lookup of %s: %v", names[i], err)
								}
								if err := m.Unlink(ctx, root, dir, names[i]); err != nil {
									t.Errorf("unlink of %s: %v", names[i], err)
								}
							}
						})
					}
					wg.Wait()
				})
				t.Logf("%d questions for %d files", reads, files)
				if most := files / 2; reads > most {
					t.Errorf("%d questions to the store for %d files removed, want at most %d", reads, files, most)
				}
				m.must(m.Rmdir(ctx, root, RootIno, "many"))
			})
		}
	}
}

// Who looks names up at random fetches nothing with them.
func TestNoFetchAheadAtRandom(t *testing.T) {
	w := newWorld(t, 1<<20)
	a := w.mount(Options{})
	dir, names := manyFiles(a, 2000)
	b := w.mount(Options{})
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names[:100] {
		b.lookup(dir, name)
	}
	ss := b.cur.Load()
	ss.nodes.mu.Lock()
	defer ss.nodes.mu.Unlock()
	if n := len(ss.nodes.nodes); n > 300 {
		t.Errorf("100 lookups at random loaded %d inodes", n)
	}
}

// What is fetched ahead is locked: another mount that changes such an inode is seen, and what it removes is gone.
func TestFetchedAheadIsCoherent(t *testing.T) {
	w := newWorld(t, 1<<20)
	a, b := w.mount(Options{}), w.mount(Options{})
	dir, names := manyFiles(a, 400)
	for round := range 3 {
		for _, name := range names[:100] {
			b.lookup(dir, name)
		}
		for i, name := range names {
			e := a.lookup(dir, name)
			mode := uint32(0o600 + round)
			_, err := a.SetAttr(ctx, root, e.Attr.Ino, 0, SetAttr{Mode: &mode})
			a.must(err)
			if i%7 == round {
				a.must(a.Unlink(ctx, root, dir, name))
				if _, err := b.Lookup(ctx, root, dir, name); !errors.Is(err, errors.KindNotExist) {
					t.Fatalf("%s was removed elsewhere; looked up here: %v", name, err)
				}
				continue
			}
			if got := b.attr(b.lookup(dir, name).Attr.Ino); got.Mode&0o777 != mode {
				t.Fatalf("%s has mode %o here, %o was set elsewhere", name, got.Mode, mode)
			}
		}
		kept := names[:0]
		for i, name := range names {
			if i%7 != round {
				kept = append(kept, name)
			}
		}
		names = slices.Clip(kept)
	}
}
