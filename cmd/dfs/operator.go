package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"dfs/blockstore/raftstore"
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

// nodeStatus is one node in `dfs status`.
type nodeStatus struct {
	Node    string            `json:"node"`
	Address string            `json:"address"`
	Role    string            `json:"role,omitempty"`
	Applied uint64            `json:"applied"`
	Error   string            `json:"error,omitempty"`
	Details *raftstore.Status `json:"details,omitempty"`
}

// status asks every member.
func (o *operator) status(ctx context.Context) []nodeStatus {
	members := o.cluster.Members()
	list := make([]nodeStatus, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		list[i] = nodeStatus{Node: string(m.Node), Address: m.Address}
		wg.Go(func() {
			s, err := o.statusOf(ctx, m.Address)
			if err != nil {
				list[i].Error = err.Error()
				return
			}
			list[i].Node, list[i].Role, list[i].Applied, list[i].Details = string(s.Node), strings.ToLower(s.Role), s.AppliedIndex, s
		})
	}
	wg.Wait()
	slices.SortFunc(list, func(a, b nodeStatus) int { return strings.Compare(a.Node+a.Address, b.Node+b.Address) })
	return list
}

func (o *operator) statusOf(ctx context.Context, addr string) (*raftstore.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	admin, err := o.admin(addr)
	if err != nil {
		return nil, err
	}
	r, err := admin.Status(ctx, &blockpb.StatusRequest{})
	if err != nil {
		return nil, err
	}
	var s raftstore.Status
	if err := json.Unmarshal(r.GetJson(), &s); err != nil {
		return nil, errors.New(errors.KindCorrupt, "the status of %s does not parse: %w", addr, err)
	}
	return &s, nil
}

func newStatusCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "status [CLUSTER]", Short: "tell how the nodes are", Args: rangeArgs(0, 1),
		Example: "  dfs status 127.0.0.1:7470\n  dfs status --json | jq .",
		RunE: func(c *cobra.Command, args []string) error {
			return withOperator(c, args, func(ctx context.Context, o *operator) error {
				list := o.status(ctx)
				if asJSON {
					e := json.NewEncoder(o.out)
					e.SetIndent("", "  ")
					return e.Encode(struct {
						Cluster string       `json:"cluster"`
						Nodes   []nodeStatus `json:"nodes"`
					}{o.cluster.ID(), list})
				}
				return o.showStatus(list)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "everything, as JSON")
	return c
}

func (o *operator) showStatus(list []nodeStatus) error {
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "NODE\tADDRESS\tROLE\tAPPLIED\tLOG\tDISK USED\tDISK FREE\tBAD BLOCKS (REPAIRED)\tNOTE\n")
	answered := 0
	var leader *raftstore.Status
	for _, n := range list {
		if n.Details == nil {
			fmt.Fprintf(w, "%s\t%s\tno answer\t\t\t\t\t\t%s\n", orDash(n.Node), n.Address, firstLine(n.Error))
			continue
		}
		answered++
		d := n.Details
		if n.Role == "leader" {
			leader = d
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%d (%d)\t%s\n", n.Node, n.Address, n.Role, n.Applied, sizeText(uint64(d.LogBytes)),
			sizeText(d.DeviceUsedBytes), sizeText(d.DeviceFreeBytes), d.Repairs.Found, d.Repairs.Repaired, statusNote(d))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if leader != nil {
		_, err := fmt.Fprintf(o.out, "\ncluster %s: %s of %s used, %d writers attached\n", leader.Cluster,
			sizeText(leader.Space.UsedBlocks*4096), capacityText(leader.Space.CapacityBlocks), leader.Writers)
		return err
	}
	return errors.New(errors.KindUnavailable, "no leader: %d of %d nodes answer; a majority must run for the file system to work", answered, len(list))
}

func capacityText(blocks uint64) string {
	if blocks == 0 {
		return "unmeasured capacity"
	}
	return sizeText(blocks * 4096)
}

// statusNote says what is special about a node now.
func statusNote(d *raftstore.Status) string {
	var notes []string
	if d.Failure != "" {
		notes = append(notes, "FAILED: "+d.Failure)
	}
	if d.CatchUp.Active {
		notes = append(notes, "catching up")
	}
	if d.Held {
		notes = append(notes, "held for a consistent read")
	}
	if !d.Ready && d.Failure == "" {
		notes = append(notes, "not ready")
	}
	return strings.Join(notes, ", ")
}

func orDash(s string) string {
	if s == "" {
		return "?"
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// sizeText shows bytes for people.
func sizeText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func newFsckCommand() *cobra.Command {
	var node string
	c := &cobra.Command{
		Use: "fsck [CLUSTER]", Short: "check the file system while it runs",
		Long: `Check reachability, link counts, sizes, orphans and the accounting of space, on one replica
held still at its index (a follower, while the others go on). Exit code 1 if anything is wrong.`,
		Args: rangeArgs(0, 1),
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
		Args: rangeArgs(0, 1),
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
		Args: rangeArgs(0, 1),
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
