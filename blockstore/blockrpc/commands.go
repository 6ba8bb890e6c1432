package blockrpc

import (
	"context"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/wire/blockpb"
)

// command carries out one numbered command. They go one at a time: a number is
// sent until it is answered, and one given up (ctx ended: outcome unknown) is
// never used again; the state machine refuses it once a later one was done.
func (c *Client) command(ctx context.Context, what string, kind blockpb.CommandRequest_Kind, count uint64) (*blockpb.CommandResponse, error) {
	select {
	case <-c.commands:
	case <-ctx.Done():
		return nil, c.gaveUp(ctx, what, ctx.Err())
	case <-c.ctx.Done():
		return nil, c.gaveUp(ctx, what, nil)
	}
	defer func() { c.commands <- struct{}{} }()
	ctx, cancel := c.until(ctx)
	defer cancel()
	c.op++
	req := &blockpb.CommandRequest{Kind: kind, Writer: uint64(c.session.Writer), Token: c.session.Token[:], Op: c.op, Count: count}
	var resp *blockpb.CommandResponse
	err := c.onLeader(ctx, what, func(ctx context.Context, cc *grpc.ClientConn) (err error) {
		resp, err = blockpb.NewBlockStoreClient(cc).Command(ctx, req)
		return err
	})
	return resp, err
}

// until gives a context that ends with ctx or with the client.
func (c *Client) until(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// TakeInodes implements blockstore.Store.
func (c *Client) TakeInodes(ctx context.Context, n uint64) (blockstore.InodeRange, error) {
	resp, err := c.command(ctx, "taking inode numbers", blockpb.CommandRequest_TAKE_INODES, n)
	if err != nil {
		return blockstore.InodeRange{}, err
	}
	return blockstore.InodeRange{First: resp.FirstInode, Count: resp.InodeCount}, nil
}

// Reserve implements blockstore.Store. If ctx ends, whether the blocks are
// reserved is unknown.
func (c *Client) Reserve(ctx context.Context, n uint64) error {
	_, err := c.command(ctx, "reserving space", blockpb.CommandRequest_RESERVE, n)
	return err
}

// Unreserve implements blockstore.Store.
func (c *Client) Unreserve(ctx context.Context, n uint64) error {
	_, err := c.command(ctx, "giving reserved space back", blockpb.CommandRequest_UNRESERVE, n)
	return err
}

// ForgetRetired implements blockstore.Store.
func (c *Client) ForgetRetired(ctx context.Context, w blockstore.WriterID) error {
	_, err := c.command(ctx, "forgetting an ended writer", blockpb.CommandRequest_FORGET_RETIRED, uint64(w))
	return err
}

// Space implements blockstore.Store.
func (c *Client) Space(ctx context.Context) (sp blockstore.Space, err error) {
	ctx, cancel := c.until(ctx)
	defer cancel()
	err = c.onLeader(ctx, "asking for space", func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := blockpb.NewBlockStoreClient(cc).Space(ctx, &blockpb.SpaceRequest{})
		sp = blockstore.Space{CapacityBlocks: r.GetCapacityBlocks(), UsedBlocks: r.GetUsedBlocks(), ReservedBlocks: r.GetReservedBlocks()}
		return err
	})
	return sp, err
}

// Retired implements blockstore.Store.
func (c *Client) Retired(ctx context.Context) (list []blockstore.WriterID, err error) {
	ctx, cancel := c.until(ctx)
	defer cancel()
	err = c.onLeader(ctx, "listing ended writers", func(ctx context.Context, cc *grpc.ClientConn) error {
		r, err := blockpb.NewBlockStoreClient(cc).Retired(ctx, &blockpb.RetiredRequest{})
		list = list[:0]
		for _, w := range r.GetWriters() {
			list = append(list, blockstore.WriterID(w))
		}
		return err
	})
	return list, err
}
