package filerpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"dfs/fs"
	"dfs/fs/filerpc"
	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/fstest"
	"dfs/internal/wire/filepb"
	"dfs/wal"
)

var ctx = context.Background()

// service is a file service over a fake cluster, and a connection to it.
type service struct {
	t     *testing.T
	files *fs.Server
	rpc   *filerpc.Server
	conn  *grpc.ClientConn
	filepb.FilesClient
}

func start(t *testing.T, opt filerpc.Options) *service {
	t.Helper()
	s := &service{t: t}
	var err error
	s.files, err = fs.New(fs.Options{OrphanInterval: -1})
	must(t, err)
	disk := fstest.NewDisk(1 << 20)
	store := disk.Open()
	clerk := fstest.NewLocks().NewClerk(store, s.files)
	log, err := wal.NewWriter(store, wal.Options{})
	must(t, err)
	must(t, s.files.Attach(ctx, fs.Backend{Store: store, Clerk: clerk, Log: log}))
	if opt.Open == nil {
		opt.Open = func(context.Context) (filerpc.FileSystem, error) { return s.files, nil }
	}
	opt.Node, opt.Logger = "n", slog.New(slog.DiscardHandler)
	s.rpc = filerpc.NewServer(opt)
	g := grpc.NewServer(cluster.ServerOptions(nil)...)
	s.rpc.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = g.Serve(l) }()
	s.conn, err = grpc.NewClient(l.Addr().String(), cluster.DialOptions(nil, nil)...)
	must(t, err)
	s.FilesClient = filepb.NewFilesClient(s.conn)
	t.Cleanup(func() {
		_ = s.conn.Close()
		s.rpc.Close()
		g.Stop()
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_ = s.files.Close(bounded)
		store.Fence()
		_ = log.Close()
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantKind(t *testing.T, what string, err error, k errors.Kind) {
	t.Helper()
	if !errors.Is(err, k) {
		t.Errorf("%s: %v, want kind %d", what, err, k)
	}
}

// attach opens a client's session; it ends with the returned function.
func (s *service) attach(name byte) (id []byte, detach func()) {
	s.t.Helper()
	id = bytes.Repeat([]byte{name}, 16)
	life, cancel := context.WithCancel(ctx)
	stream, err := s.Attach(life, &filepb.AttachRequest{Client: id})
	must(s.t, err)
	if _, err := stream.Recv(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cancel)
	return id, cancel
}

func allow(uid, gid uint32) bool { return uid < 2000 && gid < 2000 }

func as(uid uint32, groups ...uint32) *filepb.Caller {
	return &filepb.Caller{Uid: uid, Gid: uid, Groups: groups}
}

func (s *service) create(id []byte, c *filepb.Caller, name string, mode uint32) (*filepb.OpenResponse, error) {
	return s.Create(ctx, &filepb.MakeRequest{Caller: c, Dir: 1, Name: []byte(name), Mode: mode, Flags: syscall.O_RDWR, Client: id})
}

func TestIdentityIsSquashed(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow})
	id, _ := s.attach(1)
	_, err := s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: as(0), Ino: 1, Mode: proto.Uint32(0o777)})
	must(t, err)
	for _, tt := range []struct {
		claimed, uid uint32
	}{{0, 0}, {1000, 1000}, {5000, filerpc.Nobody}} {
		r, err := s.create(id, as(tt.claimed), string(rune('a'+tt.claimed/1000)), 0o600)
		must(t, err)
		if got := r.GetAttr(); got.GetUid() != tt.uid || got.GetGid() != tt.uid {
			t.Errorf("uid %d made a file of %d:%d", tt.claimed, got.GetUid(), got.GetGid())
		}
	}
	none := start(t, filerpc.Options{})
	id, _ = none.attach(1)
	_, err = none.create(id, as(0), "x", 0o600)
	wantKind(t, "root where nobody may claim anything", err, errors.KindAccess)
}

