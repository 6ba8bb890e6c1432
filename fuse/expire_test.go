package fuse

import (
	"log/slog"
	"os"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// TestExpireOnlyWhenIdle: no notification of a name is begun while a request is under way in its directory: a process killed while the kernel
// makes the notification wait could not end, nor could the task that it waits for.
func TestExpireOnlyWhenIdle(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	c := newConn(&fakeFS{}, newNotifier(int(out.Fd()), slog.Default()), Options{Logger: slog.Default(), clock: bootTime})
	c.names.sharedQuiet = 0
	written := func() bool {
		if err := in.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, _ := in.Read(make([]byte, 4096))
		return n > 0
	}
	offer := func() {
		t.Helper()
		r := c.begin(nil, &gofuse.InHeader{NodeId: 1}, "create")
		defer c.end(r)
		if c.names.offer(r.mark, 1, "x", time.Second, false) == 0 {
			t.Fatal("the name was not handed out")
		}
	}
	offer()
	c.DropNames(1)
	if !written() {
		t.Fatal("nothing expired the name")
	}
	for _, under := range []func(r *inflight){func(*inflight) {}, func(r *inflight) { r.ino = 2; c.concerns(r, 1) }} {
		c.names.dirs[1].quiet = time.Time{}
		offer()
		r := c.begin(nil, &gofuse.InHeader{NodeId: 1}, "rename")
		under(r)
		began := time.Now()
		c.DropNames(1)
		if written() {
			t.Error("a name was expired while a request was under way in its directory")
		}
		if time.Since(began) < nameTimeoutMin {
			t.Error("neither was the name expired, nor was its timeout waited out")
		}
		c.end(r)
		if written() {
			t.Error("a name was expired though its timeout had been waited out")
		}
	}
}
