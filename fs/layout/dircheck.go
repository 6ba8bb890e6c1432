package layout

import (
	"fmt"
	"syscall"

	"dfs/internal/errors"
)

// dirCheck is one run of Dir.Check.
type dirCheck struct {
	d       *Dir
	report  func(text string)
	yield   func(Entry)
	over    map[uint64]bool // overflow blocks met
	entries uint64
	live    uint64
	failed  uint64 // blocks that could not be read
}

// Check examines the whole structure of a directory: every entry well formed, of a lawful name, at
// the position of its hash and in the bucket of its position; no name and no position twice; chains
// sound; and the counts of blocks and header. It calls report for each problem and yield for every entry
// that could be read, in no particular order. Its error is one of Get's; damage is reported instead.
func (d *Dir) Check(report func(text string), yield func(Entry)) error {
	c := &dirCheck{d: d, report: report, yield: yield, over: map[uint64]bool{}}
	h := d.In.Dir
	if d.inline() {
		c.body(d.In.Inline, map[uint64]bool{}, map[string]bool{}, 0)
	} else {
		for b := range h.Buckets {
			if err := c.bucket(b); err != nil {
				return err
			}
			if c.failed > 100 && c.failed > b/2 {
				report(fmt.Sprintf("most of its %d buckets are unreadable; gave up at %d", h.Buckets, b))
				return nil
			}
		}
	}
	for _, n := range [...]struct {
		what      string
		has, want uint64
	}{{"names", c.entries, h.Entries}, {"bytes of entries", c.live, h.LiveBytes}, {"overflow blocks", uint64(len(c.over)), h.Overflows}} {
		if n.has != n.want {
			report(fmt.Sprintf("the header counts %d %s, there are %d", n.want, n.what, n.has))
		}
	}
	return nil
}

// bucket checks one bucket and its chain.
func (c *dirCheck) bucket(bucket uint64) error {
	positions, names := map[uint64]bool{}, map[string]bool{}
	for no := bucket; ; {
		raw, err := c.d.B.Get(no)
		if err != nil {
			if errors.Is(err, errors.KindCorrupt) {
				c.failed++
				c.report(fmt.Sprintf("block %d cannot be read: %v", no, err))
				return nil
			}
			return err
		}
		b, err := checkBucket(c.d.In.Ino, bucket, raw)
		if err != nil {
			c.failed++
			c.report(err.Error())
			return nil
		}
		count, live := c.entries, c.live
		c.body(b.body(), positions, names, bucket)
		if uint64(b.count()) != c.entries-count || uint64(b.live()) != c.live-live {
			c.report(fmt.Sprintf("block %d counts %d entries of %d bytes, it has %d of %d", no, b.count(), b.live(), c.entries-count, c.live-live))
		}
		if no = b.next(); no == 0 {
			return nil
		}
		if c.over[no] {
			c.report(fmt.Sprintf("overflow block %d is chained twice", no))
			return nil
		}
		if no >= OverflowBase+c.d.In.Dir.NextOverflow {
			c.report(fmt.Sprintf("overflow block %d is beyond those ever given out", no))
		}
		c.over[no] = true
	}
}

// body checks entries: of a bucket's block, or inline.
func (c *dirCheck) body(body []byte, positions map[uint64]bool, names map[string]bool, bucket uint64) {
	ok := entriesOf(body, func(e entryView) bool {
		entry, pos := e.decode(), e.position()
		c.entries, c.live = c.entries+1, c.live+uint64(e.size())
		if checkName(entry.Name) != nil || !validType(entry.Type) || entry.Type&^syscall.S_IFMT != 0 {
			c.report(fmt.Sprintf("entry %q of type %#o is not lawful", entry.Name, entry.Type))
		}
		if pos&^sequenceMax != c.d.base(entry.Name) {
			c.report(fmt.Sprintf("entry %q is not at the position of its hash", entry.Name))
		} else if !c.d.inline() && bucketOf(pos, c.d.In.Dir.Buckets) != bucket {
			c.report(fmt.Sprintf("entry %q is in bucket %d, where no lookup finds it", entry.Name, bucket))
		}
		if names[entry.Name] {
			c.report(fmt.Sprintf("name %q is there twice", entry.Name))
		}
		if positions[pos] {
			c.report(fmt.Sprintf("entry %q has a position that another has", entry.Name))
		}
		names[entry.Name], positions[pos] = true, true
		c.yield(entry)
		return true
	})
	if !ok {
		c.report(fmt.Sprintf("an entry of bucket %d is damaged, those behind it are lost", bucket))
	}
}