func TestPermissionsAreEnforced(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow})
	id, _ := s.attach(1)
	r, err := s.create(id, as(0), "secret", 0o600)
	must(t, err)
	ino := r.GetAttr().GetIno()
	user := as(1000)
	_, err = s.Open(ctx, &filepb.OpenRequest{Caller: user, Ino: ino, Client: id})
	wantKind(t, "open", err, errors.KindAccess)
	_, err = s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: user, Ino: ino, Mode: proto.Uint32(0o777)})
	wantKind(t, "chmod", err, errors.KindPermission)
	_, err = s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: user, Ino: ino, Size: proto.Uint64(0)})
	wantKind(t, "truncate", err, errors.KindAccess)
	_, err = s.Unlink(ctx, &filepb.NameRequest{Caller: user, Dir: 1, Name: []byte("secret")})
	wantKind(t, "unlink", err, errors.KindAccess)
	_, err = s.create(id, user, "mine", 0o600)
	wantKind(t, "create", err, errors.KindAccess)
	// A handle for writing one file is none for another.
	_, err = s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: as(0), Ino: 1, Mode: proto.Uint32(0o777)})
	must(t, err)
	mine, err := s.create(id, user, "mine", 0o600)
	must(t, err)
	_, err = s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: user, Ino: ino, Handle: &filepb.Handle{Client: id, Number: mine.GetNumber()}, Size: proto.Uint64(0)})
	wantKind(t, "truncate through another file's handle", err, errors.KindInvalid)
	// Groups count only where they may be claimed.
	_, err = s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: as(0), Ino: ino, Mode: proto.Uint32(0o640), Gid: proto.Uint32(50)})
	must(t, err)
	_, err = s.Open(ctx, &filepb.OpenRequest{Caller: as(1000, 50), Ino: ino, Client: id})
	must(t, err)
	_, err = s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: as(0), Ino: ino, Gid: proto.Uint32(3000)})
	must(t, err)
	_, err = s.Open(ctx, &filepb.OpenRequest{Caller: as(1000, 3000), Ino: ino, Client: id})
	wantKind(t, "open through a group that may not be claimed", err, errors.KindAccess)
}

func TestSetIDBits(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow})
	id, _ := s.attach(1)
	_, err := s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: as(0), Ino: 1, Mode: proto.Uint32(0o777)})
	must(t, err)
	for uid, kept := range map[uint32]bool{0: true, 1000: false} {
		r, err := s.create(id, as(uid), string(rune('a'+uid%7)), 0o755)
		must(t, err)
		ino := r.GetAttr().GetIno()
		e, err := s.SetAttr(ctx, &filepb.SetAttrRequest{Caller: as(uid), Ino: ino, Mode: proto.Uint32(0o4755)})
		must(t, err)
		if e.GetAttr().GetMode()&0o7777 != 0o4755 {
			t.Errorf("chmod 4755 by %d gave %#o", uid, e.GetAttr().GetMode())
		}
		_, err = s.Write(ctx, &filepb.WriteRequest{Handle: &filepb.Handle{Client: id, Number: r.GetNumber()}, Data: []byte("x")})
		must(t, err)
		e, err = s.GetAttr(ctx, &filepb.InodeRequest{Caller: as(0), Ino: ino})
		must(t, err)
		if got := e.GetAttr().GetMode()&0o4000 != 0; got != kept {
			t.Errorf("after a write by %d the set-user-id bit is %v", uid, got)
		}
	}
}

func TestHandlesEndWithTheirClient(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow, Grace: 50 * time.Millisecond})
	id, detach := s.attach(1)
	r, err := s.create(id, as(0), "f", 0o600)
	must(t, err)
	_, err = s.Unlink(ctx, &filepb.NameRequest{Caller: as(0), Dir: 1, Name: []byte("f")})
	must(t, err)
	read := func() error {
		_, err := s.Read(ctx, &filepb.ReadRequest{Handle: &filepb.Handle{Client: id, Number: r.GetNumber()}, Length: 1})
		return err
	}
	must(t, read())
	// A second stream of the same client keeps it alive over the first one's end.
	_, detachSecond := s.attach(1)
	detach()
	time.Sleep(200 * time.Millisecond)
	must(t, read())
	detachSecond()
	deadline := time.Now().Add(10 * time.Second)
	for read() == nil {
		if time.Now().After(deadline) {
			t.Fatal("the handle lives on without its client")
		}
		time.Sleep(10 * time.Millisecond)
	}
	wantKind(t, "a handle after its client", read(), errors.KindStale)
	for { // and the file, which had no name, is freed
		_, err := s.GetAttr(ctx, &filepb.InodeRequest{Caller: as(0), Ino: r.GetAttr().GetIno()})
		if err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the unlinked file is not freed")
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, err = s.create(id, as(0), "g", 0o600)
	wantKind(t, "create by a client that is not attached", err, errors.KindUnavailable)
}

