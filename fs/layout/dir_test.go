package layout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"dfs/internal/errors"
)

func newDirInode() *Inode {
	in := &Inode{Ino: 77, Mode: syscall.S_IFDIR | 0o755}
	in.NewDir(RootIno, 0xfeedface)
	return in
}

// listAll iterates in steps of at most step entries, calling between between steps.
func listAll(t testing.TB, d *Dir, step int, between func()) []Entry {
	t.Helper()
	var out []Entry
	for cookie := uint64(0); ; {
		n := 0
		err := d.Iterate(cookie, func(e Entry) bool {
			if e.Cookie <= cookie || e.Cookie >= 1<<63 {
				t.Fatalf("cookie %d after %d", e.Cookie, cookie)
			}
			cookie = e.Cookie
			out = append(out, e)
			n++
			return n < step
		})
		if err != nil {
			t.Fatal(err)
		}
		if n < step {
			return out
		}
		if between != nil {
			between()
		}
	}
}

// checkModel compares a directory with a map of names to inode numbers.
func checkModel(t testing.TB, d *Dir, m *memBlocks, model map[string]uint64) {
	t.Helper()
	m.check(d.In)
	again, err := DecodeInode(d.In.Ino, d.In.Encode())
	if err != nil {
		t.Fatalf("inode does not decode: %v", err)
	}
	if len(d.In.Inline) > d.In.InlineRoom() {
		t.Fatalf("%d bytes inline, room for %d", len(d.In.Inline), d.In.InlineRoom())
	}
	if d.Len() != uint64(len(model)) || again.Dir != d.In.Dir {
		t.Fatalf("header counts %d names, model %d", d.Len(), len(model))
	}
	list := listAll(t, d, 1<<30, nil)
	if len(list) != len(model)+2 || list[0].Name != "." || list[1].Name != ".." || list[1].Ino != d.In.Parent {
		t.Fatalf("listed %d, model %d", len(list)-2, len(model))
	}
	live := uint64(0)
	for _, e := range list[2:] {
		if model[e.Name] != e.Ino {
			t.Fatalf("%q leads to %d, not %d", e.Name, e.Ino, model[e.Name])
		}
		got, err := d.Lookup(e.Name)
		if err != nil || got != e {
			t.Fatalf("lookup of %q: %+v, %v; listed %+v", e.Name, got, err, e)
		}
		live += uint64(entrySize(len(e.Name)))
	}
	if live != d.In.Dir.LiveBytes {
		t.Fatalf("header counts %d live bytes, there are %d", d.In.Dir.LiveBytes, live)
	}
}

// randomName makes a name, at times a long one.
func randomName(r *rand.Rand, space int) string {
	n := r.IntN(space)
	if n%7 == 0 {
		return fmt.Sprintf("%d-%s", n, strings.Repeat("x", 1+(n*31)%240))
	}
	return fmt.Sprintf("name%d", n)
}

// TestDirModel runs random operations against a map, growing and shrinking,
// with the real hash and with hashes that collide.
func TestDirModel(t *testing.T) {
	hashes := map[string]func(uint64, string) uint64{
		"real":     hashName,
		"128 only": func(s uint64, n string) uint64 { return hashName(s, n) &^ (1<<57 - 1) },
		"top equal": func(s uint64, n string) uint64 {
			return hashName(s, n) >> 40 // all names in the first interval: chains
		},
	}
	for name, hash := range hashes {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			in, m := newDirInode(), newMem(t)
			d := OpenDir(in, m)
			d.hash = hash
			model := map[string]uint64{}
			for phase, bias := range []int{80, 20, 70, 5} {
				for i := range 4000 {
					modelStep(t, d, model, r, bias)
					if i%500 == 0 {
						checkModel(t, d, m, model)
					}
				}
				checkModel(t, d, m, model)
				if phase == 0 && name == "real" && in.Dir.Buckets < 16 {
					t.Fatalf("%d buckets for %d names", in.Dir.Buckets, len(model))
				}
			}
			for n := range model {
				if err := d.Remove(n); err != nil {
					t.Fatal(err)
				}
				delete(model, n)
			}
			checkModel(t, d, m, model)
			if in.Blocks != 0 || in.Flags&FlagInline == 0 || !d.Empty() {
				t.Fatalf("an emptied directory keeps %d blocks", in.Blocks)
			}
		})
	}
}

