package filerpc

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// Changes that are done once: see package fs, once.go.

// Who is what stands for a client's secret name on disks.
func Who(client []byte) (who [16]byte) {
	sum := sha256.Sum256(client)
	copy(who[:], sum[:])
	return who
}

// OpenSession implements filepb.FilesServer.
func (s *Server) OpenSession(ctx context.Context, r *filepb.SessionRequest) (*filepb.SessionResponse, error) {
	f, err := s.fileSystem(ctx)
	if err == nil && r.GetSession() != 0 {
		f, err = s.files(ctx, r.GetSession())
	}
	if err != nil {
		return nil, err
	}
	ino, generation, h, err := f.OpenSession(ctx, Who(r.GetClient()), fs.Ino(r.GetSession()))
	if err != nil {
		return nil, err
	}
	if err := s.keepSession(r.GetClient(), &handle{h: h}); err != nil {
		s.release([]*handle{{h: h}})
		return nil, err
	}
	return &filepb.SessionResponse{Session: uint64(ino), Generation: generation}, nil
}

// CloseSession implements filepb.FilesServer.
func (s *Server) CloseSession(ctx context.Context, r *filepb.SessionRequest) (*filepb.Empty, error) {
	f, err := s.files(ctx, r.GetSession())
	if err != nil {
		return nil, err
	}
	if err := f.CloseSession(ctx, Who(r.GetClient()), fs.Ino(r.GetSession())); err != nil {
		return nil, err
	}
	return &filepb.Empty{}, s.keepSession(r.GetClient(), nil)
}

// keepSession makes h the session of a client that is attached, and lets the one before it go.
func (s *Server) keepSession(id []byte, h *handle) error {
	s.mu.Lock()
	c := s.clients[string(id)]
	if c == nil {
		s.mu.Unlock()
		return errors.New(errors.KindUnavailable, "this client is not attached to node %s", s.opt.Node)
	}
	old := c.session
	c.session = h
	s.mu.Unlock()
	if old != nil {
		s.release([]*handle{old})
	}
	return nil
}

// onceKey is the metadata that names a changing request.
const onceKey = "dfs-once-bin"

// once runs a changing request, unless it was done already: then it tells what came of it. f makes it durable.
func (s *Server) once(ctx context.Context, f func(ctx context.Context) error) (done *fs.Outcome, err error) {
	values := metadata.ValueFromIncomingContext(ctx, onceKey)
	if len(values) == 0 {
		return nil, f(ctx)
	}
	var o filepb.Once
	if err := proto.Unmarshal([]byte(values[0]), &o); err != nil {
		return nil, errors.New(errors.KindInvalid, "the name of a request: %w", err)
	}
	server, err := s.files(ctx, o.GetSession())
	if err != nil {
		return nil, err
	}
	return server.Once(ctx, fs.Request{Session: fs.Ino(o.GetSession()), Who: Who(o.GetClient()), Generation: o.GetGeneration(),
		Slot: o.GetSlot(), Number: o.GetNumber()}, f)
}

// changing answers a request that changes something and gives nothing.
func (s *Server) changing(ctx context.Context, f FileSystem, change func(ctx context.Context) error) (*filepb.Empty, error) {
	_, err := s.once(ctx, func(ctx context.Context) error {
		if err := change(ctx); err != nil {
			return err
		}
		return f.SyncAll(ctx)
	})
	if err != nil {
		return nil, err
	}
	return &filepb.Empty{}, nil
}

// making answers a request that changes inode ino (0: makes one) and gives its attributes.
func (s *Server) making(ctx context.Context, f FileSystem, ino uint64, change func(ctx context.Context) (fs.Entry, error)) (*filepb.EntryResponse, error) {
	var e fs.Entry
	done, err := s.once(ctx, func(ctx context.Context) (err error) {
		if e, err = change(ctx); err != nil {
			return err
		}
		return f.SyncAll(ctx)
	})
	if err == nil && done != nil {
		if done.Ino != 0 {
			ino = uint64(done.Ino)
		}
		e, err = f.GetAttr(ctx, nil, fs.Ino(ino))
	}
	if err != nil {
		return nil, err
	}
	return &filepb.EntryResponse{Attr: attrToWire(&e.Attr)}, nil
}

// openOnce answers a request that opens a file, and changes something by it. flags are those of the open.
func (s *Server) openOnce(ctx context.Context, f FileSystem, client []byte, who *fs.Caller, flags uint32, open func(ctx context.Context) (*fs.Entry, fs.Handle, error)) (*filepb.OpenResponse, error) {
	var e *fs.Entry
	var h fs.Handle
	done, err := s.once(ctx, func(ctx context.Context) (err error) {
		if e, h, err = open(ctx); err != nil {
			return err
		}
		return f.SyncAll(ctx)
	})
	if err == nil && done != nil {
		// As the one who made it opened it: whoever may open it now.
		var found fs.Entry
		if h, _, err = f.Open(ctx, &fs.Caller{UID: who.UID, GID: who.GID}, done.Ino, flags&^createFlags); err == nil {
			found, err = f.GetAttr(ctx, nil, done.Ino)
			e = &found
		}
	}
	return s.opened(client, handle{h: h, killPriv: who.KillPriv}, e, err)
}
