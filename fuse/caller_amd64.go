package fuse

import "golang.org/x/sys/unix"

const renameCall = unix.SYS_RENAME
