package lockserver

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"dfs/blockstore"
)

// The model: a log (fences, epochs, writes), tables of several reigns of which
// the older ones go on acting though they are deposed, and clients with streams that
// break, lose what is on them, and deliver late. After every step:
//
//   - every table's Check holds;
//   - while a client's lease lives by its own clock, what it holds exclusive no
//     other client with a live lease holds;
//   - a grant's MinIndex (or the reader's own last index) is at least the index of the last
//     write to what the lock guards.
type world struct {
	t       *testing.T
	r       *rand.Rand
	now     time.Time
	index   uint64
	epoch   blockstore.Epoch
	tables  []*Table // by reign; the last leads
	clients []*modelClient
	written map[LockID]uint64
	fences  []blockstore.WriterID // proposed by the leader, not applied
	log     []string
	grants  int
}

type modelClient struct {
	w       *world
	id      blockstore.WriterID
	dead    bool // fenced in the log
	ended   bool // and knows it
	epoch   blockstore.Epoch
	opened  blockstore.Epoch
	at      *Table // whose stream it uses, nil: none
	stream  uint64
	up      []func()
	down    []func()
	claimed bool
	await   []LockID // claims sent, in order
	held    map[LockID]*modelHold
	given   map[LockID]bool // exceptions of own range
	told    map[LockID]bool // told open
	own     blockstore.InodeRange
	newest  uint64
	floor   uint64
	last    uint64 // index of its last write
	lease   time.Time
	stale   []func() // messages of the past, to be delivered again
}

type modelHold struct {
	mode     Mode
	number   uint64
	revoking bool
	to       Mode
	dirty    uint64
}

const modelTTL, modelMargin = 1000 * time.Millisecond, 100 * time.Millisecond

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, l := range w.log[max(0, len(w.log)-60):] {
		w.t.Log(l)
	}
	w.t.Fatalf(format, args...)
}

func (w *world) leader() *Table { return w.tables[len(w.tables)-1] }

func (w *world) begin() {
	w.epoch++
	w.index++
	t := NewTable(TableOptions{RevokeTimeout: 3 * time.Second, RememberMax: 2, SessionLocksMax: 8}, w.epoch, w.index)
	w.tables = append(w.tables, t)
	w.fences = nil
	for _, c := range w.clients {
		if !c.dead {
			t.Expect(w.now, c.id, modelTTL, true)
			t.SetRanges(c.id, []blockstore.InodeRange{c.own})
		}
	}
	w.note("epoch %d begins at %d", w.epoch, w.index)
}

func (w *world) open() {
	id := blockstore.WriterID(len(w.clients) + 1)
	c := &modelClient{w: w, id: id, opened: w.epoch, held: map[LockID]*modelHold{}, given: map[LockID]bool{}, told: map[LockID]bool{},
		own: blockstore.InodeRange{First: 100 * uint64(id), Count: 2}}
	w.clients = append(w.clients, c)
	w.index++
	w.leader().Expect(w.now, id, modelTTL, false)
	w.leader().SetRanges(id, []blockstore.InodeRange{c.own})
}

// attach opens a new stream to the leader: attached in the log, hello received.
func (c *modelClient) attach() {
	if c.dead {
		if c.w.r.IntN(2) == 0 {
			c.ended = true
		}
		return
	}
	t := c.w.leader()
	c.w.index++
	streamNo++
	if t.Attach(c.w.now, c.id, streamNo) != nil {
		return
	}
	c.stale = append(c.stale, c.up...) // what was on the older stream may arrive late
	c.at, c.stream, c.up, c.down, c.claimed, c.await = t, streamNo, nil, nil, false, nil
	if t.epoch > c.epoch {
		c.epoch, c.newest = t.epoch, 0
	}
	c.w.note("client %d attaches to %d on stream %d", c.id, t.epoch, streamNo)
	claims := Claims{Floor: c.floor, Done: true}
	for id, h := range c.held {
		if h.number != 0 || c.given[id] || !c.owns(id) {
			claims.Locks = append(claims.Locks, Claim{ID: id, Mode: h.mode})
			c.await = append(c.await, id)
		}
	}
	for id := range c.told {
		claims.Locks = append(claims.Locks, Claim{ID: id, Open: true})
	}
	for id := range c.given {
		claims.Given = append(claims.Given, IDRun{id, 1})
	}
	at, stream := t, streamNo
	c.send(func() {
		answer, err := at.Claims(c.w.now, c.id, stream, &claims)
		if err != nil {
			if at.sessions[c.id] != nil && at.sessions[c.id].stream == stream && at.sessions[c.id].doomed == "" {
				return
			}
			if at == c.w.leader() && c.at == at && c.stream == stream {
				c.w.fail("client %d: %v", c.id, err)
			}
			return
		}
		c.receive(at, stream, func() {
			for i, id := range c.await {
				c.held[id].number = answer.First + uint64(i)
				c.newest = max(c.newest, answer.First+uint64(i))
			}
			c.claimed = true
		})
	})
}

