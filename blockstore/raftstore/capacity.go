package raftstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/wal"
)

// capacityState is what the leader knows of the members' disks.
type capacityState struct {
	mu    sync.Mutex
	usage map[string]PeerUsage // by incarnation, of this reign; guarded by mu
	wake  chan struct{}
}

// kick makes the leader look at once, and forget what it heard in an earlier reign.
func (c *capacityState) kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usage = nil
	if c.wake != nil {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// hostFileSystem names the file system that dir is on: replicas of one host that share it share its free space.
func hostFileSystem(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", errors.New(errors.KindIO, "cannot look at %s: %w", dir, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", errors.New(errors.KindIO, "cannot read the boot id: %w", err)
	}
	return fmt.Sprintf("%s:%d", bytes.TrimSpace(boot), st.Dev), nil
}

// capacityLoop lets the leader set the admitted capacity.
func (n *Node) capacityLoop() {
	ctx, cancel := n.runCtx()
	defer cancel()
	wake := make(chan struct{}, 1)
	n.capacity.mu.Lock()
	n.capacity.wake = wake
	n.capacity.mu.Unlock()
	tick := time.NewTicker(n.limits.CapacityInterval)
	defer tick.Stop()
	for {
		if n.Leadership().Self {
			if err := n.setCapacity(ctx); err != nil && n.Leadership().Self && ctx.Err() == nil {
				n.log.Warn("cannot set the capacity; trying again later", "err", err)
			}
		}
		select {
		case <-tick.C:
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

// setCapacity measures and, if it is worth it, proposes the capacity.
func (n *Node) setCapacity(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.limits.CapacityInterval)
	defer cancel()
	var now uint64
	n.View(func(s *blockstore.State, _ uint64) { now = s.Capacity() })
	want, all := n.opts.CapacityBlocks, true
	if want == 0 {
		want, all = n.measureCapacity(ctx)
	}
	if !worthSetting(now, want, all, n.opts.CapacityBlocks != 0) {
		return nil
	}
	res, err := n.Propose(ctx, blockstore.Command{Kind: blockstore.CmdSetSetting, Name: blockstore.SettingCapacityBlocks, Value: want})
	if err == nil {
		err = res.Err
	}
	if err == nil {
		n.log.Info("set the admitted capacity", "blocks", want, "before", now)
	}
	return err
}

// worthSetting: more than 1% away; and not upwards while a member's disk is unknown. A capacity given by hand is exact.
func worthSetting(now, want uint64, all, exact bool) bool {
	switch {
	case want == 0 || want == now:
		return false
	case exact:
		return true
	case now == 0:
		return all
	case want > now:
		return all && want-now > now/100
	}
	return now-want > now/100
}

// measureCapacity returns 90% of the smallest replica, in blocks, and whether every member was heard in this reign.
func (n *Node) measureCapacity(ctx context.Context) (blocks uint64, all bool) {
	members := n.Members()
	all = true
	var list []PeerUsage
	var here string
	for _, m := range members {
		var u PeerUsage
		var err error
		if m.Self {
			u, err = n.ServeUsage(ctx)
			here = u.FSID
		} else {
			rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			u, err = n.opts.Peers.Usage(rctx, m.Address)
			cancel()
		}
		n.capacity.mu.Lock()
		if n.capacity.usage == nil {
			n.capacity.usage = make(map[string]PeerUsage)
		}
		known := true
		if err == nil {
			n.capacity.usage[m.Incarnation] = u
		} else {
			u, known = n.capacity.usage[m.Incarnation]
		}
		n.capacity.mu.Unlock()
		if !known {
			all = false
			continue
		}
		list = append(list, u)
	}
	return capacityOf(withSpare(list, here, uint64(n.spareBytes.Load()))), all
}

// withSpare counts the log that this node, the leader, keeps for followers as free where it is: it goes as soon as the space is needed, and
// what is admitted must not rise and fall with it.
func withSpare(list []PeerUsage, here string, spare uint64) []PeerUsage {
	for i := range list {
		if list[i].FSID == here {
			list[i].Free += spare
		}
	}
	return list
}

// logSlack is what the log's files take beyond its entries: an active segment, a spare one, one to be recycled.
const logSlack = 192 << 20

// logToCome is by how much the log may grow yet. What is kept for followers does not count: it goes when space gets short.
func (n *Node) logToCome() uint64 {
	most := n.limits.CheckpointBytes + n.limits.TrailingBytes + logSlack
	return uint64(max(0, most-n.stores.entries.DiskBytes()))
}

// capacityOf: a replica may hold what it uses and its share of what is free where it is, less what its log and its double-write area may yet take (but half of
// the share at most: on a tiny disk the log goes short); 90% of the least is admitted.
func capacityOf(list []PeerUsage) uint64 {
	sharers := make(map[string]uint64)
	for _, u := range list {
		sharers[u.FSID]++
	}
	var least uint64
	for i, u := range list {
		free := u.Free / sharers[u.FSID]
		share := u.Used + free - min(u.LogToCome, free/2)
		if i == 0 || share < least {
			least = share
		}
	}
	return least / wal.BlockSize / 10 * 9
}
