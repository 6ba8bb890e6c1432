package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"dfs/blockstore/raftstore"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
)

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
				show := o.showStatus
				if asJSON {
					show = o.encodeStatus
				}
				if err := show(list); err != nil {
					return err
				}
				return checkLeader(list)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "everything, as JSON")
	return c
}

func (o *operator) encodeStatus(list []nodeStatus) error {
	e := json.NewEncoder(o.out)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Cluster string       `json:"cluster"`
		Nodes   []nodeStatus `json:"nodes"`
	}{o.cluster.ID(), list})
}

// checkLeader is the error of a cluster without a leader.
func checkLeader(list []nodeStatus) error {
	answered := 0
	for _, n := range list {
		if n.Role == "leader" {
			return nil
		}
		if n.Details != nil {
			answered++
		}
	}
	return errors.New(errors.KindUnavailable, "no leader: %d of %d nodes answer; a majority must run for the file system to work", answered, len(list))
}

func (o *operator) showStatus(list []nodeStatus) error {
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "NODE\tADDRESS\tROLE\tAPPLIED\tLOG\tDISK USED\tDISK FREE\tBAD BLOCKS (REPAIRED)\tNOTE\n")
	var leader *raftstore.Status
	for _, n := range list {
		if n.Details == nil {
			fmt.Fprintf(w, "%s\t%s\tno answer\t\t\t\t\t\t%s\n", orDash(n.Node), n.Address, firstLine(n.Error))
			continue
		}
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
	if leader == nil {
		return nil
	}
	_, err := fmt.Fprintf(o.out, "\ncluster %s: %s of %s used, %d writers attached\n", leader.Cluster,
		sizeText(leader.Space.UsedBlocks*4096), capacityText(leader.Space.CapacityBlocks), leader.Writers)
	return err
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