func TestLimits(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow, HandlesMax: 2, ClientsMax: 2})
	id, _ := s.attach(1)
	s.attach(2)
	for _, name := range []string{"a", "b"} {
		_, err := s.create(id, as(0), name, 0o600)
		must(t, err)
	}
	_, err := s.create(id, as(0), "c", 0o600)
	wantKind(t, "one handle too many", err, errors.KindTooManyFiles)
	_, err = s.OpenDir(ctx, &filepb.InodeRequest{Caller: as(0), Ino: 1, Client: id})
	wantKind(t, "one directory too many", err, errors.KindTooManyFiles)
	stream, err := s.Attach(ctx, &filepb.AttachRequest{Client: bytes.Repeat([]byte{3}, 16)})
	must(t, err)
	_, err = stream.Recv()
	wantKind(t, "one client too many", err, errors.KindTooManyFiles)
	stream, err = s.Attach(ctx, &filepb.AttachRequest{Client: []byte("short")})
	must(t, err)
	_, err = stream.Recv()
	wantKind(t, "a short name", err, errors.KindInvalid)
	h := &filepb.Handle{Client: id, Number: 1}
	_, err = s.Read(ctx, &filepb.ReadRequest{Handle: h, Length: filerpc.DataBytesMax + 1})
	wantKind(t, "a read too long", err, errors.KindInvalid)
	_, err = s.Write(ctx, &filepb.WriteRequest{Handle: h, Data: make([]byte, filerpc.DataBytesMax+1)})
	wantKind(t, "a write too long", err, errors.KindInvalid)
}

// TestOpenAgain: an attempt to open the file system that failed is made again for the next client.
func TestOpenAgain(t *testing.T) {
	var s *service
	tries := 0
	s = start(t, filerpc.Options{Open: func(context.Context) (filerpc.FileSystem, error) {
		if tries++; tries == 1 {
			return nil, errors.New(errors.KindUnavailable, "no leader")
		}
		return s.files, nil
	}})
	stream, err := s.Attach(ctx, &filepb.AttachRequest{Client: make([]byte, 16)})
	must(t, err)
	_, err = stream.Recv()
	wantKind(t, "the first client", err, errors.KindUnavailable)
	s.attach(1)
}

// TestGarbage: requests filled at random never end the service.
func TestGarbage(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow})
	id, _ := s.attach(1)
	_, err := s.create(id, as(0), "f", 0o600)
	must(t, err)
	_, err = s.OpenDir(ctx, &filepb.InodeRequest{Caller: as(0), Ino: 1, Client: id})
	must(t, err)
	rnd := rand.New(rand.NewPCG(1, 2))
	methods := filepb.File_file_proto.Services().ByName("Files").Methods()
	requests := map[protoreflect.FullName]func() proto.Message{}
	for _, m := range []proto.Message{&filepb.InodeRequest{}, &filepb.NameRequest{}, &filepb.AccessRequest{}, &filepb.MakeRequest{}, &filepb.LinkRequest{},
		&filepb.RenameRequest{}, &filepb.SetAttrRequest{}, &filepb.OpenRequest{}, &filepb.HandleRequest{}, &filepb.ReadRequest{}, &filepb.WriteRequest{},
		&filepb.RangeRequest{}, &filepb.SeekRequest{}, &filepb.CopyRequest{}, &filepb.ReadDirRequest{}, &filepb.XattrRequest{}, &filepb.LockRequest{}, &filepb.Empty{}, &filepb.SessionRequest{}} {
		requests[m.ProtoReflect().Descriptor().FullName()] = func() proto.Message { return m.ProtoReflect().New().Interface() }
	}
	for range 60 {
		for i := range methods.Len() {
			m := methods.Get(i)
			if m.Name() == "Attach" {
				continue
			}
			req := requests[m.Input().FullName()]()
			fill(rnd, req.ProtoReflect(), id)
			bounded, cancel := context.WithTimeout(ctx, time.Second)
			var out filepb.Empty
			err := s.conn.Invoke(bounded, "/dfs.file.v1.Files/"+string(m.Name()), req, &out)
			cancel()
			if errors.Is(err, errors.KindUnavailable) && !strings.Contains(err.Error(), "not attached") {
				t.Fatalf("%s %v: the service is gone: %v", m.Name(), req, err)
			}
		}
	}
	if _, err := s.GetAttr(ctx, &filepb.InodeRequest{Caller: as(0), Ino: 1}); err != nil {
		t.Errorf("after garbage: %v", err)
	}
	for _, raw := range []string{"", "\x00", "\xff\xff\xff\xff\xff", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00", "GET / HTTP/1.1\r\n\r\n"} {
		c, err := net.Dial("tcp", s.conn.Target())
		must(t, err)
		_, _ = c.Write([]byte(raw))
		_ = c.Close()
	}
	if _, err := s.StatFS(ctx, &filepb.Empty{}); err != nil {
		t.Errorf("after garbage on the wire: %v", err)
	}
}

