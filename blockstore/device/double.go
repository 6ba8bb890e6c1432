package device

import (
	"bytes"
	"encoding/binary"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	"dfs/internal/crc"
	"dfs/internal/errors"
	"dfs/wal"
)

// The double-write area: two files of frames, double.0 and double.1. A block that was changed in part cannot be made anew from the log if a
// loss of power tears it, so its whole content goes there, durably, before the first write to its own place after each checkpoint. A
// block that was rewritten whole since then needs none.
//
//	frame: a head of 4096 bytes, then the images' data, 4096 bytes each
//
//	0   8  magic "dfs\x89dbl\n"
//	8   4  format version, little-endian
//	12  4  CRC32C of the rest of the head, from byte 16 on
//	16  16 device id
//	32  8  salt: random, the same in all frames that follow each other from the file's beginning
//	40  4  number of the frame among those, from 0 on
//	44  4  number of images, 1 to 128
//	48  8  index: what had been applied when the images were taken; they are as of that index or newer
//	56     for each image: vdisk (8), block (8), its entry in the checksum file (4), with which the data is checked
//
// Frames end where the head is none, or of another device, salt or number. A frame whose data is torn was not synced, so none of its blocks had been written
// to its place.
//
// # Recovery
//
//  1. Images older than the last finished checkpoint are passed over: that checkpoint's sync has made their blocks durable.
//  2. A block that does not fit its checksum entry gets data and entry of an image of it: of the first, or of the first that was not itself of a suspect
//     block (suspects.go), if there is one. The redo brings it from there to its exact content, as from any state between the checkpoint and the end of the log.
//  3. All files are synced. No image is needed from here on.
//
// While a checkpoint is being finished the frames before it are in one file, and those behind it in the other.
const (
	doubleMagic     = "dfs\x89dbl\n"
	doubleVersion   = 1
	doubleFixed     = 56
	doubleImageSize = 20
	doubleFrameMax  = 128 // images of a frame
)

// doubleFull is how many bytes of images are a reason for a checkpoint, which makes them needless; on a small disk, a thirty-second of what it had
// free when the device was opened is. What a file takes beyond that goes back to the host then.
const doubleFull = 64 << 20

func doubleName(i int) string { return fmt.Sprintf("double.%d", i) }

// image is a block as it is to be written to its place.
type image struct {
	wal.Addr
	entry uint32
	data  []byte
}

// double is the area. Its lock comes behind a chunk's.
type double struct {
	files    [2]file // from Open on
	restored int     // blocks that Open has put into their places

	mu    sync.Mutex // held over the I/O of a save
	cur   int        // the file that is written
	end   int64      // where its next frame begins
	salt  uint64
	frame uint32
	bytes atomic.Int64 // in the file that is written
	keep  int64        // bytes of images that are a reason for a checkpoint: doubleFull or less
	takes [2]int64     // how far the files may hold space on the host

	round atomic.Uint64 // grows with each checkpoint: from then on every block needs an image again
}

// saved is the slots of a chunk that are safe from tearing since a checkpoint: an image of them is in the area, or the log has
// them whole. Forgotten with the chunk, which costs another image. Guarded by the chunk's lock.
type saved struct {
	round uint64
	slots [largeBlocks / 64]uint64
}

// safe tells whether slot of c can be written in place.
func (d *Device) safe(c *chunk, slot int) bool {
	return c.saved.round == d.double.round.Load() && c.saved.slots[slot/64]&(1<<(slot%64)) != 0
}

// allSafe notes that all of c, which got its window just now, can be written in place: no checkpoint names that window, so a redo makes the
// chunk anew.
func (c *chunk) allSafe(round uint64) {
	c.saved.round = round
	for i := range c.saved.slots {
		c.saved.slots[i] = ^uint64(0)
	}
}

// setSafe notes that slot of c can be written in place until the checkpoint behind round.
func (c *chunk) setSafe(slot int, round uint64) {
	if c.saved.round != round {
		c.saved = saved{round: round}
	}
	c.saved.slots[slot/64] |= 1 << (slot % 64)
}

