// Package errors holds the kinds of error that dfs tells apart. A kind travels
// through every RPC as its number; the text travels beside it. Only the edges
// (the FUSE adapter, the client library) turn a kind into an errno, through the
// one table Errno; a kind or an error that the table does not know is EIO.
//
// Kinds are part of the wire format: never renumber, only append.
package errors

import (
	"context"
	stderrors "errors"
	"fmt"
	"syscall"
)

// Kind classifies an error. The zero Kind is KindIO: an error that nobody
// classified is an I/O error to the application.
type Kind uint32

// The kinds with a POSIX meaning.
const (
	KindIO           Kind = iota // EIO
	KindNotExist                 // ENOENT
	KindExist                    // EEXIST
	KindNotDir                   // ENOTDIR
	KindIsDir                    // EISDIR
	KindNotEmpty                 // ENOTEMPTY
	KindPermission               // EPERM: the operation itself is not allowed
	KindAccess                   // EACCES: the mode or ACL denies it
	KindInvalid                  // EINVAL
	KindNameTooLong              // ENAMETOOLONG
	KindFileTooBig               // EFBIG
	KindNoSpace                  // ENOSPC
	KindCrossDevice              // EXDEV
	KindTooManyLinks             // EMLINK
	KindLoop                     // ELOOP
	KindNoAttr                   // ENODATA
	KindRange                    // ERANGE
	KindTooBig                   // E2BIG
	KindNotSupported             // EOPNOTSUPP
	KindNotImpl                  // ENOSYS
	KindBusy                     // EBUSY
	KindAgain                    // EAGAIN
	KindInterrupted              // EINTR
	KindBadHandle                // EBADF
	KindStale                    // ESTALE
	KindDeadlock                 // EDEADLK
	KindReadOnly                 // EROFS
	KindNoDevice                 // ENXIO
	KindTextBusy                 // ETXTBSY
	KindNoLocks                  // ENOLCK
	KindTimeout                  // ETIMEDOUT
	KindNoMemory                 // ENOMEM
	KindTooManyFiles             // EMFILE
	KindOverflow                 // EOVERFLOW
)

// The kinds of the cluster's own protocols. They reach an application as EIO.
const (
	KindNotLeader    Kind = iota + 1000 // this node is not the leader; the detail may name who is
	KindUnavailable                     // no quorum, no leader, node shutting down: the outcome is unknown or nothing was done; try again
	KindDeadWriter                      // the writer is not in the table: fenced, closed or never opened (final)
	KindStaleEpoch                      // the writer is not attached to the epoch named: attach, then send again
	KindSeqGap                          // a record's number is beyond the writer's next: send the earlier ones first
	KindWrongToken                      // the session token does not match the writer (final)
	KindCorrupt                         // checksum mismatch: damaged data
	KindForeign                         // not ours: wrong magic, cluster or node
	KindTooNew                          // a format version that this binary does not know
	KindNotReached                      // the replica has not applied the minimum index asked for
	KindSessionEnded                    // the lock session was ended by the server
	KindNoReserve                       // a record allocates more than its writer has reserved (a defect of the writer)
)

var kindErrno = map[Kind]syscall.Errno{
	KindIO: syscall.EIO, KindNotExist: syscall.ENOENT, KindExist: syscall.EEXIST, KindNotDir: syscall.ENOTDIR,
	KindIsDir: syscall.EISDIR, KindNotEmpty: syscall.ENOTEMPTY, KindPermission: syscall.EPERM, KindAccess: syscall.EACCES,
	KindInvalid: syscall.EINVAL, KindNameTooLong: syscall.ENAMETOOLONG, KindFileTooBig: syscall.EFBIG,
	KindNoSpace: syscall.ENOSPC, KindCrossDevice: syscall.EXDEV, KindTooManyLinks: syscall.EMLINK, KindLoop: syscall.ELOOP,
	KindNoAttr: syscall.ENODATA, KindRange: syscall.ERANGE, KindTooBig: syscall.E2BIG, KindNotSupported: syscall.EOPNOTSUPP,
	KindNotImpl: syscall.ENOSYS, KindBusy: syscall.EBUSY, KindAgain: syscall.EAGAIN, KindInterrupted: syscall.EINTR,
	KindBadHandle: syscall.EBADF, KindStale: syscall.ESTALE, KindDeadlock: syscall.EDEADLK, KindReadOnly: syscall.EROFS,
	KindNoDevice: syscall.ENXIO, KindTextBusy: syscall.ETXTBSY, KindNoLocks: syscall.ENOLCK, KindTimeout: syscall.ETIMEDOUT,
	KindNoMemory: syscall.ENOMEM, KindTooManyFiles: syscall.EMFILE, KindOverflow: syscall.EOVERFLOW,
}

// Error is an error with a kind. Cause may be nil.
type Error struct {
	Kind  Kind
	Text  string // what happened, to what, and what to do next
	Cause error
}

// New makes an error of kind k with a formatted text. %w is honoured.
func New(k Kind, format string, args ...any) error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Kind: k, Text: wrapped.Error(), Cause: stderrors.Unwrap(wrapped)}
}

// Error returns the text.
func (e *Error) Error() string {
	if e.Text == "" {
		if no, ok := kindErrno[e.Kind]; ok {
			return no.Error()
		}
		return fmt.Sprintf("error of kind %d", e.Kind)
	}
	return e.Text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, errno) true where the kind maps to that errno.
func (e *Error) Is(target error) bool {
	no, ok := target.(syscall.Errno)
	return ok && Errno(e) == no
}

// Of returns a bare error of kind k, without an allocation worth naming.
func Of(k Kind) error { return &Error{Kind: k} }

// KindOf returns the kind of the outermost *Error in err's chain, and maps
// context errors (deadline: KindTimeout, cancel: KindInterrupted) and errnos.
// KindOf(nil) must not be asked.
func KindOf(err error) Kind {
	var e *Error
	if stderrors.As(err, &e) {
		return e.Kind
	}
	var no syscall.Errno
	if stderrors.As(err, &no) {
		for k, n := range kindErrno {
			if n == no {
				return k
			}
		}
		return KindIO
	}
	switch {
	case stderrors.Is(err, context.DeadlineExceeded):
		return KindTimeout
	case stderrors.Is(err, context.Canceled):
		return KindInterrupted
	}
	return KindIO
}

// Is reports whether err is not nil and of kind k.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }

// Errno maps err to the errno an application sees: 0 for nil, EIO for anything
// the table does not know.
func Errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if no, ok := kindErrno[KindOf(err)]; ok {
		return no
	}
	return syscall.EIO
}
