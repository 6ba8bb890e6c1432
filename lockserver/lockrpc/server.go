package lockrpc

import (
	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/rpcerr"
	"dfs/internal/wire/lockpb"
	"dfs/lockserver"
)

// service serves the streams of one node.
type service struct {
	lockpb.UnimplementedLockServer
	server *lockserver.Server
	leader func() blockstore.Leadership
}

// Register adds the lock service of s to a gRPC server made with cluster.ServerOptions. leader (usually
// Proposer.Leadership) tells a client that came to a follower where to go; it may be nil.
func Register(g grpc.ServiceRegistrar, s *lockserver.Server, leader func() blockstore.Leadership) {
	lockpb.RegisterLockServer(g, &service{server: s, leader: leader})
}

// Session serves one stream.
func (s *service) Session(stream grpc.BidiStreamingServer[lockpb.ClientMessage, lockpb.ServerMessage]) error {
	err := s.server.Serve(stream.Context(), serverStream{stream})
	if errors.Is(err, errors.KindNotLeader) && s.leader != nil {
		if l := s.leader(); !l.Self {
			err = rpcerr.WithLeader(err, rpcerr.Leader{Node: string(l.Leader), Address: l.Address})
		}
	}
	return rpcerr.ToStatus(err)
}

type serverStream struct {
	grpc.BidiStreamingServer[lockpb.ClientMessage, lockpb.ServerMessage]
}

func (s serverStream) Recv() (*lockserver.ClientMsg, error) {
	m, err := s.BidiStreamingServer.Recv()
	if err != nil {
		return nil, err
	}
	return clientFromWire(m)
}

func (s serverStream) Send(m *lockserver.ServerMsg) error {
	return s.BidiStreamingServer.Send(serverToWire(m))
}

var _ lockserver.ServerStream = serverStream{}
