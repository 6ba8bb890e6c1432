package wal

// Op is the set of changes of one operation, to be added whole to the running
// transaction. Its changes take effect in a Record's order: trims, zeros, ranges.
type Op struct {
	Record
}
