// Package fileconn is a thin client's connection to the file service of the nodes: to one node at a
// time, to another when that one fails. It knows the wire and no file system; the client library
// (posixclient) and the remote file system of a mount (filerpc.Remote) stand on it.
//
// # Contract
//
// A call that a node does not answer goes to another node, for at most the connection's wait. One that changes something is
// done once all the same (once.go): the nodes keep its number and its outcome with the change itself. Where they cannot tell any more, that
// is told (KindIO). An Open (an open file or directory) is opened again, by its inode number, on whichever node is in use, and
// that as soon as the node changes, so that a file that has lost its name stays.
package fileconn

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"google.golang.org/grpc"

	"dfs/internal/cluster"
	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// attachWait bounds one attempt to reach one node.
const attachWait = 5 * time.Second

// retryPause is the pause between two rounds over all nodes.
const retryPause = 200 * time.Millisecond

// Conn is the client's connection to the file service of one node at a time;
// when that node fails, the next call goes to another.
type Conn struct {
	addrs []string
	id    []byte // this client's secret name
	wait  time.Duration
	turn  Gate // held by who searches a node

	session session

	mu      sync.Mutex
	cluster string // the id of the nodes' cluster, "" while it is not known
	current *Attachment
	opens   map[*Open]struct{}
	next    int // index of the address to try next
	closed  bool
}

// Attachment is a live Attach stream to one node.
type Attachment struct {
	Addr        string
	CC          *grpc.ClientConn
	Files       filepb.FilesClient
	Incarnation string // of the file service: handles belong to it
	stop        context.CancelFunc
	dead        chan struct{} // closed when the stream broke

	turn    Gate                    // held by who opens the session
	session *filepb.SessionResponse // the client's, as opened here; nil: not yet
}

// New makes a connection to the cluster with these nodes, without a node yet. wait bounds the search for one that
// answers, and all tries of one call; not above 0: for ever.
func New(addrs []string, wait time.Duration) *Conn {
	c := &Conn{addrs: addrs, id: make([]byte, 16), wait: wait, turn: NewGate(), opens: map[*Open]struct{}{}}
	_, _ = rand.Read(c.id) // never fails: crypto/rand
	c.session.init()
	return c
}

