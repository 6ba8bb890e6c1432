package sim

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestBrokenToldToBoth: what is written to a connection that broke fails when its reader is told, and not before: a slow link brings
// the news late. gRPC's writer ends when it fails, and leaves it to the reader to close the connection.
func TestBrokenToldToBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 100 * time.Millisecond
		n := newNetwork(rand.New(rand.NewPCG(1, 2)))
		near, far := n.host("near"), n.host("far")
		l, err := far.Listen("far:1")
		if err != nil {
			t.Fatal(err)
		}
		c, err := near.Dial(context.Background(), "far:1")
		if err != nil {
			t.Fatal(err)
		}
		peer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		n.slow("far", "near", delay)
		if _, err := peer.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		n.reset("near", "far")
		if _, err := c.Write([]byte("x")); err != nil {
			t.Error("the writer is told before the reader:", err)
		}
		for b := make([]byte, 8); err == nil; {
			_, err = c.Read(b)
		}
		if !errors.Is(err, syscall.ECONNRESET) || time.Since(begin) < delay {
			t.Errorf("read after %v: %v", time.Since(begin), err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Error("the writer is not told:", err)
		}
		for _, c := range []net.Conn{c, peer} {
			c.Close()
		}
		l.Close()
	})
}
