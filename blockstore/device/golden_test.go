package device

import (
	"bytes"
	"encoding/binary"
	"testing"

	"dfs/blockstore"
	"dfs/internal/golden"
)

// TestGoldenFiles pins the header, the chunk map's entries and state, and the checksums.
func TestGoldenFiles(t *testing.T) {
	h := header{deviceID: [16]byte{0: 1, 15: 16}, nodeID: "a", clusterID: "0123456789abcdef"}
	golden.Check(t, "device-header-v1.hex", h.encode())

	key := mapKey(blockstore.ChunkID{VDisk: 1<<63 | 5, Chunk: 3})
	value := encodeEntry(key, entry{win: makeWindow(large, 77), last: 1234, present: 200})
	golden.Check(t, "chunk-map-entry.hex", append(bytes.Clone(key), value...))
	golden.Check(t, "chunk-map-state.hex", encodeState(mapState{index: 99, incomplete: true, meta: []byte("the state machine"), deviceID: [16]byte{0: 1, 15: 16}}))

	zeros, text := make([]byte, blockSize), bytes.Repeat([]byte("dfs block "), blockSize/10+1)[:blockSize]
	sums := binary.LittleEndian.AppendUint32(nil, blockSum(1, 2, zeros))
	sums = binary.LittleEndian.AppendUint32(sums, blockSum(1<<63|5, 700, text))
	sums = binary.LittleEndian.AppendUint32(sums, blockSum(1<<63|5, 700, text)^suspectMask)
	golden.Check(t, "checksums.hex", sums)
}
