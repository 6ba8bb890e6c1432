package fileconn

import "context"

// Gate is a mutex that can be waited for with a context.
type Gate chan struct{}

// NewGate makes a free one.
func NewGate() Gate { return make(Gate, 1) }

// Enter takes it, or returns the error of ctx if that ends first.
func (g Gate) Enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Leave gives it back.
func (g Gate) Leave() { <-g }
