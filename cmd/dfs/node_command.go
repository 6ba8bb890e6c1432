package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
)

// catchUpPoll is how often the progress of a catch-up is looked at.
const catchUpPoll = 100 * time.Millisecond

func newNodeCommand() *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "list, add, replace, remove and recover nodes", Args: noArgs,
		Example: "  dfs node ls -c 127.0.0.1:7470\n  dfs node replace c d 127.0.0.1:7480",
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() }}
	var cluster string
	var wait time.Duration
	c.PersistentFlags().StringVarP(&cluster, "cluster", "c", os.Getenv(clusterVariable), "the nodes' addresses (default $"+clusterVariable+")")
	c.PersistentFlags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for a leader")
	var force bool
	run := func(f func(ctx context.Context, o *operator, args []string) error) func(*cobra.Command, []string) error {
		return func(c *cobra.Command, args []string) error {
			return withOperator(c, []string{cluster}, func(ctx context.Context, o *operator) error {
				o.leaderWait = wait
				return f(ctx, o, args)
			})
		}
	}
	remove := &cobra.Command{Use: "remove ID", Short: "take a node out of the cluster", Args: exactArgs(1), Example: "  dfs node remove c\n  dfs node remove --force c    # two are left",
		RunE: run(func(ctx context.Context, o *operator, args []string) error { return o.removeNode(ctx, args[0], force) })}
	remove.Flags().BoolVar(&force, "force", false, "even if fewer than three voters remain")
	c.AddCommand(
		&cobra.Command{Use: "ls", Short: "list the nodes", Args: noArgs, Example: "  dfs node ls -c 127.0.0.1:7470",
			RunE: run(func(ctx context.Context, o *operator, _ []string) error { return o.listNodes(ctx) })},
		&cobra.Command{Use: "add ID HOST:PORT", Short: "add a node that was started with dfs server --join", Args: exactArgs(2),
			Long:    `Add a node: it first copies every block as a non-voter, with its progress shown here, and then becomes a voter.`,
			Example: "  dfs server --id d --listen 127.0.0.1:7480 --data /srv/d --join 127.0.0.1:7470 &\n  dfs node add d 127.0.0.1:7480",
			RunE:    run(func(ctx context.Context, o *operator, args []string) error { return o.addNode(ctx, args[0], args[1]) })},
		&cobra.Command{Use: "replace OLD NEW HOST:PORT", Short: "put a new, empty node in the place of a lost one", Args: exactArgs(3),
			Long: `Add the new node NEW, started with dfs server --join under an id that was never used, wait until it has
caught up and votes, then remove OLD.`,
			Example: "  dfs server --id d --listen 127.0.0.1:7480 --data /srv/d --join 127.0.0.1:7470 &\n  dfs node replace c d 127.0.0.1:7480",
			RunE: run(func(ctx context.Context, o *operator, args []string) error {
				return o.replaceNode(ctx, args[0], args[1], args[2])
			})},
		remove, newRecoverCommand())
	return c
}

// leader finds the leader's admin service.
func (o *operator) leader(ctx context.Context) (blockpb.AdminClient, error) {
	ctx, cancel := context.WithTimeout(ctx, o.leaderWait)
	defer cancel()
	conn, _, err := o.cluster.Leader(ctx)
	if err != nil {
		return nil, err
	}
	return blockpb.NewAdminClient(conn), nil
}

// atLeader runs f on the leader, searching again while leadership moves.
func (o *operator) atLeader(ctx context.Context, f func(ctx context.Context, admin blockpb.AdminClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, o.leaderWait+30*time.Second)
	defer cancel()
	for {
		admin, err := o.leader(ctx)
		if err != nil {
			return err
		}
		err = f(ctx, admin)
		if !errors.Is(err, errors.KindNotLeader) {
			return err
		}
		o.cluster.InvalidateLeader("")
		select {
		case <-ctx.Done():
			return err
		case <-time.After(catchUpPoll):
		}
	}
}

// members asks the leader who belongs to the cluster.
func (o *operator) members(ctx context.Context) (members []*blockpb.AdminMember, err error) {
	err = o.atLeader(ctx, func(ctx context.Context, admin blockpb.AdminClient) error {
		r, err := admin.Members(ctx, &blockpb.MembersRequest{})
		members = r.GetMembers()
		return err
	})
	return members, err
}