// save makes images durable.
func (d *Device) save(images []image) error {
	if len(images) == 0 {
		return nil
	}
	a := &d.double
	a.mu.Lock()
	defer a.mu.Unlock()
	index := d.applied.Load()
	var bufs [][]byte
	size := int64(0)
	for len(images) > 0 {
		n := min(len(images), doubleFrameMax)
		bufs = append(bufs, encodeDoubleHead(d.deviceID, a.salt, a.frame, index, images[:n]))
		for i := range images[:n] {
			bufs = append(bufs, images[i].data)
		}
		images = images[n:]
		size += int64(1+n) * blockSize
		a.frame++
	}
	f := a.files[a.cur]
	if err := f.writeAt(bufs, a.end); err != nil {
		return err
	}
	a.end += size
	a.takes[a.cur] = max(a.takes[a.cur], a.end)
	a.bytes.Store(a.end)
	return f.sync()
}

// begin starts the file anew. mu is held, or nobody else has the device.
func (a *double) begin(cur int) {
	a.cur, a.end, a.frame, a.salt = cur, 0, 0, rand.Uint64()
	a.bytes.Store(0)
}

// nextRound says that a checkpoint begins, and whether the one before it is finished: then the file with the frames from before that is needed no more.
// Nothing is late.
func (a *double) nextRound(finished bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.round.Add(1)
	if finished {
		a.begin(1 - a.cur)
	}
}

// giveBack gives the host what the file with the frames from before the last finished checkpoint takes beyond keep. commitMu is held: nobody begins
// that file anew meanwhile.
func (a *double) giveBack() error {
	a.mu.Lock()
	i := 1 - a.cur
	f, from, to := a.files[i], a.keep, a.takes[i]
	a.takes[i] = min(from, to)
	a.mu.Unlock()
	if to <= from {
		return nil
	}
	return f.punch(from, to-from)
}

func encodeDoubleHead(device [16]byte, salt uint64, frame uint32, index uint64, images []image) []byte {
	b := make([]byte, blockSize)
	copy(b, doubleMagic)
	binary.LittleEndian.PutUint32(b[8:], doubleVersion)
	copy(b[16:], device[:])
	binary.LittleEndian.PutUint64(b[32:], salt)
	binary.LittleEndian.PutUint32(b[40:], frame)
	binary.LittleEndian.PutUint32(b[44:], uint32(len(images)))
	binary.LittleEndian.PutUint64(b[48:], index)
	for i, x := range images {
		p := b[doubleFixed+i*doubleImageSize:]
		binary.LittleEndian.PutUint64(p, x.VDisk)
		binary.LittleEndian.PutUint64(p[8:], x.Block)
		binary.LittleEndian.PutUint32(p[16:], x.entry)
	}
	binary.LittleEndian.PutUint32(b[12:], crc.Checksum(b[16:]))
	return b
}

// doubleHead is a decoded head.
type doubleHead struct {
	device [16]byte
	salt   uint64
	frame  uint32
	index  uint64
	images []image // without data
}

