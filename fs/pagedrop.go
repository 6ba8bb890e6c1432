package fs

import "time"

// dropPatience is how long a drop of pages may take before it counts as held up by a request that waits for the lock. It is long, because what is
// left behind must not be up to date: a drop that merely did not get a processor yet has to be waited for.
const dropPatience = time.Second

// pageDrop is a drop of a kernel's pages under way.
type pageDrop struct{ finished chan struct{} }

// wait waits until the drop is done (true), or has lasted dropPatience and mayLeave says that it may be left to itself (false).
func (d pageDrop) wait(mayLeave func() bool) bool {
	t := time.NewTicker(dropPatience)
	defer t.Stop()
	for {
		select {
		case <-d.finished:
			return true
		case <-t.C:
			if mayLeave() {
				return false
			}
		}
	}
}
