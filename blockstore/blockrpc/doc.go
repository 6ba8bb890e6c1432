// Package blockrpc carries the block store over gRPC: the services of a node
// (Server), the client that a file server uses (Client, which is
// blockstore.Store), and the client that nodes use among each other (Peers).
//
// # Contract
//
// Everything that comes from outside is checked before it reaches the log:
// sizes, numbers, and every record by decoding it. Garbage is answered with
// KindInvalid and proposed never. What only the lock service may propose
// (opening, attaching, fencing of writers; epochs) is not on the wire at all.
//
// Writes. The client numbers the records of its writer from 1, keeps each until
// it is acknowledged, and sends them over one stream to the leader, many in
// flight. The server proposes what one stream brings in that order and answers
// in that order; the first record that is not durable ends the stream with its
// error. The client then
//
//  1. gives up for good if the session is over (KindDeadWriter, KindWrongToken) or
//     the record can never be applied (a defect of the writer): every pending and later record fails with that error;
//  2. waits, with KindStaleEpoch, until SetEpoch tells a newer epoch than that of the
//     stream (and tries again now and then, in case it was told too early);
//  3. looks for the leader, opens a new stream and sends again from the first
//     record that is not acknowledged, under the same numbers.
//
// The state machine answers a number it has done already as done, and refuses one
// out of turn; so each record is applied exactly once, in order, whatever
// the streams do (blockstore.State). An acknowledged stream position is never sent again.
//
// Reads go to the nearest replica, and to the leader where that one lags, fails or does not
// answer soon: then the question is asked twice and the first answer wins.
package blockrpc
