package cluster

import (
	"context"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/wire/clusterpb"
)

// Member is a node of the cluster.
type Member struct {
	Node    blockstore.NodeID
	Address string // host:port
	Voter   bool
}

// Info is what a node tells everybody.
type Info struct {
	Node         blockstore.NodeID
	ClusterID    string // "" while the node belongs to no cluster
	Leadership   blockstore.Leadership
	Members      []Member
	MembersIndex uint64 // log index of that list, the greater is the newer; 0: unknown, and the leader's list counts
}

// Source is what the Info service tells. Info must answer at once, from memory.
type Source interface {
	Info() Info
}

// Register puts the Info service, which Cluster asks, onto a node's server.
func Register(r grpc.ServiceRegistrar, src Source) {
	clusterpb.RegisterClusterServer(r, infoServer{src: src})
}

type infoServer struct {
	clusterpb.UnimplementedClusterServer
	src Source
}

// Info answers.
func (s infoServer) Info(context.Context, *clusterpb.InfoRequest) (*clusterpb.InfoResponse, error) {
	in := s.src.Info()
	out := &clusterpb.InfoResponse{
		Node: string(in.Node), ClusterId: in.ClusterID, MembersIndex: in.MembersIndex,
		Leadership: &clusterpb.Leadership{
			Leader: string(in.Leadership.Leader), Address: in.Leadership.Address,
			Self: in.Leadership.Self, Term: in.Leadership.Term,
		},
	}
	for _, m := range in.Members {
		out.Members = append(out.Members, &clusterpb.Member{Node: string(m.Node), Address: m.Address, Voter: m.Voter})
	}
	return out, nil
}

// Ask asks the node behind cc.
func Ask(ctx context.Context, cc grpc.ClientConnInterface) (Info, error) {
	in, err := clusterpb.NewClusterClient(cc).Info(ctx, &clusterpb.InfoRequest{})
	if err != nil {
		return Info{}, err
	}
	l := in.GetLeadership()
	out := Info{
		Node: blockstore.NodeID(in.Node), ClusterID: in.ClusterId, MembersIndex: in.MembersIndex,
		Leadership: blockstore.Leadership{
			Leader: blockstore.NodeID(l.GetLeader()), Address: l.GetAddress(), Self: l.GetSelf(), Term: l.GetTerm(),
		},
	}
	for _, m := range in.Members {
		out.Members = append(out.Members, Member{Node: blockstore.NodeID(m.Node), Address: m.Address, Voter: m.Voter})
	}
	return out, nil
}
