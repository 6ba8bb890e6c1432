package filerpc

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"dfs/fs"
	"dfs/internal/errors"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// Remote is the file system as a thin client has it: every call goes to the file service of a node, of
// another one when that fails. It holds no block, no lock and no cache, so nothing that it answers may be
// cached; each change is durable when it is answered. The nodes check every permission, for the
// identity that the Caller claims (see Options.Identity), with the supplementary groups of its process.
//
// What was open on a node that died is open on the next: a file that lost its name meanwhile, if somebody has it open in
// time. A descriptor with a file lock fails then (EIO), because the lock is lost.
type Remote struct {
	conn *fileconn.Conn

	mu    sync.Mutex
	last  fs.Handle
	table map[fs.Handle]*fileconn.Open
}

var _ fs.FileSystem = (*Remote)(nil)

// DialRemote connects to the file service of one of the nodes at addrs ("host:port"). wait bounds the search for a node that
// answers, now and whenever one fails; not above 0: for ever. KindUnavailable if none answers, KindForeign if they are of several clusters.
func DialRemote(ctx context.Context, addrs []string, wait time.Duration) (*Remote, error) {
	conn, err := fileconn.Dial(ctx, addrs, wait)
	if err != nil {
		return nil, err
	}
	return &Remote{conn: conn, table: map[fs.Handle]*fileconn.Open{}}, nil
}

// Close gives the connection up. There is nothing to flush, so it does not fail.
func (r *Remote) Close(context.Context) error {
	r.conn.Close()
	return nil
}

// caller is the identity that the nodes are told.
func caller(c *fs.Caller) *filepb.Caller {
	if c == nil {
		return &filepb.Caller{}
	}
	groups := c.Groups
	if groups == nil && c.PID != 0 {
		groups = groupsOf(c.PID)
	}
	return &filepb.Caller{Uid: c.UID, Gid: c.GID, Groups: groups, Umask: c.Umask}
}

// groupsOf is the supplementary groups of a process or thread, which waits for its answer meanwhile; none if it cannot be told.
func groupsOf(pid uint32) (groups []uint32) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		list, ok := bytes.CutPrefix(lines.Bytes(), []byte("Groups:"))
		if !ok {
			continue
		}
		for _, word := range bytes.Fields(list) {
			if g, err := strconv.ParseUint(string(word), 10, 32); err == nil {
				groups = append(groups, uint32(g))
			}
		}
		break
	}
	return groups
}

// read runs a call that changes nothing.
func (r *Remote) read(ctx context.Context, what string, f func(ctx context.Context, a *fileconn.Attachment) error) error {
	return r.conn.Call(ctx, what, f)
}

// change runs a call that changes something.
func (r *Remote) change(ctx context.Context, what string, f func(ctx context.Context, a *fileconn.Attachment) error) error {
	return r.conn.Change(ctx, what, f)
}

// entryOf is an answer that names an inode. Nothing of it may be cached.
func entryOf(r *filepb.EntryResponse) fs.Entry { return fs.Entry{Attr: attrFromWire(r.GetAttr())} }

// keep gives an open file a handle.
func (r *Remote) keep(o *fileconn.Open) fs.Handle {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.table[r.last] = o
	return r.last
}

// open finds an open file. KindBadHandle.
func (r *Remote) open(h fs.Handle) (*fileconn.Open, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.table[h]
	if o == nil {
		return nil, errors.Of(errors.KindBadHandle)
	}
	return o, nil
}

// through runs a call on an open file, which changes nothing.
func (r *Remote) through(ctx context.Context, h fs.Handle, what string, op func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error) error {
	o, err := r.open(h)
	if err != nil {
		return err
	}
	return o.Call(ctx, what, op)
}

// changeThrough runs a call on an open file, which changes something.
func (r *Remote) changeThrough(ctx context.Context, h fs.Handle, what string, op func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error) error {
	o, err := r.open(h)
	if err != nil {
		return err
	}
	return o.Change(ctx, what, op)
}

// StatFS implements fs.FileSystem.
func (r *Remote) StatFS(ctx context.Context) (s fs.StatFS, err error) {
	err = r.read(ctx, "statfs", func(ctx context.Context, a *fileconn.Attachment) error {
		st, err := a.Files.StatFS(ctx, &filepb.Empty{})
		s = fs.StatFS{Blocks: st.GetBlocks(), Free: st.GetFree(), Avail: st.GetAvail(), Files: st.GetFiles(), FilesFree: st.GetFilesFree()}
		return err
	})
	return s, err
}

// SyncAll implements fs.FileSystem.
func (r *Remote) SyncAll(ctx context.Context) error {
	return r.read(ctx, "sync", func(ctx context.Context, a *fileconn.Attachment) error {
		_, err := a.Files.SyncAll(ctx, &filepb.Empty{})
		return err
	})
}

// LeaseLeft implements fs.FileSystem: a thin client has no lease.
func (r *Remote) LeaseLeft() time.Duration { return 0 }

// Forgotten implements fs.FileSystem: the nodes keep nothing for a thin client's kernel but what is open.
func (r *Remote) Forgotten(fs.Ino) {}
