// Package rot holds black-box tests of nodes whose files were damaged, are of others, or do not fit on the disk.
package rot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const blockSize = 4096

// flip is one block that was damaged on a replica's disk.
type flip struct {
	file string
	at   int64
	good []byte
	sum  uint32 // of good, as stored
}

// liveBlocks lists the blocks that a replica's data files hold, by the checksum files beside them.
func liveBlocks(t *testing.T, data string) []flip {
	t.Helper()
	sums, err := filepath.Glob(filepath.Join(data, "blocks", "*.sum"))
	if err != nil || len(sums) == 0 {
		t.Fatalf("no checksum files in %s: %v", data, err)
	}
	var live []flip
	for _, name := range sums {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+4 <= len(b); i += 4 {
			if sum := binary.LittleEndian.Uint32(b[i:]); sum != 0 {
				live = append(live, flip{file: strings.TrimSuffix(name, ".sum") + ".data", at: int64(i/4) * blockSize, sum: sum})
			}
		}
	}
	return live
}

// flipBlocks damages one in a hundred of a replica's blocks: a byte of each becomes another.
func flipBlocks(t *testing.T, r *rand.Rand, data string) []flip {
	t.Helper()
	live := liveBlocks(t, data)
	r.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	live = live[:max(1, len(live)/100)]
	for i := range live {
		live[i].good = live[i].read(t)
		bad := bytes.Clone(live[i].good)
		bad[r.IntN(blockSize)] ^= byte(1 + r.IntN(255))
		f, err := os.OpenFile(live[i].file, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(bad, live[i].at)
		}
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return live
}

func (f flip) read(t *testing.T) []byte { return readAt(t, f.file, f.at, blockSize) }

func readAt(t *testing.T, name string, at int64, n int) []byte {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, n)
	if _, err := file.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

// repaired tells whether the block is what it was before it was damaged, and if it is not, whether it was written since: its
// checksum then is that of what stands there. (A checksum is of the block's address, too, which is not known here. But it is
// linear: that of two blocks at one address differ by that of their difference.)
func (f flip) repaired(t *testing.T) (same, written bool) {
	t.Helper()
	now := f.read(t)
	if bytes.Equal(now, f.good) {
		return true, false
	}
	for i := range now {
		now[i] ^= f.good[i]
	}
	difference := ^crc32.Update(^uint32(0), castagnoli, now)
	sum := binary.LittleEndian.Uint32(readAt(t, strings.TrimSuffix(f.file, ".data")+".sum", f.at/blockSize*4, 4))
	return false, sum == f.sum^difference
}

func (f flip) String() string { return fmt.Sprintf("%s at %d", filepath.Base(f.file), f.at) }

// TestRepairedTellsApart: a block as it was, one still damaged, one written since, and one written in part over the damage.
func TestRepairedTellsApart(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	address := []byte("vdisk and number")
	sumOf := func(b []byte) uint32 { return crc32.Update(crc32.Checksum(address, castagnoli), castagnoli, b) }
	good := bytes.Repeat([]byte("good"), blockSize/4)
	damaged := bytes.Clone(good)
	damaged[77] ^= 4
	other := bytes.Repeat([]byte("new!"), blockSize/4)
	part := bytes.Clone(damaged)
	copy(part[2000:], "new!")
	f := flip{file: name + ".data", at: blockSize, good: good, sum: sumOf(good)}
	for _, c := range []struct {
		what          string
		now           []byte
		sum           uint32
		same, written bool
	}{
		{"as it was", good, sumOf(good), true, false},
		{"damaged", damaged, sumOf(good), false, false},
		{"written", other, sumOf(other), false, true},
		{"written, with the old checksum", other, sumOf(good), false, false},
		{"in part, marked", part, sumOf(part) ^ 0x5a17c3e9, false, false},
	} {
		if err := os.WriteFile(name+".data", append(make([]byte, blockSize), c.now...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name+".sum", binary.LittleEndian.AppendUint32(make([]byte, 4), c.sum), 0o600); err != nil {
			t.Fatal(err)
		}
		if same, written := f.repaired(t); same != c.same || written != c.written {
			t.Errorf("%s: same %v, written %v", c.what, same, written)
		}
	}
}
