//go:build !race

package lockserver

// manySessions is how many sessions the test of many makes.
const manySessions = 10_000
