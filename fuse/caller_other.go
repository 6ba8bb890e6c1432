//go:build !amd64

package fuse

const renameCall = -1 // newer machines have renameat and renameat2 alone
