package sim

import "sync"

// hang holds operations of a disk back for a while.
type hang struct {
	mu sync.Mutex
	c  chan struct{} // closed when it ends; nil: there is none
}

func (h *hang) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c == nil {
		h.c = make(chan struct{})
	}
}

func (h *hang) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.c != nil {
		close(h.c)
		h.c = nil
	}
}

func (h *hang) wait() {
	h.mu.Lock()
	c := h.c
	h.mu.Unlock()
	if c != nil {
		<-c
	}
}
