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
// after it broke. A node whose file server is without its lease for Options.LeaseWait (it is cut off
// from the others) ends its Attach streams and takes no new ones, so that clients go on elsewhere.
package filerpc

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/fs"
	"dfs/fs/layout"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// DataBytesMax is the most data one Read or Write carries.
const DataBytesMax = 1 << 20

// clientIDBytes is the length of a client's name.
const clientIDBytes = 16

// openWait bounds one attempt to open the file system; attempts are not bound to the request that began them.
const openWait = 30 * time.Second

// leasePoll is how often an Attach stream looks at the lease.
const leasePoll = time.Second

// releaseWait bounds the closing of the handles of one client that is gone.
const releaseWait = 30 * time.Second

// Nobody is the uid and gid of a squashed client.
const Nobody = 65534

// Options configures the service.
type Options struct {
	// Open gives the file system; it is called when the first client comes, so that a node without
	// thin clients runs no file server, and again by a later one if it failed. ctx ends after openWait.
	Open func(ctx context.Context) (FileSystem, error)
	// Identity says whether a client may act as this claimed uid and gid; nil: nobody may.
	Identity func(uid, gid uint32) bool
	// Node is this node's id.
	Node string
	// Grace is how long handles outlive their client's stream; 0 means 30 s.
	Grace time.Duration
	// LeaseWait is how long the file server may be without its lease before clients are sent elsewhere; 0 means 5 s.
	LeaseWait time.Duration
	// HandlesMax bounds the open handles of one client; 0 means 65,536.
	HandlesMax int
	// ClientsMax bounds the clients; 0 means 10,000.
	ClientsMax int

	Logger *slog.Logger
}

// FileSystem is what the service needs of a file server.
type FileSystem interface {
	fs.FileSystem
	fs.Sessions
}

// Server implements filepb.FilesServer.
type Server struct {
	filepb.UnimplementedFilesServer
	opt         Options
	incarnation []byte
	stop        chan struct{}

	openMu  sync.Mutex
	fs      FileSystem
	opening chan struct{} // closed when the attempt to open the file system is over; nil: none is under way
	openErr error         // of the last attempt

	mu      sync.Mutex
	clients map[string]*client
	closed  bool
}

var _ filepb.FilesServer = (*Server)(nil)

// client is one thin client's state.
type client struct {
	streams int
	expiry  *time.Timer
	handles map[uint64]*handle
	next    uint64
	session *handle // its session, open here; nil: it is not
}

// handle is an open file or directory.
type handle struct {
	h   fs.Handle
	dir bool
	// killPriv: writes clear the file's set-id bits.
	killPriv bool
}

// NewServer makes the service.
func NewServer(opt Options) *Server {
	if opt.Grace == 0 {
		opt.Grace = 30 * time.Second
	}
	if opt.LeaseWait == 0 {
		opt.LeaseWait = 5 * time.Second
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
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.stop)
	var open []*handle
	for id, c := range s.clients {
		open = append(open, c.all()...)
		if c.expiry != nil {
			c.expiry.Stop()
		}
		delete(s.clients, id)
	}
	s.mu.Unlock()
	s.release(open)
}

// files returns the file system, for a request that names these inodes: no caller of the wire's
// may name what is none (0, the numbers of other locks).
func (s *Server) files(ctx context.Context, inodes ...uint64) (FileSystem, error) {
	for _, ino := range inodes {
		if ino == 0 || ino > layout.MaxIno {
			return nil, errors.New(errors.KindNotExist, "there is no inode %d", ino)
		}
	}
	return s.fileSystem(ctx)
}

// fileSystem returns the file system, opening it at the first call; ctx bounds the wait.
func (s *Server) fileSystem(ctx context.Context) (FileSystem, error) {
	s.openMu.Lock()
	if s.fs != nil {
		defer s.openMu.Unlock()
		return s.fs, nil
	}
	if s.opening == nil {
		s.opening = make(chan struct{})
		go s.open(s.opening)
	}
	opening := s.opening
	s.openMu.Unlock()
	select {
	case <-opening:
	case <-s.stop:
		return nil, s.errStopping()
	case <-ctx.Done():
		return nil, errors.New(errors.KindUnavailable, "the file service of node %s is still starting: %w", s.opt.Node, ctx.Err())
	}
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if s.fs == nil {
		return nil, errors.New(errors.KindUnavailable, "the file service of node %s cannot start: %w", s.opt.Node, s.openErr)
	}
	return s.fs, nil
}

// open is one attempt to open the file system.
func (s *Server) open(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	f, err := s.opt.Open(ctx)
	s.openMu.Lock()
	defer s.openMu.Unlock()
	if err == nil {
		s.fs = f
	}
	s.openErr, s.opening = err, nil
	close(done)
}

func (s *Server) errStopping() error {
	return errors.New(errors.KindUnavailable, "node %s is shutting down; go on with another", s.opt.Node)
}

