// Package tidy holds no code of dfs: its tests read the tree and say where it
// strays from the habits of the house. What was too long when a limit was set stands in
// testdata/allowance.txt, whose numbers may only go down.
//
// # What is held
//
//   - A file has at most 500 lines (of tests: 1000), a function at most 60 (generated code apart, and functions
//     of test files, which may be long lists of cases).
//   - Every package has a package comment, and every exported name of code that is neither generated nor a
//     test has a comment.
//   - No note of work left undone stands in the code.
//   - Imports point down (go list's word for it; .golangci.yml has the same rules in more detail).
//   - Neither code nor documents name directories of the machine they were written on, and what a document
//     links to is there.
package tidy
