package posixclient

import (
	"context"
	"strings"
	"testing"
	"time"

	"dfs/fs/filerpc"
	"dfs/internal/errors"
)

// TestTwoClusters: a list that mixes two clusters is refused, and both are named; a node that is of another cluster
// later, because the address has another owner, is not used.
func TestTwoClusters(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	addrs := []string{w.nodes[0].addr, w.nodes[1].addr}
	w.nodes[1].cluster.Store("two")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := Dial(ctx, addrs, Options{})
	if !errors.Is(err, errors.KindForeign) || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "two") {
		t.Errorf("a client of two clusters: %v", err)
	}
	if r, err := filerpc.DialRemote(ctx, addrs, time.Second); !errors.Is(err, errors.KindForeign) {
		t.Errorf("a mount of two clusters: %v", err)
		if err == nil {
			_ = r.Close(ctx)
		}
	}
	w.nodes[1].cluster.Store("one")
	c, err := Dial(ctx, addrs, Options{Wait: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	used, others := w.inUse(c)
	others[0].cluster.Store("two")
	used.kill()
	if err := c.Mkdir("/d", 0o755); err == nil || !strings.Contains(err.Error(), `of cluster "two", not of "one"`) {
		t.Errorf("a change at a node of another cluster: %v", err)
	}
}
