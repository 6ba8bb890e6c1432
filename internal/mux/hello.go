package mux

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"time"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

const (
	helloRaft     = 1 // the hello's version says what the connection is to carry: hashicorp/raft's protocol
	helloAppend   = 2 // the frames of raftstore that carry entries
	helloVersion  = helloAppend
	answerVersion = 1
	probeVersion  = 1 // of a probe and of the card that answers it
	helloSize     = 4 + 1 + 16 + 8 + 4
	answerSize    = 4 + 1 + 1 + 4
)

var (
	helloMagic  = [4]byte{'D', 'F', 'S', 'R'}
	answerMagic = [4]byte{'D', 'F', 'S', 'A'}
)

// The reasons of an answer; part of the wire format.
const (
	reasonWelcome  = iota
	reasonForeign  // another cluster
	reasonTooNew   // the hello's version is newer than the acceptor's
	reasonNotYet   // the acceptor does not know its cluster yet
	reasonDamaged  // the hello's checksum does not fit
	reasonReplaced // the right cluster, but not the incarnation of the node that was asked for
)

// Dialer opens a connection; nil stands for plain TCP.
type Dialer func(ctx context.Context, addr string) (net.Conn, error)

// DialRaft connects to the Raft side of the node at addr, which must be of cluster id and of
// that incarnation.
// It gives up when ctx ends, at the latest after DecideTimeout. Errors: KindForeign (another cluster, or no dfs node),
// KindTooNew (the node is older than this one), KindCorrupt, KindUnavailable.
func DialRaft(ctx context.Context, dial Dialer, addr string, id ClusterID, incarnation uint64) (net.Conn, error) {
	return dialPeer(ctx, dial, addr, encodeHello(helloRaft, id, incarnation))
}

// DialAppend is DialRaft for the side that takes entries (Mux.Append). A node that does not know of it is KindTooNew.
func DialAppend(ctx context.Context, dial Dialer, addr string, id ClusterID, incarnation uint64) (net.Conn, error) {
	return dialPeer(ctx, dial, addr, encodeHello(helloAppend, id, incarnation))
}

func dialPeer(ctx context.Context, dial Dialer, addr string, hello []byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DecideTimeout)
	defer cancel()
	var greeted error
	conn, err := connect(ctx, dial, addr, func(c net.Conn) { greeted = greet(c, addr, hello) })
	if err == nil && greeted != nil {
		conn.Close()
		err = greeted
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// connect dials addr and lets talk run on the connection, whose reads and writes end with ctx.
func connect(ctx context.Context, dial Dialer, addr string, talk func(net.Conn)) (net.Conn, error) {
	if dial == nil {
		var d net.Dialer
		dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	conn, err := dial(ctx, addr)
	if err != nil {
		return nil, errors.New(errors.KindUnavailable, "cannot connect to node %s: %w", addr, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	talk(conn)
	if !stop() {
		conn.Close()
		return nil, errors.New(errors.KindUnavailable, "gave up talking to node %s: %w", addr, ctx.Err())
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

// greet sends the hello and reads the answer.
func greet(conn net.Conn, addr string, hello []byte) error {
	if _, err := conn.Write(hello); err != nil {
		return errors.New(errors.KindUnavailable, "cannot greet node %s: %w", addr, err)
	}
	var answer [answerSize]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return errors.New(errors.KindUnavailable, "node %s did not answer the greeting (is it a dfs node?): %w", addr, err)
	}
	return decodeAnswer(answer[:], addr)
}

func encodeHello(version byte, id ClusterID, incarnation uint64) []byte {
	b := make([]byte, 0, helloSize)
	b = append(b, helloMagic[:]...)
	b = append(b, version)
	b = append(b, id[:]...)
	b = binary.LittleEndian.AppendUint64(b, incarnation)
	return binary.LittleEndian.AppendUint32(b, crc.Checksum(b))
}

func encodeAnswer(reason byte) []byte {
	b := make([]byte, 0, answerSize)
	b = append(b, answerMagic[:]...)
	b = append(b, answerVersion, reason)
	return binary.LittleEndian.AppendUint32(b, crc.Checksum(b))
}

// decodeAnswer turns an acceptor's answer into nil or a typed error.
func decodeAnswer(b []byte, addr string) error {
	if [4]byte(b[:4]) != answerMagic {
		return errors.New(errors.KindForeign, "%s is not a dfs node: it answered the greeting with something else", addr)
	}
	if crc.Checksum(b[:6]) != binary.LittleEndian.Uint32(b[6:]) {
		return errors.New(errors.KindCorrupt, "the answer of node %s to the greeting is damaged", addr)
	}
	switch b[5] {
	case reasonWelcome:
		return nil
	case reasonForeign:
		return errors.New(errors.KindForeign, "node %s belongs to another dfs cluster; check its address", addr)
	case reasonTooNew:
		return errors.New(errors.KindTooNew, "node %s is older than this one and does not take this kind of connection: upgrade that node", addr)
	case reasonNotYet:
		return errors.New(errors.KindUnavailable, "node %s is starting and does not know its cluster yet", addr)
	case reasonDamaged:
		return errors.New(errors.KindCorrupt, "node %s got a damaged greeting", addr)
	}
	if b[5] == reasonReplaced {
		return errors.New(errors.KindForeign, "the node at %s has another disk than the member it was: remove the member and add the node again", addr)
	}
	return errors.New(errors.KindUnavailable, "node %s refused the connection (reason %d)", addr, b[5])
}

// answerHello reads the rest of a hello into b, whose first four bytes are there, and answers it.
// It gives the branch of a peer that was welcomed, else nil.
func (m *Mux) answerHello(conn net.Conn, b []byte) *branch {
	if _, err := io.ReadFull(conn, b[4:]); err != nil {
		m.garbage.Add(1)
		return nil
	}
	reason := m.judge(b)
	if reason != reasonWelcome {
		m.refused.Add(1) // before the peer knows
	}
	if _, err := conn.Write(encodeAnswer(reason)); err != nil {
		m.garbage.Add(1)
		return nil
	}
	switch {
	case reason != reasonWelcome:
		m.log.Warn("refused a raft connection", "from", conn.RemoteAddr().String(), "reason", reason)
		return nil
	case b[4] == helloAppend:
		m.appendCount.Add(1)
		return m.append
	}
	m.raftCount.Add(1)
	return m.raft
}

// judge returns the reason that answers a whole hello.
func (m *Mux) judge(b []byte) byte {
	if b[4] > helloVersion {
		return reasonTooNew
	}
	if b[4] == 0 || crc.Checksum(b[:29]) != binary.LittleEndian.Uint32(b[29:]) {
		return reasonDamaged
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.known:
		return reasonNotYet
	case ClusterID(b[5:21]) != m.cluster:
		return reasonForeign
	case binary.LittleEndian.Uint64(b[21:29]) != m.incarnation:
		return reasonReplaced
	}
	return reasonWelcome
}
