// Package partition holds the black-box tests of faults: real nodes and mounts, each on a host of its own (a network namespace),
// each node with a disk of its own (a small ext4, or one that loses what it may: tests/lossy), and a nemesis that cuts, pauses, kills, fills, freezes and powers off while clients
// on every mount keep histories, which tests/check judges afterwards.
//
// A round is: clients begin on all mounts; one or two faults, drawn from the round's seed, begin, last, and are healed; every
// mount must answer again; the clients end; the histories are checked, then fsck and compare must find nothing. A round that fails
// prints the command that runs the same round again. What the nemesis does and what each client asks follow from the
// seed; how they interleave does not.
//
// With DFS_SOAK_MINUTES set, rounds go on for that long with longer faults, and their counts are added to a file of results.
package partition