var streamNo uint64

func (c *modelClient) owns(id LockID) bool {
	return uint64(id) >= c.own.First && uint64(id) < c.own.First+c.own.Count
}

func (c *modelClient) send(f func()) { c.up = append(c.up, f) }

// receive queues what a server sent; it arrives only on the live stream, and
// what names another epoch is dropped.
func (c *modelClient) receive(t *Table, stream uint64, f func()) {
	if c.at != t || c.stream != stream {
		return
	}
	c.down = append(c.down, func() {
		if c.epoch == t.epoch {
			f()
		}
	})
}

func (c *modelClient) mode(id LockID) Mode {
	if h := c.held[id]; h != nil {
		return h.mode
	}
	if c.owns(id) && !c.given[id] {
		return Exclusive
	}
	return None
}

func (c *modelClient) grant(g Grant) {
	if g.Number <= c.newest {
		return
	}
	c.newest = g.Number
	c.w.grants++
	own := uint64(0)
	if h := c.held[g.ID]; h != nil {
		own = h.dirty
	}
	if !c.dead && max(g.MinIndex, own, c.last) < c.w.written[g.ID] {
		c.w.fail("client %d was granted lock %d with MinIndex %d (own %d), written at %d", c.id, g.ID, g.MinIndex, c.last, c.w.written[g.ID])
	}
	if c.owns(g.ID) {
		c.given[g.ID] = true
	}
	delete(c.told, g.ID)
	h := c.held[g.ID]
	if h == nil {
		h = &modelHold{}
		c.held[g.ID] = h
	}
	h.mode, h.number = g.Mode, g.Number
}

func (c *modelClient) revoke(r Revoke) {
	h := c.held[r.ID]
	if h == nil && r.Number == 0 && c.owns(r.ID) && !c.given[r.ID] {
		h = &modelHold{mode: Exclusive}
		c.held[r.ID] = h
	}
	if h == nil || h.number != r.Number || h.mode <= r.To {
		return
	}
	h.revoking, h.to = true, r.To
}

// release answers a revoke: flushed already, so the index is known.
func (c *modelClient) release(id LockID) {
	h := c.held[id]
	if !h.revoking || !c.claimed {
		return
	}
	rel := Release{ID: id, Epoch: c.epoch, Number: h.number, To: h.to, Index: h.dirty, Open: h.to == None && c.w.r.IntN(3) == 0}
	c.floor = max(c.floor, h.dirty)
	if c.owns(id) {
		c.given[id] = true
	}
	h.revoking = false
	if h.mode = h.to; h.mode == None {
		delete(c.held, id)
		if rel.Open {
			c.told[id] = true
		}
	}
	at, stream := c.at, c.stream
	f := func() { at.Release(c.w.now, c.id, stream, []Release{rel}) }
	c.send(f)
	c.stale = append(c.stale, f, func() { // the same on the stream of that time or the one of now
		if c.at != nil {
			c.at.Release(c.w.now, c.id, c.stream, []Release{rel})
		}
	})
}

func (c *modelClient) act() {
	w := c.w
	if c.ended {
		return
	}
	switch k := w.r.IntN(20); {
	case k < 2 && (c.at == nil || c.at != w.leader()):
		c.attach()
	case k == 2 && w.r.IntN(6) == 0:
		c.attach() // a new stream though the older one lives
	case k == 3 && w.r.IntN(10) == 0:
		if c.at != nil {
			c.at.Detach(w.now, c.id, c.stream)
		}
		c.at = nil
	case c.at == nil:
	case k < 7 && c.claimed:
		id := LockID(1 + w.r.IntN(4))
		if w.r.IntN(3) == 0 {
			o := w.clients[w.r.IntN(len(w.clients))]
			if o.opened > c.epoch {
				return // nobody can know of these inodes in an older epoch
			}
			id = LockID(o.own.First + w.r.Uint64N(2))
		}
		m := Mode(1 + w.r.IntN(2))
		at, stream := c.at, c.stream
		if c.mode(id) < m {
			f := func() { at.Acquire(w.now, c.id, stream, []Request{{id, m}}) }
			c.send(f)
			c.stale = append(c.stale, f)
		}
	case k < 10:
		for id := range c.held {
			if c.mode(id) == Exclusive && !c.dead && c.epoch == w.epoch {
				w.index++
				w.written[id], c.held[id].dirty, c.last = w.index, w.index, w.index
				break
			}
		}
	case k < 14:
		for id, h := range c.held {
			if h.revoking {
				c.release(id)
				break
			}
		}
	case k < 16:
		at, stream, sent := c.at, c.stream, w.now
		c.send(func() {
			received := w.now
			at.Received(received, c.id, stream)
			if at != w.leader() || !at.Renew(received, c.id, stream) {
				return // no proof of leadership, or not to be renewed
			}
			c.receive(at, stream, func() {
				if e := sent.Add(modelTTL - modelMargin); e.After(c.lease) {
					c.lease = e
				}
			})
		})
	case k == 16 && len(c.stale) > 0:
		c.stale[w.r.IntN(len(c.stale))]()
	}
	for range w.r.IntN(4) {
		c.deliver()
	}
}

