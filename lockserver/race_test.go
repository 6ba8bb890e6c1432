//go:build race

package lockserver

// manySessions is how many sessions the test of many makes: the race detector makes each cost ten times as much.
const manySessions = 1_000