// modelStep does one random operation, an insert in bias of 100 cases.
func modelStep(t *testing.T, d *Dir, model map[string]uint64, r *rand.Rand, bias int) {
	t.Helper()
	n, ino := randomName(r, 5000), 16+r.Uint64N(1<<40)
	_, there := model[n]
	want := errors.KindNotExist
	var err error
	switch p := r.IntN(100); {
	case p < bias:
		there, want = !there, errors.KindExist
		if err = d.Insert(n, ino, syscall.S_IFREG); err == nil {
			model[n] = ino
		}
	case p < bias+3:
		if err = d.Replace(n, ino, syscall.S_IFDIR); err == nil {
			model[n] = ino
		}
	default:
		if err = d.Remove(n); err == nil {
			delete(model, n)
		}
	}
	if there != (err == nil) || err != nil && !errors.Is(err, want) {
		t.Fatalf("%q: there %v, error %v", n, there, err)
	}
}

// TestDirLarge fills a directory with many names, looks at the cost of lookups, and shrinks it again.
func TestDirLarge(t *testing.T) {
	total := 100_000
	if testing.Short() {
		total = 20_000
	}
	in, m := newDirInode(), newMem(t)
	d := OpenDir(in, m)
	model := map[string]uint64{}
	worst := 0.0
	for i := range total {
		n := fmt.Sprintf("file-%08d.dat", i)
		model[n] = uint64(16 + i)
		if err := d.Insert(n, uint64(16+i), syscall.S_IFREG); err != nil {
			t.Fatal(err)
		}
		if i%5003 == 5000 {
			m.gets = 0
			for k := range 1000 {
				if _, err := d.Lookup(fmt.Sprintf("file-%08d.dat", (k*7919)%i)); err != nil {
					t.Fatal(err)
				}
			}
			worst = max(worst, float64(m.gets)/1000)
		}
	}
	if worst > 1.05 {
		t.Errorf("a lookup reads %.3f blocks on the average", worst)
	}
	checkModel(t, d, m, model)
	puts := m.puts
	for i := range total - 100 {
		n := fmt.Sprintf("file-%08d.dat", i)
		if err := d.Remove(n); err != nil {
			t.Fatal(err)
		}
		delete(model, n)
	}
	if per := float64(m.puts-puts) / float64(total); per > 1.5 {
		t.Errorf("a removal writes %.2f blocks on the average", per)
	}
	checkModel(t, d, m, model)
	if in.Blocks > 10 {
		t.Errorf("100 names left keep %d blocks", in.Blocks)
	}
	t.Logf("reads a lookup, worst sample: %.3f", worst)
}

// TestDirReaddirWhileChanging lists in small steps while names come and go: a
// name there all the time is seen exactly once.
func TestDirReaddirWhileChanging(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 9))
		in, m := newDirInode(), newMem(t)
		d := OpenDir(in, m)
		stay := map[string]bool{}
		for i := range 50 * (1 + int(seed)*3) {
			n := fmt.Sprintf("stay%d", i)
			stay[n] = true
			if err := d.Insert(n, 100, syscall.S_IFREG); err != nil {
				t.Fatal(err)
			}
		}
		var come []string
		grow := seed%2 == 0
		if !grow {
			for i := range 8000 {
				come = append(come, fmt.Sprintf("come%d", i))
				if err := d.Insert(come[i], 101, syscall.S_IFREG); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := in.Dir.Buckets
		changes := 0
		list := listAll(t, d, 1+r.IntN(20), func() {
			for ; changes%25 != 24 && changes < 8000; changes++ {
				if grow && r.IntN(3) > 0 {
					come = append(come, fmt.Sprintf("come%d", r.Uint64()))
					if err := d.Insert(come[len(come)-1], 101, syscall.S_IFREG); err != nil {
						t.Fatal(err)
					}
				} else if len(come) > 0 {
					if err := d.Remove(come[len(come)-1]); err != nil {
						t.Fatal(err)
					}
					come = come[:len(come)-1]
				}
			}
			changes++
		})
		seen := map[string]int{}
		for _, e := range list {
			seen[e.Name]++
		}
		for n := range stay {
			if seen[n] != 1 {
				t.Fatalf("seed %d: %q seen %d times (buckets %d -> %d)", seed, n, seen[n], before, in.Dir.Buckets)
			}
		}
		for n, c := range seen {
			if c > 1 {
				t.Fatalf("seed %d: %q seen %d times", seed, n, c)
			}
		}
		if before == in.Dir.Buckets && seed > 2 {
			t.Errorf("seed %d: no split or merge came between", seed)
		}
	}
}

