package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
	"dfs/internal/wire/filepb"
)

// The commands that look after a cluster.

// askWait bounds one question to one node.
const askWait = 5 * time.Second

func operatorCommands() []*cobra.Command {
	return []*cobra.Command{newStatusCommand(), newNodeCommand(), newFsckCommand(), newScrubCommand(), newCompareCommand()}
}

// operator is a connection to a cluster for its administrator.
type operator struct {
	cluster *cluster.Cluster
	out     io.Writer
	errs    io.Writer
	// leaderWait bounds a search for the leader.
	leaderWait time.Duration
}

// withOperator runs f connected to the cluster that args or the environment name.
func withOperator(c *cobra.Command, args []string, f func(ctx context.Context, o *operator) error) error {
	addrs, err := clusterArg(args)
	if err != nil {
		return err
	}
	cl, err := cluster.Dial(addrs, cluster.Options{})
	if err != nil {
		return err
	}
	defer cl.Close()
	refresh, cancel := context.WithTimeout(c.Context(), askWait)
	defer cancel()
	if err := cl.Refresh(refresh); err != nil && errors.Is(err, errors.KindForeign) {
		return err
	}
	return f(c.Context(), &operator{cluster: cl, out: c.OutOrStdout(), errs: c.ErrOrStderr()})
}

func (o *operator) admin(addr string) (blockpb.AdminClient, error) {
	conn, err := o.cluster.Conn(addr)
	if err != nil {
		return nil, err
	}
	return blockpb.NewAdminClient(conn), nil
}

func newFsckCommand() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "fsck [CLUSTER]", Short: "check the file system while it runs",
		Long: `Check reachability, link counts, sizes, orphans and the accounting of space, on one replica
held still at its index (a follower, while the others go on). Exit code 1 if anything is wrong.`,
		Example: "  dfs fsck 127.0.0.1:7470\n  dfs fsck --node b 127.0.0.1:7470",
		Args:    rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withOperator(c, args, func(ctx context.Context, o *operator) error { return o.fsck(ctx, node) })
		},
	}
	c.Flags().StringVar(&node, "node", "", "the node to check on (default: a follower)")
	return c
}

func (o *operator) fsck(ctx context.Context, node string) error {
	addr, err := o.checkable(ctx, node)
	if err != nil {
		return err
	}
	conn, err := o.cluster.Conn(addr)
	if err != nil {
		return err
	}
	stream, err := filepb.NewCheckerClient(conn).Fsck(ctx, &filepb.FsckRequest{})
	if err != nil {
		return err
	}
	progress := newStepLine(o.errs)
	defer progress.end()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		r := m.GetReport()
		if r == nil {
			progress.show("%s: %d", m.GetStep(), m.GetDone())
			continue
		}
		progress.end()
		if _, err := fmt.Fprintf(o.out, "checked %s at index %d\n%s", addr, r.GetIndex(), r.GetText()); err != nil {
			return err
		}
		if n := uint64(len(r.GetProblems())) + r.GetDropped(); n > 0 {
			return errors.New(errors.KindCorrupt, "the file system has %d problems", n)
		}
		return nil
	}
}

// checkable finds the node to hold: the one named, else a follower, else the only one.
func (o *operator) checkable(ctx context.Context, node string) (string, error) {
	var fallback string
	list := o.status(ctx)
	for _, n := range list {
		switch {
		case n.Details == nil:
		case node != "" && n.Node == node, node == "" && n.Role == "follower" && n.Details.Ready:
			return n.Address, nil
		case n.Role == "leader" && node == "":
			fallback = n.Address
		}
	}
	if node != "" {
		return "", errors.New(errors.KindNotExist, "no node %q answers; see dfs status", node)
	}
	if fallback == "" {
		return "", errors.New(errors.KindUnavailable, "no node answers; see dfs status")
	}
	return fallback, nil
}

func newScrubCommand() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "scrub [CLUSTER]", Short: "check every block of every node and repair what is damaged",
		Example: "  dfs scrub 127.0.0.1:7470\n  dfs scrub --node b 127.0.0.1:7470",
		Args:    rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withOperator(c, args, func(ctx context.Context, o *operator) error { return o.scrubAll(ctx, node) })
		},
	}
	c.Flags().StringVar(&node, "node", "", "only this node")
	return c
}

func (o *operator) scrubAll(ctx context.Context, node string) error {
	var failed error
	done := 0
	for _, n := range o.status(ctx) {
		if node != "" && n.Node != node {
			continue
		}
		if n.Details == nil {
			failed = firstError(failed, errors.New(errors.KindUnavailable, "node %s at %s does not answer: %s", orDash(n.Node), n.Address, firstLine(n.Error)))
			continue
		}
		failed = firstError(failed, o.scrub(ctx, n))
		done++
	}
	if done == 0 && failed == nil {
		return errors.New(errors.KindNotExist, "no node %q answers; see dfs status", node)
	}
	return failed
}

