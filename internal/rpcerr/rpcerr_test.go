package rpcerr

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"dfs/internal/errors"
	"dfs/internal/wire/clusterpb"
)

func TestEveryKindTravels(t *testing.T) {
	for k := errors.KindIO; k <= errors.KindNoReserve; k++ {
		if k == errors.KindOverflow+1 {
			k = errors.KindNotLeader
		}
		in := errors.New(k, "what happened to %q", "x")
		out := FromStatus(ToStatus(fmt.Errorf("outer: %w", in)))
		if errors.KindOf(out) != k || out.Error() != "outer: "+in.Error() {
			t.Fatalf("kind %d came back as %d %q", k, errors.KindOf(out), out)
		}
	}
}

func TestLeaderTravels(t *testing.T) {
	want := Leader{Node: "n2", Address: "10.0.0.2:7000"}
	err := fmt.Errorf("lock: %w", NotLeader("n1", want))
	got, ok := LeaderOf(FromStatus(ToStatus(err)))
	if !ok || got != want {
		t.Fatalf("leader came back as %v %v", got, ok)
	}
	if _, ok := LeaderOf(FromStatus(ToStatus(NotLeader("n1", Leader{})))); ok {
		t.Fatal("an unknown leader came back as known")
	}
}

func TestCodesWithoutDetail(t *testing.T) {
	for code, kind := range map[codes.Code]errors.Kind{
		codes.Unavailable: errors.KindUnavailable, codes.DeadlineExceeded: errors.KindTimeout,
		codes.Canceled: errors.KindInterrupted, codes.ResourceExhausted: errors.KindTooBig,
		codes.Unimplemented: errors.KindNotImpl, codes.Internal: errors.KindIO,
	} {
		if got := errors.KindOf(FromStatus(status.Error(code, "x"))); got != kind {
			t.Errorf("%v became kind %d, want %d", code, got, kind)
		}
	}
	if FromStatus(nil) != nil || ToStatus(nil) != nil || FromStatus(io.EOF) != io.EOF {
		t.Error("nil or EOF was turned into something else")
	}
	if !errors.Is(FromStatus(context.DeadlineExceeded), errors.KindTimeout) {
		t.Error("a bare context error lost its kind")
	}
}

func TestTextIsBoundedAndValid(t *testing.T) {
	err := ToStatus(errors.New(errors.KindNotExist, "no such file: %s", "\xff\xfe"+strings.Repeat("é", textBytesMax)))
	st, _ := status.FromError(err)
	if len(st.Message()) > textBytesMax+16 {
		t.Fatalf("text of %d bytes", len(st.Message()))
	}
	if !strings.Contains(st.Message(), "\uFFFD") || !errors.Is(FromStatus(err), errors.KindNotExist) {
		t.Fatalf("bad text or kind: %q", st.Message()[:40])
	}
}

type failing struct {
	clusterpb.UnimplementedClusterServer
	err error
}

func (f failing) Info(context.Context, *clusterpb.InfoRequest) (*clusterpb.InfoResponse, error) {
	return nil, f.err
}

// echoStream is a stream method whose handler fails after one message.
func echoStream(err error) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{ServiceName: "test.Stream", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Do", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, ss grpc.ServerStream) error {
			var m clusterpb.InfoRequest
			if rerr := ss.RecvMsg(&m); rerr != nil {
				return rerr
			}
			return err
		},
	}}}
}

// TestOverTheWire sends errors with bytes that are not UTF-8 through real interceptors.
func TestOverTheWire(t *testing.T) {
	want := Leader{Node: "n2", Address: "h:1"}
	fail := WithLeader(errors.New(errors.KindNotLeader, "file \xff"), want)
	ln := bufconn.Listen(1 << 16)
	srv := grpc.NewServer(grpc.UnaryInterceptor(UnaryServer), grpc.StreamInterceptor(StreamServer))
	clusterpb.RegisterClusterServer(srv, failing{err: fail})
	srv.RegisterService(echoStream(fail), struct{}{})
	go srv.Serve(ln)
	defer srv.Stop()
	cc, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }),
		grpc.WithUnaryInterceptor(UnaryClient), grpc.WithStreamInterceptor(StreamClient))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	check := func(err error) {
		t.Helper()
		if got, ok := LeaderOf(err); !errors.Is(err, errors.KindNotLeader) || !ok || got != want {
			t.Fatalf("came back as %v, leader %v %v", err, got, ok)
		}
	}
	_, err = clusterpb.NewClusterClient(cc).Info(ctx, &clusterpb.InfoRequest{})
	check(err)
	cs, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Stream/Do")
	if err != nil {
		t.Fatal(err)
	}
	if err := cs.SendMsg(&clusterpb.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	check(cs.RecvMsg(&clusterpb.InfoResponse{}))
	cancel()
	_, err = clusterpb.NewClusterClient(cc).Info(ctx, &clusterpb.InfoRequest{})
	if !errors.Is(err, errors.KindInterrupted) {
		t.Fatalf("a cancelled call gave %v", err)
	}
}
