// Package conformance holds black-box tests of what a mount promises to Linux
// programs: that it behaves as a local file system does.
//
// Where an operation can be compared, it is done twice, on the mount and in a
// directory of a local file system, and errno and outcome must be equal
// (both.go). The rest says what it wants by itself. Real programs run on the
// mount, too (programs_test.go).
package conformance