// TestDirEqualHashes: 256 names of one hash go in, the next is refused, and nothing is lost.
func TestDirEqualHashes(t *testing.T) {
	in, m := newDirInode(), newMem(t)
	d := OpenDir(in, m)
	d.hash = func(uint64, string) uint64 { return 0x123456789abcdef0 }
	model := map[string]uint64{}
	for i := range 256 {
		n := fmt.Sprintf("collide-%d-%s", i, strings.Repeat("y", i%200))
		if err := d.Insert(n, uint64(16+i), syscall.S_IFREG); err != nil {
			t.Fatal(i, err)
		}
		model[n] = uint64(16 + i)
	}
	if err := d.Insert("one too many", 99, syscall.S_IFREG); !errors.Is(err, errors.KindNoSpace) {
		t.Fatalf("the 257th: %v", err)
	}
	checkModel(t, d, m, model)
	for n := range model {
		if err := d.Remove(n); err != nil {
			t.Fatal(err)
		}
		delete(model, n)
		if len(model)%40 == 0 {
			checkModel(t, d, m, model)
		}
	}
}

// TestDirDamagedHeader: counts that lie cost an error or bounded work, never a loop.
func TestDirDamagedHeader(t *testing.T) {
	in, m := newDirInode(), newMem(t)
	d := OpenDir(in, m)
	for i := range 200 {
		if err := d.Insert(fmt.Sprintf("f%d", i), 20, syscall.S_IFREG); err != nil {
			t.Fatal(err)
		}
	}
	good := *in
	in.Dir.LiveBytes = 1 << 50
	m.puts = 0
	if err := d.Insert("another", 20, syscall.S_IFREG); err != nil || m.puts > 10 {
		t.Errorf("too great a load: %v, %d blocks written", err, m.puts)
	}
	*in = good
	in.Dir.Buckets, in.Dir.Overflows, in.Dir.NextOverflow = 1<<49, 1<<49, 1<<49
	problems := 0
	if err := d.Check(func(string) { problems++ }, func(Entry) {}); err != nil || problems == 0 || problems > 1000 {
		t.Errorf("too many buckets: %v, %d problems", err, problems)
	}
	b := newBucket(in.Ino, 0)
	b.setNext(OverflowBase)
	m.Put(0, b)
	m.Put(OverflowBase, b) // leads to itself
	in.Dir.Buckets = 1
	m.gets = 0
	if err := d.Insert("one more", 20, syscall.S_IFREG); !errors.Is(err, errors.KindCorrupt) || m.gets > 2*chainLimit {
		t.Errorf("a chain without end: %v, %d blocks read", err, m.gets)
	}
	for i := range uint64(chainMax) {
		b := newBucket(in.Ino, 0)
		b.setNext(OverflowBase + i)
		if i == chainMax-1 {
			b.setNext(0)
		}
		for k := 0; b.add(fmt.Sprintf("%d-%d-%s", i, k, strings.Repeat("x", 230)), 20, uint64(k), syscall.S_IFREG); k++ {
		}
		no := uint64(0)
		if i > 0 {
			no = OverflowBase + i - 1
		}
		m.Put(no, b)
	}
	if err := d.Insert(strings.Repeat("o", 240), 20, syscall.S_IFREG); !errors.Is(err, errors.KindNoSpace) {
		t.Errorf("a chain of the greatest length: %v", err)
	}
}

