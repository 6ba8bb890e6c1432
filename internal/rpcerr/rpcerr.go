// Package rpcerr carries dfs errors through gRPC.
//
// A server's interceptor turns the error of a handler into a gRPC status whose
// message is the text and whose detail (errpb.Detail) holds the kind and, with
// KindNotLeader, who leads. A client's interceptor turns the status back
// into an *errors.Error of that kind. So on either side of an RPC the code
// sees dfs errors alone. What gRPC itself reports (a lost connection, a
// deadline) has no detail and gets its kind from the gRPC code.
//
// Causes do not travel: only the kind, the text and the leader.
package rpcerr

import (
	"context"
	stderrors "errors"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"dfs/internal/errors"
	"dfs/internal/wire/errpb"
)

// textBytesMax bounds the text of an error on the wire: it travels in a
// header, and gRPC peers refuse long ones.
const textBytesMax = 2048

// Leader names the leader of the Raft group, as far as the answering node
// knows. The zero Leader is "unknown".
type Leader struct {
	Node    string // node id
	Address string // host:port
}

// leaderError is an error with a hint about who leads.
type leaderError struct {
	error
	leader Leader
}

func (e *leaderError) Unwrap() error { return e.error }

// WithLeader attaches a leader to err, which should be of KindNotLeader; the
// kind and the text stay. A nil err or a zero leader changes nothing.
func WithLeader(err error, leader Leader) error {
	if err == nil || leader == (Leader{}) {
		return err
	}
	return &leaderError{err, leader}
}

// NotLeader makes the error of a node that was asked for what only the leader
// does; leader may be zero.
func NotLeader(node string, leader Leader) error {
	if leader == (Leader{}) {
		return errors.New(errors.KindNotLeader, "node %q is not the leader and knows of none now; ask the other nodes, or again shortly", node)
	}
	return WithLeader(errors.New(errors.KindNotLeader, "node %q is not the leader; node %q at %s is", node, leader.Node, leader.Address), leader)
}

// LeaderOf returns the leader that err names, on either side of an RPC.
func LeaderOf(err error) (Leader, bool) {
	var le *leaderError
	if stderrors.As(err, &le) {
		return le.leader, true
	}
	return Leader{}, false
}

// ToStatus turns err into an error that gRPC sends with its kind, text and
// leader. nil stays nil; a gRPC status stays as it is.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	var de *errors.Error
	if !stderrors.As(err, &de) {
		if _, ok := status.FromError(err); ok {
			return err
		}
	}
	kind := errors.KindOf(err)
	text := err.Error()
	if len(text) > textBytesMax {
		text = text[:textBytesMax] + "..."
	}
	text = valid(text)
	detail := &errpb.Detail{Kind: uint32(kind)}
	if leader, ok := LeaderOf(err); ok {
		detail.LeaderNode, detail.LeaderAddress = valid(leader.Node), valid(leader.Address)
	}
	st, derr := status.New(codeOf(kind), text).WithDetails(detail)
	if derr != nil {
		return status.Error(codeOf(kind), text)
	}
	return st.Err()
}

// valid makes s a string that protobuf carries: one that is not UTF-8 (a file
// name may be anything) would cost the whole detail.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// FromStatus turns what a gRPC call returned into a dfs error. nil and io.EOF
// (the regular end of a stream) stay; so does what is a dfs error already.
func FromStatus(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var de *errors.Error
	if stderrors.As(err, &de) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		if stderrors.Is(err, context.Canceled) || stderrors.Is(err, context.DeadlineExceeded) {
			return &errors.Error{Kind: errors.KindOf(err), Text: err.Error(), Cause: err}
		}
		return &errors.Error{Kind: errors.KindUnavailable, Text: err.Error(), Cause: err}
	}
	for _, d := range st.Details() {
		if detail, ok := d.(*errpb.Detail); ok {
			return WithLeader(&errors.Error{Kind: errors.Kind(detail.Kind), Text: st.Message()},
				Leader{Node: detail.LeaderNode, Address: detail.LeaderAddress})
		}
	}
	return &errors.Error{Kind: kindOf(st.Code()), Text: textOf(st)}
}

// textOf gives the text of a status that gRPC made by itself.
func textOf(st *status.Status) string {
	if st.Message() == "" {
		return "rpc failed: " + st.Code().String()
	}
	if _, dialing, ok := strings.Cut(st.Message(), `"transport: Error while dialing: `); ok {
		return strings.TrimSuffix(dialing, `"`)
	}
	return "rpc failed: " + st.Code().String() + ": " + st.Message()
}

// kindOf maps a gRPC code that came without a detail.
func kindOf(c codes.Code) errors.Kind {
	switch c {
	case codes.Unavailable, codes.Aborted:
		return errors.KindUnavailable
	case codes.DeadlineExceeded:
		return errors.KindTimeout
	case codes.Canceled:
		return errors.KindInterrupted
	case codes.ResourceExhausted:
		return errors.KindTooBig
	case codes.Unimplemented:
		return errors.KindNotImpl
	case codes.InvalidArgument, codes.OutOfRange:
		return errors.KindInvalid
	case codes.NotFound:
		return errors.KindNotExist
	case codes.AlreadyExists:
		return errors.KindExist
	case codes.PermissionDenied, codes.Unauthenticated:
		return errors.KindAccess
	case codes.DataLoss:
		return errors.KindCorrupt
	default:
		return errors.KindIO
	}
}

// codeOf gives the nearest gRPC code, for people and foreign tools: dfs reads
// the kind from the detail.
func codeOf(k errors.Kind) codes.Code {
	switch k {
	case errors.KindUnavailable, errors.KindNotLeader:
		return codes.Unavailable
	case errors.KindTimeout:
		return codes.DeadlineExceeded
	case errors.KindInterrupted:
		return codes.Canceled
	case errors.KindTooBig, errors.KindNoSpace, errors.KindNoReserve:
		return codes.ResourceExhausted
	case errors.KindNotImpl, errors.KindNotSupported:
		return codes.Unimplemented
	case errors.KindInvalid:
		return codes.InvalidArgument
	case errors.KindNotExist:
		return codes.NotFound
	case errors.KindExist:
		return codes.AlreadyExists
	case errors.KindPermission, errors.KindAccess, errors.KindWrongToken, errors.KindForeign:
		return codes.PermissionDenied
	case errors.KindCorrupt:
		return codes.DataLoss
	case errors.KindDeadWriter, errors.KindStaleEpoch, errors.KindSeqGap, errors.KindNotReached, errors.KindSessionEnded, errors.KindStale:
		return codes.FailedPrecondition
	default:
		return codes.Unknown
	}
}
