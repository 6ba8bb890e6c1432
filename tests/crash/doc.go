// Package crash holds black-box tests of real dfs processes that are killed,
// paused and left without a majority while programs use a mount.
package crash
