package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// logCache keeps the newest entries, by reference. They are consecutive.
// The oldest go when the bytes pass the bound, all after idle time without use.
type logCache struct {
	bytesMax int64
	idle     time.Duration

	mu     sync.RWMutex
	logs   []raft.Log // from start on; before it are cleared slots
	start  int
	bytes  int64
	used   bool // since the timer last fired
	timer  *time.Timer
	closed bool
}

// cacheEntryBytes is about what an entry costs beside its data.
const cacheEntryBytes = 96

func costOf(l *raft.Log) int64 { return int64(cap(l.Data)+cap(l.Extensions)) + cacheEntryBytes }

func (c *logCache) init(bytesMax int64, idle time.Duration) { c.bytesMax, c.idle = bytesMax, idle }

// add puts entries behind the newest; if they do not follow it, the cache begins anew.
func (c *logCache) add(logs []*raft.Log) {
	if c.bytesMax <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if n := len(c.logs); n > c.start && c.logs[n-1].Index+1 != logs[0].Index {
		c.reset()
	}
	for _, l := range logs {
		c.logs = append(c.logs, *l)
		c.bytes += costOf(l)
	}
	for c.bytes > c.bytesMax {
		c.popFront()
	}
	c.compact()
	c.used = true
	if c.timer == nil && len(c.logs) > 0 {
		c.timer = time.AfterFunc(c.idle, c.expire)
	}
}

func (c *logCache) popFront() {
	c.bytes -= costOf(&c.logs[c.start])
	c.logs[c.start] = raft.Log{}
	c.start++
}

// compact moves the entries to the front once more than half of the slots are empty.
func (c *logCache) compact() {
	if c.start == len(c.logs) {
		c.logs, c.start = c.logs[:0], 0
	} else if c.start > 64 && c.start > len(c.logs)/2 {
		n := copy(c.logs, c.logs[c.start:])
		clear(c.logs[n:])
		c.logs, c.start = c.logs[:n], 0
	}
}

func (c *logCache) reset() { c.logs, c.start, c.bytes = nil, 0, 0 }

func (c *logCache) get(index uint64, out *raft.Log) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.start == len(c.logs) || index < c.logs[c.start].Index || index > c.logs[len(c.logs)-1].Index {
		return false
	}
	*out = c.logs[c.start+int(index-c.logs[c.start].Index)]
	return true
}

// first is the index of the oldest entry here, 0 if there is none.
func (c *logCache) first() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.start == len(c.logs) {
		return 0
	}
	return c.logs[c.start].Index
}

func (c *logCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset()
}

// dropFrom forgets the entries from index from on.
func (c *logCache) dropFrom(from uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.logs)
	for n > c.start && c.logs[n-1].Index >= from {
		n--
		c.bytes -= costOf(&c.logs[n])
		c.logs[n] = raft.Log{}
	}
	c.logs = c.logs[:n]
	c.compact()
}

// dropBefore forgets the entries below before.
func (c *logCache) dropBefore(before uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.start < len(c.logs) && c.logs[c.start].Index < before {
		c.popFront()
	}
	c.compact()
}

// expire drops everything if nothing was added for a whole idle time.
func (c *logCache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.used {
		c.used = false
		c.timer.Reset(c.idle)
		return
	}
	c.timer = nil
	c.reset()
}

func (c *logCache) size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.bytes
}

func (c *logCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.reset()
	if c.timer != nil {
		c.timer.Stop()
	}
}