func (o *operator) scrub(ctx context.Context, n nodeStatus) error {
	admin, err := o.admin(n.Address)
	if err != nil {
		return err
	}
	stream, err := admin.Scrub(ctx, &blockpb.ScrubRequest{})
	if err != nil {
		return err
	}
	progress := newStepLine(o.errs)
	defer progress.end()
	for {
		p, err := stream.Recv()
		if err != nil {
			return err
		}
		if !p.GetDone() {
			progress.show("node %s: %d chunks, %d bad blocks, %d repaired", n.Node, p.GetChunks(), p.GetBad(), p.GetRepaired())
			continue
		}
		progress.end()
		if _, err := fmt.Fprintf(o.out, "node %s: %d chunks checked, %d bad blocks, %d repaired\n", n.Node, p.GetChunks(), p.GetBad(), p.GetRepaired()); err != nil {
			return err
		}
		if p.GetBad() > p.GetRepaired() {
			return errors.New(errors.KindCorrupt, "node %s has %d blocks that could not be repaired", n.Node, p.GetBad()-p.GetRepaired())
		}
		return nil
	}
}

func newCompareCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use: "compare [CLUSTER]", Short: "are all replicas byte-identical at equal index?",
		Long: `Compare the content of every chunk of every replica. Two replicas whose chunk was changed last by
the same log entry must hold the same bytes; a chunk that is being written meanwhile is looked at again. Exit code 1 if any differs.`,
		Example: "  dfs compare 127.0.0.1:7470\n  dfs compare --wait 5m 127.0.0.1:7470    # while much is written",
		Args:    rangeArgs(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			return withOperator(c, args, func(ctx context.Context, o *operator) error { return o.compare(ctx, wait) })
		},
	}
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the replicas to reach the same state")
	return c
}

// chunkKey names a chunk; chunkState is what a replica holds of it.
type (
	chunkKey   struct{ vdisk, chunk uint64 }
	chunkState struct {
		last uint64
		hash string
	}
)

// compare looks until every chunk was seen alike on all replicas, or two differ at the same
// log index, or the wait is over.
func (o *operator) compare(ctx context.Context, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	for {
		nodes := o.status(ctx)
		images := make([]map[chunkKey]chunkState, len(nodes))
		for i, n := range nodes {
			if n.Details == nil {
				return errors.New(errors.KindUnavailable, "node %s at %s does not answer: %s", orDash(n.Node), n.Address, firstLine(n.Error))
			}
			image, err := o.image(ctx, n.Address)
			if err != nil {
				return errors.New(errors.KindOf(err), "node %s: %w", n.Node, err)
			}
			images[i] = image
		}
		different, moving := difference(images)
		if len(different) > 0 {
			for _, k := range different {
				if _, err := fmt.Fprintf(o.out, "vdisk %#x chunk %d:", k.vdisk, k.chunk); err != nil {
					return err
				}
				for i, n := range nodes {
					s := images[i][k]
					if _, err := fmt.Fprintf(o.out, " %s %s@%d", n.Node, hex.EncodeToString([]byte(s.hash))[:min(16, 2*len(s.hash))], s.last); err != nil {
						return err
					}
				}
				if _, err := fmt.Fprintln(o.out); err != nil {
					return err
				}
			}
			return errors.New(errors.KindCorrupt, "the replicas differ in %d chunks that the same log entry changed last", len(different))
		}
		if moving == 0 {
			_, err := fmt.Fprintf(o.out, "%d replicas are identical: %d chunks\n", len(nodes), len(images[0]))
			return err
		}
		if time.Now().After(deadline) {
			return errors.New(errors.KindTimeout, "%d chunks were at different log entries on different replicas all the time; is a node behind? (dfs status)", moving)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func (o *operator) image(ctx context.Context, addr string) (map[chunkKey]chunkState, error) {
	admin, err := o.admin(addr)
	if err != nil {
		return nil, err
	}
	stream, err := admin.ChunkHashes(ctx, &blockpb.ChunkHashesRequest{})
	if err != nil {
		return nil, err
	}
	image := map[chunkKey]chunkState{}
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return image, nil
		}
		if err != nil {
			return nil, err
		}
		for _, c := range m.GetChunks() {
			image[chunkKey{c.GetVdisk(), c.GetChunk()}] = chunkState{c.GetLastIndex(), string(c.GetHash())}
		}
	}
}

// difference finds the chunks that differ though the same entry changed them last, and
// counts those that replicas have at different entries.
func difference(images []map[chunkKey]chunkState) (different []chunkKey, moving int) {
	all := map[chunkKey]bool{}
	for _, image := range images {
		for k := range image {
			all[k] = true
		}
	}
	for k := range all {
		first, same, equal := images[0][k], true, true
		for _, image := range images[1:] {
			same = same && image[k].last == first.last
			equal = equal && image[k].hash == first.hash
		}
		switch {
		case !same:
			moving++
		case !equal:
			different = append(different, k)
		}
	}
	slices.SortFunc(different, func(a, b chunkKey) int {
		return bytes.Compare(fmt.Appendf(nil, "%016x%016x", a.vdisk, a.chunk), fmt.Appendf(nil, "%016x%016x", b.vdisk, b.chunk))
	})
	return different, moving
}
