// Package coherence holds black-box tests of several mounts of one cluster:
// what was done through one is seen through every other at once (rule R1),
// with every cache warm, and no pattern of sharing stalls or deadlocks.
package coherence