// deliver moves what is on the way; what comes down may come twice.
func (c *modelClient) deliver() {
	if len(c.up) > 0 {
		f := c.up[0]
		c.up = c.up[1:]
		f()
		c.w.drain(c.w.leader())
	}
	if len(c.down) > 0 {
		f := c.down[0]
		c.down = c.down[1:]
		f()
		if c.w.r.IntN(5) == 0 {
			f()
		}
	}
}

// live counts the clients that are not known to be over.
func (w *world) live() (n int) {
	for _, c := range w.clients {
		if !c.ended {
			n++
		}
	}
	return n
}

func (w *world) step() {
	switch k := w.r.IntN(100); {
	case k < 84:
		if c := w.clients[w.r.IntN(len(w.clients))]; !c.ended {
			c.act()
		} else {
			w.clients[len(w.clients)-1].act()
		}
	case k < 96:
		w.now = w.now.Add(time.Duration(w.r.IntN(20)) * time.Millisecond)
		w.tables[w.r.IntN(len(w.tables))].Tick(w.now)
		w.leader().Tick(w.now)
	case k == 96 && len(w.fences) > 0:
		id := w.fences[0]
		w.fences = w.fences[1:]
		w.index++
		w.clients[id-1].dead = true
		w.note("client %d is fenced at %d", id, w.index)
		w.leader().Ended(w.now, id, w.index, false)
	case k == 97 && w.r.IntN(40) == 0:
		w.begin()
	case k == 98 && w.r.IntN(4) == 0 && w.live() < 4:
		w.open()
	}
	for _, t := range w.tables {
		w.drain(t)
		if err := t.Check(); err != nil {
			w.fail("epoch %d: %v", t.epoch, err)
		}
	}
	w.checkHeld()
}

func (w *world) drain(t *Table) {
	for _, o := range t.Drain() {
		c := w.clients[o.Session-1]
		switch {
		case o.Fence && t == w.leader():
			w.fences = append(w.fences, o.Session)
		case o.Grant != nil:
			w.note("epoch %d grants %+v to %d", t.epoch, *o.Grant, o.Session)
			c.receive(t, o.Stream, func() { c.grant(*o.Grant) })
		case o.Revoke != nil:
			c.receive(t, o.Stream, func() { c.revoke(*o.Revoke) })
		case o.Close != nil && c.at == t && c.stream == o.Stream:
			w.note("stream of %d closed: %v", c.id, o.Close)
			c.at = nil
		}
	}
}

func (w *world) checkHeld() {
	for i, a := range w.clients {
		if a.ended || !w.now.Before(a.lease) {
			continue
		}
		for _, b := range w.clients[:i] {
			if b.ended || !w.now.Before(b.lease) {
				continue
			}
			for id := range a.held {
				if m, n := a.mode(id), b.mode(id); m == Exclusive && n != None || n == Exclusive && m != None {
					w.fail("clients %d and %d hold lock %d in modes %d and %d, both with a live lease", a.id, b.id, id, m, n)
				}
			}
			for id := range b.held {
				if m, n := a.mode(id), b.mode(id); m == Exclusive && n != None || n == Exclusive && m != None {
					w.fail("clients %d and %d hold lock %d in modes %d and %d, both with a live lease", a.id, b.id, id, m, n)
				}
			}
		}
	}
}

// TestTableModel runs many random schedules. DFS_LOCK_SEED repeats one.
func TestTableModel(t *testing.T) {
	runs, steps := 150, 4000
	if testing.Short() {
		runs = 20
	}
	first := uint64(1)
	if s := os.Getenv("DFS_LOCK_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		runs = 1
	}
	grants := 0
	for seed := first; seed < first+uint64(runs); seed++ {
		w := &world{t: t, r: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0), written: map[LockID]uint64{}}
		w.begin()
		for range 3 {
			w.open()
		}
		w.note("DFS_LOCK_SEED=%d", seed)
		for range steps {
			if w.step(); t.Failed() {
				return
			}
		}
		grants += w.grants
	}
	if grants < 50*runs {
		t.Errorf("only %d grants in %d runs: the model does not do its work", grants, runs)
	}
}