// TestDirBesideXattrs: the entries leave the inode when attributes take their room.
func TestDirBesideXattrs(t *testing.T) {
	for _, value := range []int{0, 200, 1000} {
		in, m := newDirInode(), newMem(t)
		d, model := OpenDir(in, m), map[string]uint64{}
		for i := range 3 {
			if err := in.XattrSet(m, fmt.Sprintf("user.%d", i), make([]byte, value), 0); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 200 {
			n := fmt.Sprintf("f%d", i)
			model[n] = 20
			if err := d.Insert(n, 20, syscall.S_IFREG); err != nil {
				t.Fatal(err)
			}
			checkModel(t, d, m, model)
		}
	}
}

// TestDirSpillEmpty: an empty directory that was moved out of the inode works, and comes back with its last name.
func TestDirSpillEmpty(t *testing.T) {
	in, m := newDirInode(), newMem(t)
	if err := in.SpillInline(m); err != nil {
		t.Fatal(err)
	}
	d := OpenDir(in, m)
	checkModel(t, d, m, map[string]uint64{})
	if err := d.Insert("a", 20, syscall.S_IFREG); err != nil || in.Blocks != 1 {
		t.Fatal(err, in.Blocks)
	}
	checkModel(t, d, m, map[string]uint64{"a": 20})
	if err := d.Remove("a"); err != nil || in.Blocks != 0 {
		t.Fatal(err, in.Blocks)
	}
	checkModel(t, d, m, map[string]uint64{})
}

func TestDirNames(t *testing.T) {
	in, m := newDirInode(), newMem(t)
	d := OpenDir(in, m)
	for name, want := range map[string]errors.Kind{
		"": errors.KindInvalid, ".": errors.KindInvalid, "..": errors.KindInvalid, "a/b": errors.KindInvalid,
		"a\x00b": errors.KindInvalid, strings.Repeat("n", 256): errors.KindNameTooLong,
	} {
		if err := d.Insert(name, 20, syscall.S_IFREG); !errors.Is(err, want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	long := strings.Repeat("n", 255)
	if err := d.Insert(long, 20, syscall.S_IFREG); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lookup(long + "n"); !errors.Is(err, errors.KindNameTooLong) {
		t.Errorf("lookup of a long name: %v", err)
	}
	if err := d.Insert("zero", 0, syscall.S_IFREG); !errors.Is(err, errors.KindInvalid) {
		t.Errorf("inode 0: %v", err)
	}
	if err := d.Insert("mode", 20, syscall.S_IFREG|0o644); !errors.Is(err, errors.KindInvalid) {
		t.Errorf("type with permissions: %v", err)
	}
	before := *in
	if err := d.Replace(long, 21, syscall.S_IFLNK); err != nil {
		t.Fatal(err)
	}
	if e, err := OpenDir(&before, nil).Lookup(long); err != nil || e.Ino != 20 {
		t.Errorf("a copy of the inode changed with it: %+v %v", e, err)
	}
	if e, err := d.Lookup(long); err != nil || e.Ino != 21 || e.Type != syscall.S_IFLNK {
		t.Errorf("after replace: %+v %v", e, err)
	}
}

// TestDirSmallChanges: an insert or removal in a large directory changes few bytes.
func TestDirSmallChanges(t *testing.T) {
	in, m := newDirInode(), newMem(t)
	d := OpenDir(in, m)
	for i := range 5000 {
		if err := d.Insert(fmt.Sprintf("f%06d", i), 20, syscall.S_IFREG); err != nil {
			t.Fatal(err)
		}
	}
	for _, op := range []func() error{
		func() error { return d.Remove("f002500") },
		func() error { return d.Insert("f102500", 20, syscall.S_IFREG) },
	} {
		block, _ := d.BlockOf("f002500")
		if other, _ := d.BlockOf("f102500"); m.puts > 0 && other != block {
			block = other
		}
		old := map[uint64][]byte{}
		for no, b := range m.blocks {
			old[no] = b
		}
		if err := op(); err != nil {
			t.Fatal(err)
		}
		size, changed := 0, 0
		for no, b := range m.blocks {
			if &b[0] == &old[no][0] {
				continue
			}
			changed++
			for _, r := range DiffRanges(DataAddr(in.Ino, no), old[no], b) {
				size += len(r.Data)
			}
		}
		if changed != 1 || size > 100 {
			t.Errorf("%d blocks, %d bytes changed (bucket %d)", changed, size, block)
		}
	}
}

// TestBlocksAfter: read-ahead names the buckets in the order in which Iterate reads them.
func TestBlocksAfter(t *testing.T) {
	in, m := newDirInode(), newMem(t)
	d := OpenDir(in, m)
	for i := range 3000 {
		if err := d.Insert(fmt.Sprintf("f%d", i), 20, syscall.S_IFREG); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint64
	d.B = getHook{m, func(no uint64) {
		if no < OverflowBase {
			got = append(got, no)
		}
	}}
	if err := d.Iterate(0, func(Entry) bool { return true }); err != nil {
		t.Fatal(err)
	}
	want := d.BlocksAfter(0, 1<<30)
	if uint64(len(want)) != in.Dir.Buckets || !slices.Equal(got, want) {
		t.Fatalf("read %v, announced %v", got, want)
	}
}

type getHook struct {
	Blocks
	f func(uint64)
}

func (g getHook) Get(no uint64) ([]byte, error) { g.f(no); return g.Blocks.Get(no) }
