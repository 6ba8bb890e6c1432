// Package lockrpc carries the lock service over gRPC: one bidirectional stream
// per session, in order, between lockserver.Server and lockserver.SessionClerk.
// It turns protobuf into the messages of package lockserver and back, refuses
// what is malformed (KindInvalid), and finds the leader through package
// cluster. All rules of leases and locks are in lockserver.
package lockrpc