// decodeDoubleHead reads a head. ok: it is one. KindTooNew.
func decodeDoubleHead(b []byte) (h doubleHead, ok bool, err error) {
	if len(b) != blockSize || !bytes.HasPrefix(b, []byte(doubleMagic)) || binary.LittleEndian.Uint32(b[12:]) != crc.Checksum(b[16:]) {
		return h, false, nil
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > doubleVersion {
		return h, false, errors.New(errors.KindTooNew, "the double-write area has format version %d; this program knows up to %d: use a newer dfs", v, doubleVersion)
	}
	n := binary.LittleEndian.Uint32(b[44:])
	if n == 0 || n > doubleFrameMax {
		return h, false, nil
	}
	copy(h.device[:], b[16:])
	h.salt, h.frame, h.index = binary.LittleEndian.Uint64(b[32:]), binary.LittleEndian.Uint32(b[40:]), binary.LittleEndian.Uint64(b[48:])
	for i := range int(n) {
		p := b[doubleFixed+i*doubleImageSize:]
		h.images = append(h.images, image{
			Addr:  wal.Addr{VDisk: binary.LittleEndian.Uint64(p), Block: binary.LittleEndian.Uint64(p[8:])},
			entry: binary.LittleEndian.Uint32(p[16:]),
		})
	}
	return h, true, nil
}

// openDouble is the recovery of the area. The map and the files are open, and windows in nobody's use are empty.
func (d *Device) openDouble() error {
	found := 0
	for i := range d.double.files {
		f, err := d.files.vol.open(doubleName(i), false)
		if stderrors.Is(err, os.ErrNotExist) {
			f, err = d.files.vol.open(doubleName(i), true)
		}
		if err != nil {
			return err
		}
		d.double.files[i] = f
		if d.double.takes[i], err = f.size(); err != nil {
			return err
		}
		n, err := d.restoreFrom(f)
		if err != nil {
			return fmt.Errorf("%s: %w", doubleName(i), err)
		}
		found += n
	}
	if found > 0 {
		for _, f := range d.files.all() {
			if err := f.file.sync(); err != nil {
				return err
			}
		}
	}
	free, err := d.files.vol.free()
	if err != nil {
		return err
	}
	d.double.keep = int64(min(doubleFull, max(free/32, doubleFrameMax*blockSize)))
	d.double.begin(0)
	return nil
}

// restoreFrom puts the images of f that are needed in their blocks' places, and returns how many there are that are not too old.
func (d *Device) restoreFrom(f file) (found int, err error) {
	size, err := f.size()
	if err != nil || d.incomplete.Load() {
		return 0, err
	}
	buf := make([]byte, doubleFrameMax*blockSize)
	head := make([]byte, blockSize)
	var salt uint64
	for at, frame := int64(0), uint32(0); at < size; frame++ {
		if err := f.readAt(head, at); err != nil {
			if mediumError(err) {
				return found, nil
			}
			return found, err
		}
		h, ok, err := decodeDoubleHead(head)
		if frame == 0 {
			salt = h.salt
		}
		if err != nil || !ok || h.device != d.deviceID || h.salt != salt || h.frame != frame {
			return found, err
		}
		at += blockSize
		data := buf[:len(h.images)*blockSize]
		if h.index >= d.index {
			if err := f.readAt(data, at); err != nil && !mediumError(err) {
				return found, err
			}
			for i := range h.images {
				h.images[i].data = data[i*blockSize : (i+1)*blockSize]
				if err := d.restore(&h.images[i]); err != nil {
					return found, err
				}
			}
			found += len(h.images)
		}
		at += int64(len(data))
	}
	return found, nil
}

// restore puts an image in its block's place if what is there does not fit, or does only as a suspect while the image is of none: then it is of
// before the block rotted, or of after its repair.
func (d *Device) restore(x *image) error {
	id := chunkOf(x.VDisk, x.Block)
	if !spanValid(wal.Span{VDisk: x.VDisk, Block: x.Block, Count: 1}) {
		return nil
	}
	is := compareSum(x.entry, blockSum(x.VDisk, x.Block, x.data))
	if is == unfit {
		return nil
	}
	e, found, err := d.store.get(id)
	if err != nil || !found { // the redo makes the chunk anew
		return err
	}
	c := &chunk{id: id, entry: e, known: true}
	if err := d.load(c); err != nil {
		return err
	}
	slot := int(x.Block - chunkFirst(id.Chunk))
	var own [blockSize]byte
	if f, err := d.readSlot(c, slot, own[:]); err != nil || f == fits || f == is {
		return err
	}
	d.double.restored++
	setSumAt(c.sums, slot, x.entry)
	if err := d.writeData(c, slot, [][]byte{x.data}); err != nil {
		return err
	}
	return d.writeSums(c, slot, slot+1)
}

// emptyDouble makes the area worthless, durably: the device's index may be about to fall, and what is on the disk needs no image.
func (d *Device) emptyDouble() error {
	a := &d.double
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.files {
		if err := f.writeAt([][]byte{zeroBlock[:]}, 0); err != nil {
			return err
		}
		if err := f.sync(); err != nil {
			return err
		}
	}
	a.round.Add(1)
	a.begin(0)
	return nil
}

// used is the space that the files take on the host, in bytes.
func (a *double) used() (sum uint64, err error) {
	for _, f := range a.files {
		n, err := f.used()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// close closes the files.
func (a *double) close() error {
	var err error
	for _, f := range a.files {
		if f != nil {
			err = stderrors.Join(err, f.close())
		}
	}
	return err
}
