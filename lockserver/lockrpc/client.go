package lockrpc

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/lockpb"
	"dfs/lockserver"
)

// Options of a session; see lockserver.ClerkOptions, of which they are part.
type Options struct {
	Name     string        // for people: host and mount point
	TTL      time.Duration // the lease; 0: the server's default
	Holder   lockserver.Holder
	OnEpoch  func(blockstore.Epoch)
	LocksMax int // locks kept at most; 0: 200,000
	// Clock tells CLOCK_BOOTTIME; nil is the kernel's. (Tests set their own.)
	Clock  func() time.Duration
	Logger *slog.Logger
}

// New makes a clerk of the cluster's lock service, without opening its session: its holder
// and its OnEpoch can still be set, then Start.
func New(c *cluster.Cluster, o Options) (*lockserver.SessionClerk, error) {
	return lockserver.NewClerk(transport{c}, lockserver.ClerkOptions{
		Name: o.Name, TTL: o.TTL, Holder: o.Holder, OnEpoch: o.OnEpoch, LocksMax: o.LocksMax, Clock: o.Clock, Logger: o.Logger,
	})
}

// Open opens a session and returns when it is attached and its lease lives.
// Where the holder is built upon the session, it is set afterwards, by
// SetHolder and SetOnEpoch, before the first Acquire.
func Open(ctx context.Context, c *cluster.Cluster, o Options) (*lockserver.SessionClerk, error) {
	clerk, err := New(c, o)
	if err != nil {
		return nil, err
	}
	if err := clerk.Start(ctx); err != nil {
		return nil, err
	}
	return clerk, nil
}

// transport opens streams to whom the cluster takes for the leader.
type transport struct{ c *cluster.Cluster }

var _ lockserver.Transport = transport{}

func (t transport) Dial(ctx context.Context) (lockserver.ClientStream, error) {
	conn, l, err := t.c.Leader(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := lockpb.NewLockClient(conn).Session(ctx)
	if err != nil {
		cancel()
		t.c.Failed(l.Address, err)
		return nil, err
	}
	return &clientStream{BidiStreamingClient: stream, cancel: cancel, c: t.c, addr: l.Address}, nil
}

type clientStream struct {
	grpc.BidiStreamingClient[lockpb.ClientMessage, lockpb.ServerMessage]
	cancel context.CancelFunc
	c      *cluster.Cluster
	addr   string
	once   sync.Once
}

func (s *clientStream) Send(m *lockserver.ClientMsg) error {
	s.c.Used() // keep-alives come also when nothing is read: a client that does nothing else still learns of new nodes
	err := s.BidiStreamingClient.Send(clientToWire(m))
	if err == io.EOF {
		return errors.New(errors.KindUnavailable, "the stream to the lock service has ended") // Recv tells why
	}
	return err
}

func (s *clientStream) Recv() (*lockserver.ServerMsg, error) {
	m, err := s.BidiStreamingClient.Recv()
	if err == io.EOF {
		return nil, errors.New(errors.KindUnavailable, "the lock service at %s has ended the stream", s.addr)
	}
	if err != nil {
		return nil, err
	}
	return serverFromWire(m), nil
}

var _ lockserver.Mover = (*clientStream)(nil)

// Moved asks all nodes whether another one leads by now.
func (s *clientStream) Moved(ctx context.Context) bool {
	if err := s.c.Refresh(ctx); err != nil {
		return false
	}
	leader := s.c.KnownLeader()
	return leader != "" && leader != s.addr
}

// Close ends the stream, and has the cluster look for the leader anew if
// something was wrong with it.
func (s *clientStream) Close(why error) {
	s.once.Do(func() {
		s.cancel()
		switch {
		case why == nil:
		case errors.Is(why, errors.KindNotLeader), errors.Is(why, errors.KindUnavailable):
			s.c.Failed(s.addr, why)
		default:
			s.c.InvalidateLeader(s.addr)
		}
	})
}

// EndDead ends the session of a process that is known to be dead; see lockserver.EndDead.
func EndDead(ctx context.Context, c *cluster.Cluster, session blockstore.Session) error {
	return lockserver.EndDead(ctx, transport{c}, session)
}
