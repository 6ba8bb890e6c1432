package layout

import (
	"bytes"
	"testing"
)

// memBlocks is a vdisk in memory. shadow holds copies, to see writes through Get.
type memBlocks struct {
	t      testing.TB
	blocks map[uint64][]byte
	shadow map[uint64][]byte
	gets   int
	puts   int
}

func newMem(t testing.TB) *memBlocks {
	return &memBlocks{t: t, blocks: map[uint64][]byte{}, shadow: map[uint64][]byte{}}
}

func (m *memBlocks) Get(no uint64) ([]byte, error) {
	m.gets++
	if b, ok := m.blocks[no]; ok {
		return b, nil
	}
	return make([]byte, BlockSize), nil
}

func (m *memBlocks) Put(no uint64, data []byte) {
	m.puts++
	if len(data) != BlockSize {
		m.t.Fatalf("put of %d bytes", len(data))
	}
	if old := m.blocks[no]; old != nil && &old[0] == &data[0] {
		m.t.Fatalf("block %d was changed in place", no)
	}
	m.blocks[no], m.shadow[no] = data, bytes.Clone(data)
}

func (m *memBlocks) Free(no uint64) {
	if _, ok := m.blocks[no]; !ok {
		m.t.Fatalf("free of absent block %d", no)
	}
	delete(m.blocks, no)
	delete(m.shadow, no)
}

// check compares the inode's count of blocks with what is present, and that nobody wrote into a block after Put.
func (m *memBlocks) check(in *Inode) {
	m.t.Helper()
	if uint64(len(m.blocks)) != in.Blocks {
		m.t.Fatalf("inode counts %d blocks, %d are present", in.Blocks, len(m.blocks))
	}
	for no, b := range m.blocks {
		if !bytes.Equal(b, m.shadow[no]) {
			m.t.Fatalf("block %d was written in place", no)
		}
	}
}
