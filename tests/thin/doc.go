// Package thin tests thin clients as black boxes: the client library and mounts through the nodes' file service
// (dfs mount --via), while the nodes that serve them are killed and stopped: nothing is done twice, nothing acknowledged is lost.
//
// With DFS_SOAK_MINUTES set, nodes are stopped (SIGSTOP), too, beyond their lease.
package thin
