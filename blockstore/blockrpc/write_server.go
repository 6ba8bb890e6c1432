package blockrpc

import (
	"context"
	"io"

	"google.golang.org/grpc"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/wire/blockpb"
	"dfs/wal"
)

// acksMax bounds the acknowledgements of one message.
const acksMax = 256

// writeSlot is a record that is proposed.
type writeSlot struct {
	seq  uint64
	done chan struct{} // closed when res and err are set
	res  blockstore.Result
	err  error
}

type writeStream = grpc.BidiStreamingServer[blockpb.WriteRequest, blockpb.WriteResponse]

// Write takes the records of one writer. A goroutine of its own receives and
// proposes them one after another, which keeps their order in the log; this one answers.
func (b *blockServer) Write(stream writeStream) error {
	first, err := receive(stream)
	if err != nil {
		if err == io.EOF {
			return nil
		}
		return err
	}
	ses, err := sessionOf(first.Writer, first.Token)
	if err != nil {
		return err
	}
	if err := b.s.mustLead(); err != nil {
		return err
	}
	p := &proposer{b: b, stream: stream, ses: ses, epoch: blockstore.Epoch(first.Epoch), slots: make(chan *writeSlot, writeSlots)}
	b.s.streams.Add(1)
	go func() {
		defer b.s.streams.Done()
		p.err = p.run(stream.Context(), first)
		close(p.slots)
	}()
	return b.s.withLeader(p.answer())
}

// receive gives the next request, with room for the command around its record.
func receive(stream writeStream) (*blockpb.RoomyWriteRequest, error) {
	in := &blockpb.RoomyWriteRequest{RoomBytes: blockstore.CommandOverheadMax}
	return in, stream.RecvMsg(in)
}

// proposer is one Write stream.
type proposer struct {
	b      *blockServer
	stream writeStream
	ses    blockstore.Session
	epoch  blockstore.Epoch
	slots  chan *writeSlot // in the order proposed
	head   *writeSlot      // taken off slots by answer, not done yet
	err    error           // why no more come; set before slots is closed
}

// run receives and proposes until the stream ends or brings garbage.
func (p *proposer) run(ctx context.Context, in *blockpb.RoomyWriteRequest) error {
	for {
		slot := &writeSlot{seq: in.Seq, done: make(chan struct{})}
		cmd := blockstore.Command{Kind: blockstore.CmdWrite, Writer: p.ses.Writer, Token: p.ses.Token, Epoch: p.epoch, Seq: in.Seq, Record: in.Record, Room: in.Room}
		if err := checkRecord(&cmd); err != nil {
			return err
		}
		select {
		case p.slots <- slot:
		case <-ctx.Done():
			return ctx.Err()
		}
		p.b.replica().ProposeAsync(ctx, cmd, func(res blockstore.Result, err error) {
			if err == nil {
				err = res.Err
			}
			slot.res, slot.err = res, err
			close(slot.done)
		})
		var err error
		if in, err = receive(p.stream); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
	}
}

// checkRecord refuses what must not reach the log.
func checkRecord(cmd *blockstore.Command) error {
	if cmd.Seq == 0 {
		return errors.New(errors.KindInvalid, "a record of writer %d without a number", cmd.Writer)
	}
	if len(cmd.Record) > wal.RecordBytesMax {
		return errors.New(errors.KindInvalid, "record %d of writer %d has %d bytes; at most %d are allowed", cmd.Seq, cmd.Writer, len(cmd.Record), wal.RecordBytesMax)
	}
	if err := cmd.CheckRecord(); err != nil {
		return errors.New(errors.KindInvalid, "record %d of writer %d is not one (%v); it was damaged on its way or its writer is faulty", cmd.Seq, cmd.Writer, err)
	}
	return nil
}

// answer acknowledges in order, as many at a time as are ready.
func (p *proposer) answer() error {
	ctx := p.stream.Context()
	for {
		out := &blockpb.WriteResponse{}
		slot, err := p.next(ctx, true)
		for slot != nil && err == nil {
			out.Acks = append(out.Acks, &blockpb.Ack{Seq: slot.seq, Index: slot.res.Index})
			if len(out.Acks) == acksMax {
				break
			}
			slot, err = p.next(ctx, false)
		}
		if len(out.Acks) > 0 {
			if serr := p.stream.Send(out); serr != nil {
				return serr
			}
		}
		if err == io.EOF {
			return p.err
		}
		if err != nil {
			return err
		}
	}
}

// next gives the next slot that is done, its error if it failed, nil if there
// is none and none is to be waited for, io.EOF after the last.
func (p *proposer) next(ctx context.Context, wait bool) (*writeSlot, error) {
	if p.head == nil {
		slot, ok := (*writeSlot)(nil), true
		if wait {
			select {
			case slot, ok = <-p.slots:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		} else {
			select {
			case slot, ok = <-p.slots:
			default:
			}
		}
		if !ok {
			return nil, io.EOF
		}
		if slot == nil {
			return nil, nil
		}
		p.head = slot
	}
	if wait {
		select {
		case <-p.head.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	} else {
		select {
		case <-p.head.done:
		default:
			return nil, nil
		}
	}
	slot := p.head
	p.head = nil
	return slot, slot.err
}
