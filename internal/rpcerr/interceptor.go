package rpcerr

import (
	"context"

	"google.golang.org/grpc"
)

// UnaryServer turns the errors of unary handlers into statuses.
func UnaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil {
		return nil, ToStatus(err)
	}
	return resp, nil
}

// StreamServer turns the errors of stream handlers into statuses, and what a
// handler gets from its stream into dfs errors.
func StreamServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return ToStatus(handler(srv, serverStream{ss}))
}

type serverStream struct{ grpc.ServerStream }

func (s serverStream) SendMsg(m any) error { return FromStatus(s.ServerStream.SendMsg(m)) }
func (s serverStream) RecvMsg(m any) error { return FromStatus(s.ServerStream.RecvMsg(m)) }

// UnaryClient turns the statuses of unary calls into dfs errors.
func UnaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus(invoker(ctx, method, req, reply, cc, opts...))
}

// StreamClient turns the statuses of streams into dfs errors.
func StreamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs, err := streamer(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus(err)
	}
	return clientStream{cs}, nil
}

type clientStream struct{ grpc.ClientStream }

func (s clientStream) SendMsg(m any) error { return FromStatus(s.ClientStream.SendMsg(m)) }
func (s clientStream) RecvMsg(m any) error { return FromStatus(s.ClientStream.RecvMsg(m)) }
func (s clientStream) CloseSend() error    { return FromStatus(s.ClientStream.CloseSend()) }

var (
	_ grpc.UnaryServerInterceptor  = UnaryServer
	_ grpc.StreamServerInterceptor = StreamServer
	_ grpc.UnaryClientInterceptor  = UnaryClient
	_ grpc.StreamClientInterceptor = StreamClient
)
