package cluster

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"

	"dfs/internal/rpcerr"
	"dfs/internal/wire/codec"
)

// The limits and sizes of every gRPC connection of dfs, in bytes.
const (
	// MessageBytesMax bounds one message: the largest are 4 MiB of read data.
	MessageBytesMax = 8 << 20
	// streamWindow covers one whole message: a sender never waits for the
	// receiver in the midst of one. Windows are static, so gRPC sends no pings
	// to measure the bandwidth.
	streamWindow = 8 << 20
	connWindow   = 16 << 20
	// bufferBytes is what is gathered for one read or write system call.
	bufferBytes = 128 << 10
)

// Dialer opens a connection; nil stands for plain TCP.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

// TransportCredentials is the one place where credentials come from: those
// given, or none (plain text) if nil.
func TransportCredentials(given credentials.TransportCredentials) credentials.TransportCredentials {
	if given == nil {
		return insecure.NewCredentials()
	}
	return given
}

// DialOptions are the options of every client connection to a node.
func DialOptions(creds credentials.TransportCredentials, dial Dialer) []grpc.DialOption {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(TransportCredentials(creds)),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(codec.Codec{}),
			grpc.MaxCallRecvMsgSize(MessageBytesMax),
			grpc.MaxCallSendMsgSize(MessageBytesMax)),
		grpc.WithUnaryInterceptor(rpcerr.UnaryClient),
		grpc.WithStreamInterceptor(rpcerr.StreamClient),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithReadBufferSize(bufferBytes),
		grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithSharedWriteBuffer(true),
		grpc.WithDisableServiceConfig(),
		experimental.WithBufferPool(newFrames()),
		grpc.WithDisableRetry(), // dfs retries by itself, under the same numbers
		grpc.WithNoProxy(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		// A ping only where a call or stream is open and nothing came for 10 s: what finds a peer that vanished.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}
	if dial != nil {
		opts = append(opts, grpc.WithContextDialer(dial))
	}
	return opts
}

// ServerOptions are the options of every node's gRPC server.
func ServerOptions(creds credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(TransportCredentials(creds)),
		grpc.ForceServerCodecV2(codec.Codec{}),
		grpc.MaxRecvMsgSize(MessageBytesMax),
		grpc.MaxSendMsgSize(MessageBytesMax),
		grpc.UnaryInterceptor(rpcerr.UnaryServer),
		grpc.StreamInterceptor(rpcerr.StreamServer),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.ReadBufferSize(bufferBytes),
		grpc.WriteBufferSize(bufferBytes),
		grpc.SharedWriteBuffer(true),
		grpc.MaxConcurrentStreams(1024),
		experimental.BufferPool(newFrames()),
		grpc.MaxHeaderListSize(64 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}
