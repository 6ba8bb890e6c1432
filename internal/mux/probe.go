package mux

import (
	"context"
	"encoding/binary"
	"io"
	"net"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// CardBytesMax bounds the payload of the answer to a probe.
const CardBytesMax = 4096

const cardHeadSize = 4 + 1 + 2

var (
	probeMagic = [4]byte{'D', 'F', 'S', 'P'}
	cardMagic  = [4]byte{'D', 'F', 'S', 'Q'}
)

// Probe asks the node at addr for its card. It gives up when ctx ends, at the latest after
// DecideTimeout. Errors: KindUnavailable, KindForeign (no dfs node), KindTooNew, KindCorrupt.
func Probe(ctx context.Context, dial Dialer, addr string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, DecideTimeout)
	defer cancel()
	var card []byte
	var failed error
	conn, err := connect(ctx, dial, addr, func(c net.Conn) {
		if _, err := c.Write(append(probeMagic[:], probeVersion)); err != nil {
			failed = errors.New(errors.KindUnavailable, "cannot ask node %s who it is: %w", addr, err)
			return
		}
		card, failed = readCard(c, addr)
	})
	if err != nil {
		return nil, err
	}
	conn.Close()
	return card, failed
}

// readCard reads the answer to a probe.
func readCard(r io.Reader, addr string) ([]byte, error) {
	b := make([]byte, cardHeadSize, cardHeadSize+CardBytesMax+4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, errors.New(errors.KindUnavailable, "node %s did not say who it is: %w", addr, err)
	}
	if [4]byte(b[:4]) != cardMagic {
		return nil, errors.New(errors.KindForeign, "%s is not a dfs node: it answered a probe with something else", addr)
	}
	if b[4] > probeVersion {
		return nil, errors.New(errors.KindTooNew, "node %s answers probes in version %d, this one knows %d: upgrade this node", addr, b[4], probeVersion)
	}
	n := int(binary.LittleEndian.Uint16(b[5:]))
	if n > CardBytesMax {
		return nil, errors.New(errors.KindCorrupt, "node %s answered a probe with %d bytes", addr, n)
	}
	b = b[:cardHeadSize+n+4]
	if _, err := io.ReadFull(r, b[cardHeadSize:]); err != nil {
		return nil, errors.New(errors.KindUnavailable, "node %s did not say all of who it is: %w", addr, err)
	}
	if crc.Checksum(b[:cardHeadSize+n]) != binary.LittleEndian.Uint32(b[cardHeadSize+n:]) {
		return nil, errors.New(errors.KindCorrupt, "the answer of node %s to a probe is damaged", addr)
	}
	return b[cardHeadSize : cardHeadSize+n], nil
}

func encodeCard(payload []byte) []byte {
	b := make([]byte, 0, cardHeadSize+len(payload)+4)
	b = append(b, cardMagic[:]...)
	b = append(b, probeVersion)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, payload...)
	return binary.LittleEndian.AppendUint32(b, crc.Checksum(b))
}

// answerProbe answers a probe whose magic was read, if there is a card.
func (m *Mux) answerProbe(conn net.Conn) {
	var version [1]byte
	if _, err := io.ReadFull(conn, version[:]); err != nil {
		m.garbage.Add(1)
		return
	}
	m.mu.Lock()
	card := m.card
	m.mu.Unlock()
	if card == nil {
		m.refused.Add(1)
		return
	}
	payload := card()
	if len(payload) > CardBytesMax {
		m.log.Error("the card that answers probes is too long; not answering", "bytes", len(payload))
		return
	}
	if _, err := conn.Write(encodeCard(payload)); err == nil {
		m.probes.Add(1)
	}
}