// Dial is New, with a node that answers. KindUnavailable if none does; KindForeign if the nodes are of several clusters.
func Dial(ctx context.Context, addrs []string, wait time.Duration) (*Conn, error) {
	c := New(addrs, wait)
	_, err := c.Get(ctx)
	if err == nil {
		err = c.learnCluster(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// learnCluster asks all nodes of which cluster they are. From then on a node of another one is not used, whoever has its address.
func (c *Conn) learnCluster(ctx context.Context) error {
	cl, err := cluster.Dial(c.addrs, cluster.Options{})
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.Refresh(ctx); errors.Is(err, errors.KindForeign) { // that some do not answer is no matter
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cluster = cl.ID()
	return nil
}

// belongs refuses a node of another cluster than the one that was dialled.
func (c *Conn) belongs(ctx context.Context, a *Attachment) error {
	c.mu.Lock()
	want := c.cluster
	c.mu.Unlock()
	if want == "" {
		return nil
	}
	info, err := cluster.Ask(ctx, a.CC)
	if err != nil {
		return err
	}
	if info.ClusterID != want {
		return errors.New(errors.KindForeign, "the node at %s (%s) is of cluster %q, not of %q: correct the list of addresses", a.Addr, info.Node, info.ClusterID, want)
	}
	return nil
}

// ID is the client's secret name, 16 random bytes.
func (c *Conn) ID() []byte { return c.id }

// Live returns the attachment in use, nil if there is none.
func (c *Conn) Live() (*Attachment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New(errors.KindBadHandle, "the client is closed")
	}
	if c.current != nil && c.current.isDead() {
		c.current.close()
		c.current = nil
	}
	return c.current, nil
}

// Get returns a live attachment, searching a node until ctx ends or the client's wait is over (KindUnavailable).
func (c *Conn) Get(ctx context.Context) (*Attachment, error) {
	if a, err := c.Live(); a != nil || err != nil {
		return a, err
	}
	search := ctx
	if c.wait > 0 {
		var cancel context.CancelFunc
		search, cancel = context.WithTimeout(ctx, c.wait)
		defer cancel()
	}
	last := error(nil)
	if err := c.turn.Enter(search); err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer c.turn.Leave()
	for {
		for range c.addrs {
			if a, err := c.Live(); a != nil || err != nil {
				return a, err
			}
			a, err := c.attach(search, c.addr())
			if err == nil {
				return c.use(a)
			}
			if search.Err() != nil {
				return nil, c.unreachable(ctx, firstOf(last, err))
			}
			if !errors.Is(last, errors.KindForeign) { // which says more than that another one is dead
				last = err
			}
		}
		select {
		case <-search.Done():
			return nil, c.unreachable(ctx, last)
		case <-time.After(retryPause):
		}
	}
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// addr is the address to try now; the next call gives the next one.
func (c *Conn) addr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr := c.addrs[c.next%len(c.addrs)]
	c.next++
	return addr
}

func (c *Conn) use(a *Attachment) (*Attachment, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		a.close()
		return nil, errors.New(errors.KindBadHandle, "the client is closed")
	}
	c.current = a
	go c.follow(a)
	return a, nil
}

// unreachable is the error of a search that found no node: of the context, if that ended it.
func (c *Conn) unreachable(ctx context.Context, last error) error {
	if err := ctx.Err(); err != nil {
		return errors.New(errors.KindOf(err), "searching a node of %v: %w", c.addrs, err)
	}
	return errors.New(errors.KindUnavailable, "no file service of the nodes %v answers (the last said: %w); check that they run and that a majority of them is up (dfs status)", c.addrs, last)
}

// attach opens the client's session on the node at addr.
func (c *Conn) attach(ctx context.Context, addr string) (*Attachment, error) {
	cc, err := grpc.NewClient(addr, cluster.DialOptions(nil, nil)...)
	if err != nil {
		return nil, errors.New(errors.KindInvalid, "address %s: %w", addr, err)
	}
	life, stop := context.WithCancel(context.Background())
	a := &Attachment{Addr: addr, CC: cc, Files: filepb.NewFilesClient(cc), stop: stop, dead: make(chan struct{}), turn: NewGate()}
	first := make(chan attached, 1)
	go a.listen(life, c.id, first)
	timer := time.NewTimer(attachWait)
	defer timer.Stop()
	var got attached
	select {
	case got = <-first:
	case <-timer.C:
		got.err = errors.New(errors.KindTimeout, "%s did not answer within %s", addr, attachWait)
	case <-ctx.Done():
		got.err = errors.New(errors.KindOf(ctx.Err()), "%s did not answer in time: %w", addr, ctx.Err())
	}
	if got.err == nil {
		asking, cancel := context.WithTimeout(ctx, attachWait)
		got.err = c.belongs(asking, a)
		cancel()
	}
	if got.err != nil {
		a.close()
		return nil, got.err
	}
	a.Incarnation = got.incarnation
	return a, nil
}

// attached is the first answer of an Attach stream.
type attached struct {
	incarnation string
	err         error
}

// listen keeps the Attach stream until it breaks; calls that are under way then end, too.
func (a *Attachment) listen(life context.Context, id []byte, first chan<- attached) {
	stream, err := a.Files.Attach(life, &filepb.AttachRequest{Client: id})
	if err == nil {
		var answer *filepb.AttachResponse
		answer, err = stream.Recv()
		first <- attached{string(answer.GetIncarnation()), err}
	} else {
		first <- attached{err: err}
	}
	for err == nil {
		_, err = stream.Recv()
	}
	close(a.dead)
	_ = a.CC.Close()
}

func (a *Attachment) isDead() bool {
	select {
	case <-a.dead:
		return true
	default:
		return false
	}
}

func (a *Attachment) close() {
	a.stop()
	_ = a.CC.Close()
}

// failed gives an attachment up after an error of the connection.
func (c *Conn) failed(a *Attachment) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == a {
		a.close()
		c.current = nil
	}
}

// Leave gives up the node in use; the next call goes to another.
func (c *Conn) Leave() {
	if a, _ := c.Live(); a != nil {
		c.failed(a)
	}
}

// Close gives the connection up; what is under way on it fails.
func (c *Conn) Close() {
	c.closeSession()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.current != nil {
		c.current.close()
		c.current = nil
	}
}

// Lost reports whether err, of a call whose context lives, says that the node, not the file system, failed.
func Lost(err error) bool {
	switch errors.KindOf(err) {
	case errors.KindUnavailable, errors.KindNotLeader, errors.KindSessionEnded, errors.KindDeadWriter,
		errors.KindInterrupted: // the connection was given up
		return true
	}
	return false
}

// Call runs f, which changes nothing, on a live attachment, and again on another node when that fails, for at most the
// connection's wait.
func (c *Conn) Call(ctx context.Context, what string, f func(ctx context.Context, a *Attachment) error) error {
	return c.call(ctx, what, func() bool { return false }, f)
}

// call is Call and Change; doubt reports whether a change may have been done when its context ends, or the wait.
func (c *Conn) call(ctx context.Context, what string, doubt func() bool, f func(ctx context.Context, a *Attachment) error) error {
	started := time.Now()
	for tries := 1; ; tries++ {
		a, err := c.Get(ctx)
		if err != nil {
			return unsure(doubt(), what, err)
		}
		err = f(ctx, a)
		switch {
		case err == nil:
			return nil
		case over(ctx, err):
			return ended(ctx, what, doubt())
		case !Lost(err):
			return err
		}
		c.failed(a)
		if c.wait > 0 && time.Since(started) > c.wait {
			return unsure(doubt(), what, errors.New(errors.KindUnavailable, "%s: no node could do it within %s: %w", what, c.wait, err))
		}
		if tries%len(c.addrs) != 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ended(ctx, what, doubt())
		case <-time.After(retryPause):
		}
	}
}

// unsure says of the end of a call that its change may have been done all the same.
func unsure(doubt bool, what string, err error) error {
	if !doubt {
		return err
	}
	return errors.New(errors.KindIO, "%s: whether it was done is unknown: look, then decide (%w)", what, err)
}

// over reports whether ctx has ended. gRPC tells of a deadline a moment before the context does.
func over(ctx context.Context, err error) bool {
	if deadline, ok := ctx.Deadline(); ok && errors.Is(err, errors.KindTimeout) && time.Until(deadline) < time.Second {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

// ended is the error of a call whose context ended first.
func ended(ctx context.Context, what string, doubt bool) error {
	if !doubt {
		return errors.New(errors.KindOf(ctx.Err()), "%s: %w", what, ctx.Err())
	}
	return errors.New(errors.KindOf(ctx.Err()), "%s: whether it was done is unknown: %w", what, ctx.Err())
}
