// Package sim runs a whole dfs cluster, nodes and file servers, in one process in virtual time and breaks it by
// seed: see docs/testing.md. It holds tests only.
package sim
