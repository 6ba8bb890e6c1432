// Package command tests the dfs command as its users meet it: what it prints, its
// exit codes, bad input, and the life of a dev cluster.
package command
