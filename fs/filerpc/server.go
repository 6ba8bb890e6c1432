// Package filerpc is the file service of a node: the file system for thin
// clients, which hold no blocks and no locks.
//
// # Contract
//
// A changing call is answered once it is durable on a majority of the nodes. Who
// asks is claimed by the client until certificates come: a claimed uid and
// gid is squashed to nobody unless Options.Identity allows it, and the file
// server checks every permission itself. Handles belong to a client (16
// random bytes that nobody else knows) and live as long as its Attach stream, and Options.Grace
// after it broke.
package filerpc

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// DataBytesMax is the most data one Read or Write carries.
const DataBytesMax = 1 << 20

// clientIDBytes is the length of a client's name.
const clientIDBytes = 16

// Nobody is the uid and gid of a squashed client.
const Nobody = 65534

// Options configures the service.
type Options struct {
	// Open gives the file system; it is called with the first request, so that a node without
	// thin clients runs no file server.
	Open func(ctx context.Context) (fs.FileSystem, error)
	// Identity says whether a client may act as this claimed uid and gid; nil: nobody may.
	Identity func(uid, gid uint32) bool
	// Node is this node's id.
	Node string
	// Grace is how long handles outlive their client's stream; 0 means 30 s.
	Grace time.Duration
	// HandlesMax bounds the open handles of one client; 0 means 65,536.
	HandlesMax int
	// ClientsMax bounds the clients; 0 means 10,000.
	ClientsMax int

	Logger *slog.Logger
}

// Server implements filepb.FilesServer.
type Server struct {
	filepb.UnimplementedFilesServer
	opt         Options
	incarnation []byte
	stop        chan struct{}

	openMu sync.Mutex
	fs     fs.FileSystem

	mu      sync.Mutex
	clients map[string]*client
}

var _ filepb.FilesServer = (*Server)(nil)

// client is one thin client's state.
type client struct {
	streams int
	expiry  *time.Timer
	handles map[uint64]*handle
	next    uint64
}

// handle is an open file or directory.
type handle struct {
	h   fs.Handle
	dir bool
}

// NewServer makes the service.
func NewServer(opt Options) *Server {
	if opt.Grace == 0 {
		opt.Grace = 30 * time.Second
	}
	if opt.HandlesMax == 0 {
		opt.HandlesMax = 1 << 16
	}
	if opt.ClientsMax == 0 {
		opt.ClientsMax = 10000
	}
	if opt.Logger == nil {
		opt.Logger = slog.Default()
	}
	s := &Server{opt: opt, incarnation: make([]byte, 16), stop: make(chan struct{}), clients: map[string]*client{}}
	_, _ = rand.Read(s.incarnation) // never fails: crypto/rand
	return s
}

// Register adds the service to a gRPC server.
func (s *Server) Register(g *grpc.Server) { filepb.RegisterFilesServer(g, s) }

// Close ends every Attach stream and closes every handle.
func (s *Server) Close() {
	close(s.stop)
	s.mu.Lock()
	var open []*handle
	for id, c := range s.clients {
		for _, h := range c.handles {
			open = append(open, h)
		}
		if c.expiry != nil {
			c.expiry.Stop()
		}
		delete(s.clients, id)
	}
	s.mu.Unlock()
	s.release(open)
}

// files returns the file system, opening it at the first call.
func (s *Server) files(ctx context.Context) (fs.FileSystem, error) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if s.fs == nil {
		f, err := s.opt.Open(ctx)
		if err != nil {
			return nil, errors.New(errors.KindUnavailable, "the file service of node %s cannot start: %w", s.opt.Node, err)
		}
		s.fs = f
	}
	return s.fs, nil
}

// caller makes the identity under which a request runs.
func (s *Server) caller(c *filepb.Caller) *fs.Caller {
	out := &fs.Caller{UID: c.GetUid(), GID: c.GetGid(), Groups: c.GetGroups(), Umask: c.GetUmask(), KillPriv: true, Check: true}
	if s.opt.Identity == nil || !s.opt.Identity(out.UID, out.GID) {
		out.UID, out.GID, out.Groups = Nobody, Nobody, nil
	}
	return out
}

// Attach implements filepb.FilesServer.
func (s *Server) Attach(req *filepb.AttachRequest, stream grpc.ServerStreamingServer[filepb.AttachResponse]) error {
	id := string(req.GetClient())
	if len(id) != clientIDBytes {
		return errors.New(errors.KindInvalid, "a client's name has %d bytes, not %d", clientIDBytes, len(id))
	}
	if err := s.attach(id); err != nil {
		return err
	}
	defer s.detach(id)
	if err := stream.Send(&filepb.AttachResponse{Incarnation: s.incarnation, Node: s.opt.Node}); err != nil {
		return err
	}
	select {
	case <-stream.Context().Done():
		return nil
	case <-s.stop:
		return errors.New(errors.KindUnavailable, "node %s is shutting down; go on with another", s.opt.Node)
	}
}

func (s *Server) attach(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		if len(s.clients) >= s.opt.ClientsMax {
			return errors.New(errors.KindTooManyFiles, "node %s serves %d clients already, its limit; go on with another node", s.opt.Node, len(s.clients))
		}
		c = &client{handles: map[uint64]*handle{}}
		s.clients[id] = c
	}
	c.streams++
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	return nil
}

func (s *Server) detach(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return
	}
	if c.streams--; c.streams == 0 {
		c.expiry = time.AfterFunc(s.opt.Grace, func() { s.expire(id, c) })
	}
}

func (s *Server) expire(id string, c *client) {
	s.mu.Lock()
	if s.clients[id] != c || c.streams > 0 {
		s.mu.Unlock()
		return
	}
	delete(s.clients, id)
	open := make([]*handle, 0, len(c.handles))
	for _, h := range c.handles {
		open = append(open, h)
	}
	s.mu.Unlock()
	s.release(open)
}

// release closes handles whose client is gone.
func (s *Server) release(open []*handle) {
	if len(open) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.opt.Grace)
	defer cancel()
	for _, h := range open {
		release := s.fs.Release
		if h.dir {
			release = s.fs.ReleaseDir
		}
		if err := release(ctx, h.h); err != nil {
			s.opt.Logger.Warn("filerpc: closing a file of a client that is gone", "error", err)
		}
	}
}

// keep gives an open handle a number.
func (s *Server) keep(clientID []byte, h fs.Handle, dir bool) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[string(clientID)]
	if c == nil {
		return 0, errors.New(errors.KindStale, "this client is not attached to node %s", s.opt.Node)
	}
	if len(c.handles) >= s.opt.HandlesMax {
		return 0, errors.New(errors.KindTooManyFiles, "%d files open, the limit of one client", len(c.handles))
	}
	c.next++
	c.handles[c.next] = &handle{h: h, dir: dir}
	return c.next, nil
}

// handle finds an open handle; KindStale where this incarnation does not know it (the client
// opens it again).
func (s *Server) handle(h *filepb.Handle) (fs.Handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[string(h.GetClient())]; c != nil {
		if open := c.handles[h.GetNumber()]; open != nil {
			return open.h, nil
		}
	}
	return 0, errors.New(errors.KindStale, "node %s has no open file number %d of this client", s.opt.Node, h.GetNumber())
}

// drop forgets a handle and returns it.
func (s *Server) drop(h *filepb.Handle) (fs.Handle, error) {
	found, err := s.handle(h)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients[string(h.GetClient())].handles, h.GetNumber())
	return found, nil
}
