package device

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"dfs/wal"
)

func benchDevice(b *testing.B, direct bool) *Device {
	opt := testOptions(nil)
	opt.CacheChunks, opt.NoDirect, opt.behindMin, opt.lateMax = 0, !direct, 0, 0
	d, err := Open(b.TempDir(), opt)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { d.Close() })
	return d
}

// cpu returns the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// streamRecord is 64 whole blocks in one buffer, as a decoded record has them.
func streamRecord(buf []byte, at uint64) *wal.Record {
	rec := &wal.Record{}
	for i := range uint64(len(buf) / blockSize) {
		rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: 7, Block: at + i}, Data: buf[i*blockSize : (i+1)*blockSize]})
	}
	return rec
}

// BenchmarkApplyStream applies a file written from start to end in records of whole blocks, with a checkpoint each 64 MiB.
// 'apply' leaves the checkpoints' time out: they run beside the next records in a node.
func BenchmarkApplyStream(b *testing.B) {
	for _, size := range []int{64 << 10, 128 << 10, 256 << 10, 512 << 10} {
		for _, direct := range []bool{false, true} {
			b.Run(fmt.Sprintf("%dKiB/direct=%v", size>>10, direct), func(b *testing.B) {
				d := benchDevice(b, direct)
				buf := make([]byte, size+1)[1:] // not aligned, as in a node
				for i := range buf {
					buf[i] = byte(rand.Uint32())
				}
				b.SetBytes(int64(size))
				var syncs time.Duration
				c0 := cpu()
				b.ResetTimer()
				for i := range b.N {
					mustApply(b, d, streamRecord(buf, uint64(i*size/blockSize)))
					if (i+1)*size%(64<<20) == 0 {
						t := time.Now()
						mustCheckpoint(b, d, "")
						syncs += time.Since(t)
					}
				}
				t := time.Now()
				mustCheckpoint(b, d, "")
				syncs += time.Since(t)
				b.StopTimer()
				bytes := float64(b.N) * float64(size)
				b.ReportMetric(bytes/1e6/(b.Elapsed()-syncs).Seconds(), "apply-MB/s")
				b.ReportMetric((cpu()-c0).Seconds()*1e9/bytes, "cpu-s/GB")
			})
		}
	}
}

// BenchmarkApplySmall applies records like those of small metadata changes: 4 ranges of 200 bytes in blocks of an inode table.
func BenchmarkApplySmall(b *testing.B) {
	d := benchDevice(b, true)
	const inodes = 20000
	for i := uint64(0); i < inodes; i += 64 {
		mustApply(b, d, whole(1<<63, i, 64, 1))
	}
	mustCheckpoint(b, d, "")
	for i := uint64(0); i < inodes; i += 64 { // into the host's page cache, where what is changed often stands
		mustRead(b, d, 1<<63, i, 64)
	}
	data := make([]byte, 200)
	rnd := rand.New(rand.NewPCG(1, 1))
	c0 := cpu()
	b.ResetTimer()
	for range b.N {
		rec := &wal.Record{}
		for range 4 {
			rec.Ranges = append(rec.Ranges, wal.Range{Addr: wal.Addr{VDisk: 1 << 63, Block: rnd.Uint64N(inodes)}, Off: 100, Data: data})
		}
		mustApply(b, d, rec)
	}
	b.StopTimer()
	b.ReportMetric(float64(4*b.N)/b.Elapsed().Seconds(), "ranges/s")
	b.ReportMetric(float64((cpu()-c0).Microseconds())/float64(4*b.N), "cpu-us/range")
}

// BenchmarkApplyFiles makes and removes small files: one block in a vdisk of its own each, a checkpoint each 10,000.
func BenchmarkApplyFiles(b *testing.B) {
	d := benchDevice(b, true)
	data := make([]byte, blockSize)
	var syncs time.Duration
	c0 := cpu()
	b.ResetTimer()
	for i := range uint64(b.N) {
		rec := &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: i}, Data: data}}}
		if i >= 5000 {
			rec.Trims = []wal.Span{{VDisk: i - 5000, Count: 1 << 52}}
		}
		mustApply(b, d, rec)
		if i%10000 == 9999 {
			t := time.Now()
			mustCheckpoint(b, d, "")
			syncs += time.Since(t)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((b.Elapsed()-syncs).Microseconds())/float64(b.N), "apply-us/file")
	b.ReportMetric(float64((cpu()-c0).Microseconds())/float64(b.N), "cpu-us/file")
}

// BenchmarkRead reads from the host's page cache: spans of 1 MiB in order, and single blocks anywhere.
func BenchmarkRead(b *testing.B) {
	d := benchDevice(b, false)
	const blocks = 64 << 10 // 256 MiB
	buf := make([]byte, 256<<10)
	for at := uint64(0); at < blocks; at += 64 {
		mustApply(b, d, streamRecord(buf, at))
	}
	mustCheckpoint(b, d, "")
	for _, n := range []uint64{256, 1} {
		b.Run(fmt.Sprintf("%dblocks", n), func(b *testing.B) {
			dst, present := make([]byte, n*blockSize), make([]byte, (n+7)/8)
			b.SetBytes(int64(n * blockSize))
			rnd := rand.New(rand.NewPCG(1, 1))
			for i := range uint64(b.N) {
				at := i * n % blocks
				if n == 1 {
					at = rnd.Uint64N(blocks)
				}
				if bad, err := d.Read(wal.Span{VDisk: 7, Block: at, Count: n}, dst, present); err != nil || len(bad) > 0 {
					b.Fatal(bad, err)
				}
			}
		})
	}
}