func (o *operator) listNodes(ctx context.Context) error {
	members, err := o.members(ctx)
	if err != nil {
		return err
	}
	applied := map[string]nodeStatus{}
	for _, s := range o.status(ctx) {
		applied[s.Address] = s
	}
	w := tabwriter.NewWriter(o.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tADDRESS\tVOTES\tROLE\tAPPLIED")
	for _, m := range members {
		votes, s := "yes", applied[m.GetAddress()]
		if !m.GetVoter() {
			votes = "no (copying)"
		}
		role := s.Role
		if s.Details == nil {
			role = "no answer"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", m.GetNode(), m.GetAddress(), votes, role, s.Applied)
	}
	return w.Flush()
}

// addNode adds a non-voter, waits until it has caught up, and makes it a voter.
func (o *operator) addNode(ctx context.Context, id, addr string) error {
	if err := o.waitAnswers(ctx, id, addr); err != nil {
		return err
	}
	err := o.atLeader(ctx, func(ctx context.Context, admin blockpb.AdminClient) error {
		_, err := admin.AddNode(ctx, &blockpb.AddNodeRequest{Node: id, Address: addr})
		return err
	})
	if err != nil {
		return err
	}
	if err := o.waitCaughtUp(ctx, id, addr); err != nil {
		return err
	}
	err = o.atLeader(ctx, func(ctx context.Context, admin blockpb.AdminClient) error {
		_, err := admin.Promote(ctx, &blockpb.PromoteRequest{Node: id})
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "node %s votes\n", id)
	return err
}

// replaceNode adds the node id and removes old, which must be a member: else nothing is done.
func (o *operator) replaceNode(ctx context.Context, old, id, addr string) error {
	if old == id {
		return usageError{fmt.Errorf("node %s cannot replace itself: start the new node with dfs server --join under an id that was never used", id)}
	}
	members, err := o.members(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, m := range members {
		ids = append(ids, m.GetNode())
	}
	if !slices.Contains(ids, old) {
		return errors.New(errors.KindNotExist, "there is no node %q to replace, and nothing was changed: the members are %s (see: dfs node ls)", old, strings.Join(ids, ", "))
	}
	if err := o.addNode(ctx, id, addr); err != nil {
		return err
	}
	return o.removeNode(ctx, old, true)
}

// newNodeWait bounds the wait for a node that is to be added: it may have been started a moment ago.
const newNodeWait = 20 * time.Second

// waitAnswers waits until the node at addr answers.
func (o *operator) waitAnswers(ctx context.Context, id, addr string) error {
	deadline := time.Now().Add(newNodeWait)
	progress := newStepLine(o.errs)
	defer progress.end()
	for {
		_, err := o.statusOf(ctx, addr)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New(errors.KindUnavailable, "node %s does not answer at %s: start it first, with dfs server --id %s --join (%w)", id, addr, id, err)
		}
		progress.show("waiting for node %s at %s: %s", id, addr, firstLine(err.Error()))
		select {
		case <-ctx.Done():
			return errors.New(errors.KindInterrupted, "interrupted while waiting for node %s", id)
		case <-time.After(catchUpPoll):
		}
	}
}

// waitCaughtUp shows the progress of a node's copy until it has nearly applied what the leader has.
func (o *operator) waitCaughtUp(ctx context.Context, id, addr string) error {
	progress := newStepLine(o.errs)
	defer progress.end()
	for {
		var leader uint64
		for _, s := range o.status(ctx) {
			if s.Role == "leader" {
				leader = s.Applied
			}
		}
		s, err := o.statusOf(ctx, addr)
		switch {
		case err != nil:
			progress.show("node %s: %s", id, firstLine(err.Error()))
		case s.CatchUp.Active:
			progress.show("node %s copies from %s: %d chunks, %s", id, s.CatchUp.Source, s.CatchUp.ChunksDone, sizeText(s.CatchUp.Bytes))
		case leader > 0 && s.Ready && s.AppliedIndex+64 >= leader:
			progress.end()
			_, err := fmt.Fprintf(o.out, "node %s has caught up: %d chunks, %s copied, entry %d applied\n", id, s.CatchUp.ChunksDone, sizeText(s.CatchUp.Bytes), s.AppliedIndex)
			return err
		default:
			progress.show("node %s has applied %d of %d entries", id, s.AppliedIndex, leader)
		}
		select {
		case <-ctx.Done():
			return errors.New(errors.KindInterrupted, "node %s is a non-voter and goes on copying; finish with: dfs node add %s %s", id, id, addr)
		case <-time.After(catchUpPoll):
		}
	}
}

func (o *operator) removeNode(ctx context.Context, id string, force bool) error {
	err := o.atLeader(ctx, func(ctx context.Context, admin blockpb.AdminClient) error {
		if !force {
			r, err := admin.Members(ctx, &blockpb.MembersRequest{})
			if err != nil {
				return err
			}
			voters := 0
			for _, m := range r.GetMembers() {
				if m.GetVoter() && m.GetNode() != id {
					voters++
				}
			}
			if voters < 3 {
				return errors.New(errors.KindInvalid, "without node %s only %d voters remain, which bear no loss of one more; add a node first, or use --force", id, voters)
			}
		}
		_, err := admin.RemoveNode(ctx, &blockpb.RemoveNodeRequest{Node: id})
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "node %s is removed; its data directory must not be used again\n", id)
	return err
}

// stepLine shows progress: on a terminal one line that changes, else a line now and then.
type stepLine struct {
	out   io.Writer
	tty   bool
	shown bool
	last  time.Time
	form  string // of the last line: another one is shown at once
}

func newStepLine(out io.Writer) *stepLine {
	f, ok := out.(*os.File)
	return &stepLine{out: out, tty: ok && term.IsTerminal(int(f.Fd()))}
}

func (s *stepLine) show(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	switch {
	case s.tty:
		_, _ = fmt.Fprintf(s.out, "\r\x1b[K%s", text)
		s.shown = true
	case time.Since(s.last) > 2*time.Second || format != s.form:
		_, _ = fmt.Fprintln(s.out, text)
		s.last, s.form = time.Now(), format
	}
}

func (s *stepLine) end() {
	if s.shown {
		_, _ = fmt.Fprint(s.out, "\r\x1b[K")
		s.shown = false
	}
}
