// Package hostile holds black-box tests of what happens beside a working cluster: mounts that die with files open, unlinked or
// locked, a network that is cut one way, a leader that stands still, while programs share directories through four mounts.
package hostile
