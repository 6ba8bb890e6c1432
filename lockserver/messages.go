package lockserver

import (
	"time"

	"dfs/blockstore"
	"dfs/internal/errors"
)

// Hello is the first message of a stream. Writer 0 opens a new session with
// Token as its secret; another attaches that session to the leader's epoch.
type Hello struct {
	Writer blockstore.WriterID
	Token  blockstore.Token
	Name   string        // open: for people
	TTL    time.Duration // open: the lease asked for
}

// Claim tells one lock at an attach: held in Mode, or (Mode None, Open) let go while
// the inode is still open there.
type Claim struct {
	ID   LockID
	Mode Mode
	Open bool
}

// IDRun is a run of lock numbers, [First, First+Count).
type IDRun struct {
	First LockID
	Count uint64
}

// FileClaim is one file lock that the session holds.
type FileClaim struct {
	ID   LockID
	Lock FileLock
}

// Claims is what a client tells after it has been attached: everything it
// holds. It may come in several pieces; the last has Done set.
type Claims struct {
	Locks []Claim
	Given []IDRun // inodes of the session's own ranges that it has given up since
	Files []FileClaim
	Floor uint64 // greatest index that any of its releases ever brought
	Done  bool
}

// Release gives a lock up, down to mode To. Epoch and Number name the grant
// (Number 0: the implicit one of an inode range).
type Release struct {
	ID     LockID
	Epoch  blockstore.Epoch
	Number uint64
	To     Mode
	Index  uint64 // of the last record that touched what the lock guards; 0 none
	Open   bool   // the inode is still open there
}

// FileOp tells file requests apart.
type FileOp uint8

// The file requests.
const (
	FileSet FileOp = iota + 1
	FileTest
	FileReleaseOwner
	FileCancel // gives up waiting for the request of the same Ref
)

// FileRequest is one request about file locks; Ref names it in the answer.
type FileRequest struct {
	Ref  uint64
	Op   FileOp
	ID   LockID
	Lock FileLock
	Wait bool
}

// FileReply answers the request Ref. Kind is 0 and OK set where it was done.
type FileReply struct {
	Ref  uint64
	OK   bool
	Kind errors.Kind
	Lock FileLock // FileTest
}

// ClientMsg is one message of a client. Its parts are taken in the order of
// the fields.
type ClientMsg struct {
	Hello     *Hello
	Claims    *Claims
	KeepAlive uint64 // number of the keep-alive, 0 none
	Releases  []Release
	Acquires  []Request
	Files     []FileRequest
	End       *End
}

// End tells that the client has let go everything and answers nothing from
// caches any more: its writer is to be closed. The stream then ends with KindSessionEnded.
type End struct {
	Clean bool // its orphan list is empty
}

// Welcome tells the client that it is attached. From its arrival on the client
// has left every earlier epoch.
type Welcome struct {
	Writer blockstore.WriterID
	TTL    time.Duration
}

// Claimed accepts claims: the claims with a mode have become, in their order, the Count
// grants numbered from First on.
type Claimed struct{ First, Count uint64 }

// Grant gives a lock. It stands in place of any earlier grant of it to the same session.
type Grant struct {
	ID       LockID
	Number   uint64
	Mode     Mode
	MinIndex uint64
	Open     bool // another session told that it still has the inode open
}

// Revoke asks for a grant back, down to mode To.
type Revoke struct {
	ID     LockID
	Number uint64
	To     Mode
}

// ServerMsg is one message of the server, all of one epoch. Its parts are
// taken in the order of the fields.
type ServerMsg struct {
	Epoch   blockstore.Epoch
	Welcome *Welcome
	Claimed *Claimed
	Seen    uint64 // the newest keep-alive that arrived: the stream lives, the lease is not prolonged by it
	Renewed uint64 // the newest keep-alive that is answered: the lease counts from its sending
	Grants  []Grant
	Revokes []Revoke
	Files   []FileReply
}

// Limits of one message; a stream that sends more is refused.
const (
	messageItemsMax = 4096    // claims, acquires, releases, grants, revokes or file requests in one message
	nameBytesMax    = 1 << 10 // Hello.Name
)

func (m *ClientMsg) validate() error {
	items := len(m.Releases) + len(m.Acquires) + len(m.Files)
	if c := m.Claims; c != nil {
		items += len(c.Locks) + len(c.Given) + len(c.Files)
	}
	if items > 4*messageItemsMax {
		return errors.New(errors.KindInvalid, "lock message of %d items is over the limit of %d: the client is defective", items, 4*messageItemsMax)
	}
	for _, r := range m.Acquires {
		if r.Mode != Shared && r.Mode != Exclusive {
			return errors.New(errors.KindInvalid, "acquire of lock %d in mode %d: the client is defective", r.ID, r.Mode)
		}
	}
	for _, r := range m.Releases {
		if r.To > Shared {
			return errors.New(errors.KindInvalid, "release of lock %d to mode %d: the client is defective", r.ID, r.To)
		}
	}
	return nil
}
