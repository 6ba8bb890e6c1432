package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"dfs/internal/assembly"
	"dfs/internal/errors"
)

// newRecoverCommand makes dfs node recover: it works on a data directory, not on a cluster.
func newRecoverCommand() *cobra.Command {
	var data string
	var yes bool
	c := &cobra.Command{
		Use: "recover --data DIR", Short: "go on with one node after the majority was lost for good", Args: noArgs,
		Long: `Make a stopped node the one member of a new cluster, with all that its data directory holds: for when
the majority of the nodes is lost for good. What the lost nodes acknowledged without this one is
lost, so it tells first what this node has, and asks. The nodes of the old cluster never belong to the new one.

Where several data directories are left, run it on each, without an answer, and recover the one whose newest
log entry has the greatest term, and of those the greatest number.`,
		Example: "  dfs node recover --data /srv/dfs        # tells, and asks\n  dfs node recover --data /srv/dfs --yes",
		RunE: func(c *cobra.Command, _ []string) error {
			if data == "" {
				return usageError{fmt.Errorf("--data is needed: the data directory of the stopped node")}
			}
			return recoverNode(data, yes, c.InOrStdin(), c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&data, "data", "", "the data directory of the stopped node (needed)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

func recoverNode(data string, yes bool, in io.Reader, out io.Writer) (err error) {
	s, err := assembly.OpenSurvivor(data, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	defer func() { err = firstError(err, s.Close()) }()
	if _, err := io.WriteString(out, survivorText(s, data)); err != nil {
		return err
	}
	if !yes {
		if f, ok := in.(*os.File); ok && !term.IsTerminal(int(f.Fd())) {
			return usageError{errors.New(errors.KindInvalid, "nothing was changed: without a terminal to ask on, --yes is needed")}
		}
		if _, err := fmt.Fprintf(out, "\nGo on? Type the node's id (%s): ", s.Node); err != nil {
			return err
		}
		answer, err := bufio.NewReader(in).ReadString('\n')
		if err != nil && err != io.EOF || strings.TrimSpace(answer) != string(s.Node) {
			return errors.New(errors.KindInvalid, "nothing was changed")
		}
	}
	cluster, err := s.Recover()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, `
Node %s is the one member of the new cluster %s.
  1. start it as before; what the mounts of before had open is free when their lease is over (10 s)
  2. dfs fsck; mount again (the mounts of before belong to the old cluster)
  3. add two nodes, with empty data directories: dfs server --id NEW --join …, then dfs node add NEW HOST:PORT
`, s.Node, cluster)
	return err
}

// survivorText tells what a recovery from here keeps, and what it may lose.
func survivorText(s *assembly.Survivor, data string) string {
	var b strings.Builder
	var others []string
	fmt.Fprintf(&b, "%s is the data directory of node %s of cluster %s\n", data, s.Node, s.Cluster)
	for _, m := range s.Members {
		kind := "votes"
		if !m.Voter {
			kind = "a copy that does not vote"
		}
		if m.Self {
			kind += ", this one"
		} else {
			others = append(others, string(m.ID))
		}
		fmt.Fprintf(&b, "  member %-12s %-21s %s\n", m.ID, m.Address, kind)
	}
	written := ""
	if !s.LastTime.IsZero() {
		written = ", written at " + s.LastTime.UTC().Format(time.RFC3339) + " by its leader's clock"
	}
	fmt.Fprintf(&b, "  newest log entry   %d of term %d%s\n  surely committed   up to %d (the last checkpoint); what follows may have been, and is kept, too\n",
		s.LastIndex, s.LastTerm, written, s.Checkpoint)
	fmt.Fprintf(&b, `
Kept:  everything up to entry %d.
Lost:  everything that the others (%s) acknowledged after entry %d without this node. Whether there is
       any cannot be seen from here. If one of their disks can still be read, look there first.
After: node %s alone is a new cluster. The others must never run again with the data they have; as long
       as a majority of them can, do not recover: start them.
`, s.LastIndex, strings.Join(others, ", "), s.LastIndex, s.Node)
	return b.String()
}