// caller makes the identity under which a request runs.
func (s *Server) caller(c *filepb.Caller) *fs.Caller {
	out := &fs.Caller{UID: c.GetUid(), GID: c.GetGid(), Umask: c.GetUmask() & 0o777, Check: true}
	if s.opt.Identity == nil || !s.opt.Identity(out.UID, out.GID) {
		out.UID, out.GID, out.KillPriv = Nobody, Nobody, true
		return out
	}
	out.KillPriv = out.UID != 0 // as without CAP_FSETID
	for _, g := range c.GetGroups() {
		if s.opt.Identity(out.UID, g) {
			out.Groups = append(out.Groups, g)
		}
	}
	return out
}

// Attach implements filepb.FilesServer.
func (s *Server) Attach(req *filepb.AttachRequest, stream grpc.ServerStreamingServer[filepb.AttachResponse]) error {
	id := string(req.GetClient())
	if len(id) != clientIDBytes {
		return errors.New(errors.KindInvalid, "a client's name has %d bytes, not %d", clientIDBytes, len(id))
	}
	f, err := s.fileSystem(stream.Context())
	if err != nil {
		return err
	}
	if f.LeaseLeft() <= 0 {
		return s.errNoLease()
	}
	if err := s.attach(id); err != nil {
		return err
	}
	defer s.detach(id)
	if err := stream.Send(&filepb.AttachResponse{Incarnation: s.incarnation, Node: s.opt.Node}); err != nil {
		return err
	}
	return s.watch(stream.Context(), f)
}

// watch waits for the end of an Attach stream: the client's, the node's, or that of the lease.
func (s *Server) watch(ctx context.Context, f fs.FileSystem) error {
	ticker := time.NewTicker(min(leasePoll, s.opt.LeaseWait))
	defer ticker.Stop()
	leased := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.stop:
			return s.errStopping()
		case <-ticker.C:
		}
		switch {
		case f.LeaseLeft() > 0:
			leased = time.Now()
		case time.Since(leased) > s.opt.LeaseWait:
			return s.errNoLease()
		}
	}
}

func (s *Server) errNoLease() error {
	return errors.New(errors.KindUnavailable, "node %s has lost touch with the majority of the nodes; go on with another", s.opt.Node)
}

func (s *Server) attach(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.errStopping()
	}
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
	open := c.all()
	s.mu.Unlock()
	s.release(open)
}

// all lists a client's handles.
func (c *client) all() []*handle {
	open := make([]*handle, 0, len(c.handles))
	for _, h := range c.handles {
		open = append(open, h)
	}
	if c.session != nil {
		open = append(open, c.session)
	}
	return open
}

// release closes handles whose client is gone.
func (s *Server) release(open []*handle) {
	if len(open) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	for _, h := range open {
		if err := s.closeHandle(ctx, h); err != nil {
			s.opt.Logger.Warn("filerpc: closing a file of a client that is gone", "error", err)
		}
	}
}

func (s *Server) closeHandle(ctx context.Context, h *handle) error {
	if h.dir {
		return s.fs.ReleaseDir(ctx, h.h)
	}
	return s.fs.Release(ctx, h.h)
}

// keep gives an open handle a number.
func (s *Server) keep(clientID []byte, h handle) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[string(clientID)]
	if c == nil {
		return 0, errors.New(errors.KindUnavailable, "this client is not attached to node %s", s.opt.Node)
	}
	if len(c.handles) >= s.opt.HandlesMax {
		return 0, errors.New(errors.KindTooManyFiles, "%d files open, the limit of one client", len(c.handles))
	}
	c.next++
	c.handles[c.next] = &h
	return c.next, nil
}

// find finds an open handle, and forgets it if drop is set; KindStale where this incarnation does not
// know it (the client opens it again).
func (s *Server) find(h *filepb.Handle, drop bool) (*handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[string(h.GetClient())]; c != nil {
		if open := c.handles[h.GetNumber()]; open != nil {
			if drop {
				delete(c.handles, h.GetNumber())
			}
			return open, nil
		}
	}
	return nil, errors.New(errors.KindStale, "node %s has no open file number %d of this client", s.opt.Node, h.GetNumber())
}

// handle finds an open file.
func (s *Server) handle(h *filepb.Handle) (fs.Handle, error) {
	open, err := s.find(h, false)
	switch {
	case err != nil:
		return 0, err
	case open.dir:
		return 0, errors.Of(errors.KindIsDir)
	}
	return open.h, nil
}

// dirHandle finds an open directory.
func (s *Server) dirHandle(h *filepb.Handle) (fs.Handle, error) {
	open, err := s.find(h, false)
	switch {
	case err != nil:
		return 0, err
	case !open.dir:
		return 0, errors.Of(errors.KindNotDir)
	}
	return open.h, nil
}

// closing closes what a client has open.
func (s *Server) closing(ctx context.Context, h *filepb.Handle) (*filepb.Empty, error) {
	open, err := s.find(h, true)
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, s.closeHandle(ctx, open)
}
