// Package rot holds black-box tests of nodes whose files were damaged, are of others, or do not fit on the disk.
package rot

import (
	"bytes"
	"encoding/binary"
	"fmt"
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
			if binary.LittleEndian.Uint32(b[i:]) != 0 {
				live = append(live, flip{file: strings.TrimSuffix(name, ".sum") + ".data", at: int64(i/4) * blockSize})
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

func (f flip) read(t *testing.T) []byte {
	t.Helper()
	file, err := os.Open(f.file)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, blockSize)
	if _, err := file.ReadAt(b, f.at); err != nil {
		t.Fatal(err)
	}
	return b
}

// stillBad counts the blocks that are not what they were before they were damaged.
func stillBad(t *testing.T, flips []flip) int {
	t.Helper()
	bad := 0
	for _, f := range flips {
		if !bytes.Equal(f.read(t), f.good) {
			bad++
		}
	}
	return bad
}

func (f flip) String() string { return fmt.Sprintf("%s at %d", filepath.Base(f.file), f.at) }