// fill sets fields at random, often to what exists.
func fill(rnd *rand.Rand, m protoreflect.Message, id []byte) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		n := rnd.Uint64() >> rnd.IntN(65)
		if rnd.IntN(2) == 0 {
			n = uint64(rnd.IntN(4))
		}
		switch {
		case f.IsList() || rnd.IntN(5) == 0:
		case f.Kind() == protoreflect.MessageKind:
			fill(rnd, m.Mutable(f).Message(), id)
		case f.Kind() == protoreflect.BytesKind && f.Name() == "client":
			m.Set(f, protoreflect.ValueOfBytes(id))
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte("f\x00/.é\xff"[rnd.IntN(6):])))
		case f.Kind() == protoreflect.StringKind:
			m.Set(f, protoreflect.ValueOfString([]string{"", "user.x", "system.posix_acl_access", "nonsense"}[rnd.IntN(4)]))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(f.Name() != "wait" && n&1 == 1))
		case f.Kind() == protoreflect.Uint32Kind:
			m.Set(f, protoreflect.ValueOfUint32(uint32(n)))
		case f.Kind() == protoreflect.Uint64Kind:
			m.Set(f, protoreflect.ValueOfUint64(n))
		case f.Kind() == protoreflect.Int64Kind:
			m.Set(f, protoreflect.ValueOfInt64(int64(n)))
		}
	}
}

// TestGarbageNames: a changing request with a name that makes no sense is refused, and does nothing.
func TestGarbageNames(t *testing.T) {
	s := start(t, filerpc.Options{Identity: allow})
	id, _ := s.attach(1)
	other, _ := s.attach(2)
	mine, err := s.OpenSession(ctx, &filepb.SessionRequest{Client: id})
	must(t, err)
	theirs, err := s.OpenSession(ctx, &filepb.SessionRequest{Client: other})
	must(t, err)
	mkdir := func(name string) error {
		named := metadata.AppendToOutgoingContext(ctx, "dfs-once-bin", name)
		_, err := s.Mkdir(named, &filepb.MakeRequest{Caller: as(0), Dir: 1, Name: []byte("d"), Mode: 0o755})
		return err
	}
	encode := func(o *filepb.Once) string {
		b, err := proto.Marshal(o)
		must(t, err)
		return string(b)
	}
	good := &filepb.Once{Client: id, Session: mine.GetSession(), Generation: mine.GetGeneration(), Number: 1}
	for _, name := range []string{"", "\xff", "nonsense", encode(&filepb.Once{}), encode(&filepb.Once{Client: id, Session: 1 << 63, Number: 1}),
		encode(&filepb.Once{Client: id, Session: 1, Generation: 1, Number: 1}), encode(&filepb.Once{Client: id, Session: theirs.GetSession(), Generation: 1, Number: 1}),
		encode(&filepb.Once{Client: id, Session: mine.GetSession(), Generation: 1, Slot: 1 << 31, Number: 1}), encode(good)[:20]} {
		if err := mkdir(name); err == nil {
			t.Errorf("done with the name %q", name)
		}
	}
	_, err = s.Lookup(ctx, &filepb.NameRequest{Caller: as(0), Dir: 1, Name: []byte("d")})
	wantKind(t, "what was refused", err, errors.KindNotExist)
	must(t, mkdir(encode(good)))
	must(t, mkdir(encode(good))) // the same one
	_, err = s.CloseSession(ctx, &filepb.SessionRequest{Client: id, Session: theirs.GetSession()})
	wantKind(t, "the end of another's session", err, errors.KindStale)
}
