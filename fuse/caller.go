package fuse

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// callLooks bounds how often a task is looked at until it waits.
const callLooks = 10

// renamesTo reports whether a task, which waits for an answer, is in a rename whose new name is name, as far as
// this process may know: that takes the right to trace it.
func renamesTo(pid uint32, name string) bool {
	path := fmt.Sprintf("/proc/%d/syscall", pid)
	for range callLooks {
		text, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		if bytes.HasPrefix(text, []byte("running")) { // it is just about to wait
			time.Sleep(20 * time.Microsecond)
			continue
		}
		var call int
		var args [4]uint64
		if n, _ := fmt.Sscanf(string(text), "%d 0x%x 0x%x 0x%x 0x%x", &call, &args[0], &args[1], &args[2], &args[3]); n < 5 {
			return false
		}
		at := args[3]
		switch call {
		case renameCall:
			at = args[1]
		case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		default:
			return false
		}
		to := strings.TrimRight(stringOf(pid, at), "/")
		return to[strings.LastIndexByte(to, '/')+1:] == name
	}
	return false
}

// stringOf reads a path from the memory of a task; "" if that cannot be.
func stringOf(pid uint32, at uint64) string {
	buf := make([]byte, 0, unix.PathMax)
	page := uint64(os.Getpagesize())
	for len(buf) < cap(buf) {
		piece := buf[len(buf):min(cap(buf), len(buf)+int(page-at%page))]
		local := []unix.Iovec{{Base: &piece[0]}}
		local[0].SetLen(len(piece))
		n, err := unix.ProcessVMReadv(int(pid), local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(piece)}}, 0)
		if err != nil || n < len(piece) {
			return ""
		}
		if end := bytes.IndexByte(piece, 0); end >= 0 {
			return string(buf[:len(buf)+end])
		}
		buf, at = buf[:len(buf)+n], at+uint64(n)
	}
	return ""
}
