package fs

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// dropped is an Invalidator that remembers what was dropped. Its DropData waits, as a kernel's does for a READ in flight.
type dropped struct {
	mu                 sync.Mutex
	attrs, data, names map[Ino]bool
	reads              chan struct{}
}

func (d *dropped) DropData(ino Ino, _, _ uint64) {
	<-d.reads
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data[ino] = true
}

func (d *dropped) DropAttr(ino Ino) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attrs[ino] = true
}

func (d *dropped) DropNames(dir Ino) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names[dir] = true
}

// until waits for f, which is called under mu.
func (d *dropped) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		ok := f()
		d.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not dropped: %s", what)
		}
	}
}

// TestVoidKernel: after a suspension everything is dropped that the kernel was told of; the attributes without waiting for the pages of any
// file, on which a READ may be in flight that waits for the cluster.
func TestVoidKernel(t *testing.T) {
	w := newWorld(t, 1<<20)
	d := &dropped{attrs: map[Ino]bool{}, data: map[Ino]bool{}, names: map[Ino]bool{}, reads: make(chan struct{})}
	m := w.mount(Options{Invalidator: d})
	var inos []Ino
	for i := range 50 {
		ino, h := m.create(RootIno, fmt.Sprint("f", i))
		m.write(h, "x", 0)
		if _, _, err := m.Open(ctx, root, ino, syscall.O_RDWR); err != nil {
			t.Fatal(err)
		}
		inos = append(inos, m.lookup(RootIno, fmt.Sprint("f", i)).Attr.Ino)
	}
	m.VoidKernel()
	all := func(dropped map[Ino]bool) func() bool {
		return func() bool {
			for _, ino := range inos {
				if !dropped[ino] {
					return false
				}
			}
			return true
		}
	}
	d.until(t, "attributes, while the drop of pages waits", all(d.attrs))
	close(d.reads)
	d.until(t, "pages", all(d.data))
	d.until(t, "names", func() bool { return d.names[RootIno] })
}
