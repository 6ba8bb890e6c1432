package device

import (
	"bytes"
	stderrors "errors"
	"sync/atomic"
	"testing"

	"dfs/wal"
)

// heldVolume lets long writes go only when it is told, or fails them.
type heldVolume struct {
	*fakeVolume
	gate  chan struct{} // a token for each long write
	err   error
	began atomic.Int32
	done  atomic.Int32
	sizes chan int
}

type heldFile struct {
	file
	v *heldVolume
}

func (v *heldVolume) open(name string, create bool) (file, error) {
	f, err := v.fakeVolume.open(name, create)
	if err != nil {
		return nil, err
	}
	return heldFile{f, v}, nil
}

func (f heldFile) writeLong(p []byte, off int64) error {
	f.v.began.Add(1)
	<-f.v.gate
	defer f.v.done.Add(1)
	f.v.sizes <- len(p) / blockSize
	if f.v.err != nil {
		return f.v.err
	}
	return f.file.writeLong(p, off)
}

func openHeld(t *testing.T) (*Device, *heldVolume) {
	v := &heldVolume{fakeVolume: newFakeVolume(1), gate: make(chan struct{}, 100), sizes: make(chan int, 100)}
	opt := testOptions(v)
	opt.behindMin, opt.lateMax = 0, 0
	d, err := Open(t.TempDir(), opt)
	if err != nil {
		t.Fatal(err)
	}
	d.behind.inline = false
	t.Cleanup(func() { close(v.gate); d.Close() })
	return d, v
}

const chunk2 = 256 // first block of chunk 2

// TestBehindGathers: a file written in order goes to the disk in whole chunks.
func TestBehindGathers(t *testing.T) {
	d, v := openHeld(t)
	for i := range uint64(8) {
		mustApply(t, d, whole(7, chunk2+i*64, 64, byte(i)))
	}
	if n := v.began.Load(); n > 2 {
		t.Fatalf("%d writes for two chunks", n)
	}
	v.gate <- struct{}{}
	v.gate <- struct{}{}
	mustCheckpoint(t, d, "")
	if a, b := <-v.sizes, <-v.sizes; a != 256 || b != 256 {
		t.Errorf("writes of %d and %d blocks, not of whole chunks", a, b)
	}
}

// TestBehindIsWaitedFor: whoever wants what is behind waits for it, and gets it.
func TestBehindIsWaitedFor(t *testing.T) {
	span := wal.Span{VDisk: 7, Block: chunk2, Count: 64}
	read := func(t *testing.T, d *Device) {
		dst, present := make([]byte, 64*blockSize), make([]byte, 8)
		bad, err := d.Read(span, dst, present)
		if err != nil || len(bad) > 0 || !bytes.Equal(dst, bytes.Repeat([]byte{9}, len(dst))) {
			t.Errorf("read %x..., bad %v, error %v", dst[:4], len(bad), err)
		}
	}
	part := &wal.Record{Ranges: []wal.Range{{Addr: wal.Addr{VDisk: 7, Block: chunk2 + 5}, Off: 10, Data: []byte{9, 9}}}}
	for name, f := range map[string]func(*testing.T, *Device){
		"read":                       read,
		"read of the chunk":          func(t *testing.T, d *Device) { _, _, _ = d.ReadChunk(chunkOf(7, chunk2)) },
		"a change of a part":         func(t *testing.T, d *Device) { mustApply(t, d, part) },
		"a change of the same block": func(t *testing.T, d *Device) { mustApply(t, d, whole(7, chunk2+63, 1, 9)) },
		"trim": func(t *testing.T, d *Device) {
			mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 7, Block: chunk2, Count: 3}}})
		},
		"trim of the chunk": func(t *testing.T, d *Device) {
			mustApply(t, d, &wal.Record{Trims: []wal.Span{{VDisk: 7, Block: 0, Count: 1 << 40}}})
		},
		"zeros":      func(t *testing.T, d *Device) { mustApply(t, d, &wal.Record{Zeros: []wal.Span{span}}) },
		"checkpoint": func(t *testing.T, d *Device) { mustCheckpoint(t, d, "") },
		"reset": func(t *testing.T, d *Device) {
			if err := d.ResetTo(5, nil); err != nil {
				t.Error(err)
			}
		},
		"close": func(t *testing.T, d *Device) { d.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			d, v := openHeld(t)
			mustApply(t, d, whole(7, chunk2, 64, 9))
			go func() { v.gate <- struct{}{} }()
			f(t, d)
			if v.done.Load() != 1 {
				t.Error("did not wait for the write that was behind")
			}
		})
	}
	t.Run("not by others", func(t *testing.T) {
		d, v := openHeld(t)
		mustApply(t, d, whole(7, chunk2, 64, 9), whole(8, chunk2, 64, 9)) // the second sends the first off
		mustApply(t, d, whole(7, chunk2+64, 1, 9), whole(9, 0, 3, 9))
		if v.done.Load() != 0 {
			t.Error("an Apply to other blocks waited")
		}
		v.gate <- struct{}{}
		read(t, d)
	})
}

// TestBehindFails: a write that fails behind the back makes the device dead.
func TestBehindFails(t *testing.T) {
	d, v := openHeld(t)
	v.err = errFault
	mustApply(t, d, whole(7, chunk2, 64, 9))
	v.gate <- struct{}{}
	if _, err := d.Read(wal.Span{VDisk: 7, Block: chunk2, Count: 1}, make([]byte, blockSize), make([]byte, 1)); !stderrors.Is(err, errFault) {
		t.Errorf("a read after the failed write: %v", err)
	}
	if err := d.Apply(d.Applied()+1, whole(8, 0, 1, 1)); !stderrors.Is(err, errFault) {
		t.Errorf("an Apply after the failed write: %v", err)
	}
	if _, _, err := d.Checkpoint(nil); !stderrors.Is(err, errFault) {
		t.Errorf("a checkpoint after the failed write: %v", err)
	}
}
