package filerpc

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/fs/fsck"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// Holdable is a replica that can be held still. raftstore.Node implements it.
type Holdable interface {
	// HoldApply stops the replica at an index until release; the hold may end by itself (see Held).
	HoldApply(ctx context.Context) (index uint64, release func(), err error)
	Held() bool
	View(f func(s *blockstore.State, applied uint64))
}

// Checker implements filepb.CheckerServer on one replica.
type Checker struct {
	filepb.UnimplementedCheckerServer
	replica Holdable
	device  blockstore.Device
}

var _ filepb.CheckerServer = (*Checker)(nil)

// NewChecker makes the check service of a node.
func NewChecker(replica Holdable, device blockstore.Device) *Checker {
	return &Checker{replica: replica, device: device}
}

// Register adds the service to a gRPC server.
func (c *Checker) Register(g *grpc.Server) { filepb.RegisterCheckerServer(g, c) }

// Fsck implements filepb.CheckerServer.
func (c *Checker) Fsck(_ *filepb.FsckRequest, stream grpc.ServerStreamingServer[filepb.FsckResponse]) error {
	index, release, err := c.replica.HoldApply(stream.Context())
	if err != nil {
		return err
	}
	defer release()
	var used uint64
	c.replica.View(func(s *blockstore.State, _ uint64) { used = s.Space().UsedBlocks })
	report, err := fsck.Check(stream.Context(), fsck.FromDevice(c.device), fsck.Options{
		UsedBlocks: &used,
		Progress: func(step string, done uint64) {
			_ = stream.Send(&filepb.FsckResponse{Step: step, Done: done}) // a lost client ends the check by its context
		},
	})
	if err != nil {
		return err
	}
	if !c.replica.Held() {
		return errors.New(errors.KindTimeout, "the check took longer than this replica may be held still, so its result is worth nothing; try when the cluster is less busy")
	}
	return stream.Send(&filepb.FsckResponse{Report: reportToWire(index, report)})
}

func reportToWire(index uint64, r *fsck.Report) *filepb.FsckReport {
	var text strings.Builder
	_, _ = r.WriteTo(&text) // a Builder takes everything
	out := &filepb.FsckReport{Index: index, Dropped: r.Dropped, Files: r.Files, Dirs: r.Dirs, Symlinks: r.Symlinks, Others: r.Others,
		Orphans: r.Orphans, Bytes: r.Bytes, UsedBlocks: r.UsedBlocks, Text: text.String()}
	for _, p := range r.Problems {
		out.Problems = append(out.Problems, &filepb.FsckProblem{Kind: string(p.Kind), Ino: p.Ino, Path: p.Path, Text: p.Text})
	}
	return out
}
