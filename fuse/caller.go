package fuse

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A task is looked at until it waits, first after callPauseMin, later at most every callPauseMax, for callLook at most. One that has asked and does not
// wait yet has no processor: it could do nothing with an answer.
const (
	callPauseMin = 20 * time.Microsecond
	callPauseMax = time.Millisecond
	callLook     = 2 * time.Second
)

// renameOf tells whether a task, which waits for an answer, is in a rename whose new name is name, as far as
// this process may know: that takes the right to trace it. Where something is mounted on what has
// that name, or below it, it is noRename: the kernel answers such a rename by itself (EBUSY), and would unmount it if the LOOKUP did not say what is there.
func renameOf(pid uint32, name string) rename {
	call, args, ok := callOf(pid)
	if !ok {
		return noRename
	}
	from, at, how := args[1], args[3], moves
	switch call {
	case renameCall:
		from, at = args[0], args[1]
	case unix.SYS_RENAMEAT:
	case unix.SYS_RENAMEAT2:
		if args[4]&unix.RENAME_EXCHANGE != 0 {
			how = exchanges
		}
	default:
		return noRename
	}
	to := strings.TrimRight(stringOf(pid, at), "/")
	if to[strings.LastIndexByte(to, '/')+1:] != name {
		return noRename
	}
	if holdsMounts(pid, name) {
		return noRename
	}
	if how == moves && (has(stringOf(pid, from), name) || has(to[:len(to)-len(name)], name)) {
		return movesNamesake
	}
	return how
}

// has reports whether a path goes through a name.
func has(path, name string) bool { return strings.Contains("/"+path+"/", "/"+name+"/") }

// holdsMounts reports whether something is mounted, as the task sees it, on a file or directory of that name in a dfs, or below one: the kernel
// would unmount it if a LOOKUP of the name failed. Where that cannot be known it is taken to be so.
func holdsMounts(pid uint32, name string) bool {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	return err != nil || mountsWithin(string(table), name)
}

// mountsWithin is holdsMounts of a table as /proc/PID/mountinfo has it.
func mountsWithin(table, name string) bool {
	type entry struct{ parent, point string }
	var all []entry
	dfs := map[string]string{} // id and mount point of each dfs
	for line := range strings.Lines(table) {
		left, right, _ := strings.Cut(line, " - ")
		f := strings.Fields(left) // id, parent, device, root, mount point
		if len(f) < 5 {
			continue
		}
		e := entry{f[1], unescapeMount(f[4])}
		if all = append(all, e); strings.HasPrefix(right, "fuse.dfs ") {
			dfs[f[0]] = e.point
		}
	}
	return slices.ContainsFunc(all, func(e entry) bool {
		on, ok := dfs[e.parent]
		return ok && has(strings.TrimPrefix(e.point, on), name)
	})
}

// callOf is the system call that a task waits in, with its first arguments.
func callOf(pid uint32) (call int, args [5]uint64, ok bool) {
	path := fmt.Sprintf("/proc/%d/syscall", pid)
	var buf [256]byte
	began, pause := time.Now(), callPauseMin
	for {
		text, err := readOnce(path, buf[:])
		if err != nil {
			return 0, args, false
		}
		if string(text) != "running\n" {
			return parseCall(string(text))
		}
		if time.Since(began) > callLook {
			return 0, args, false
		}
		time.Sleep(pause)
		pause = min(2*pause, callPauseMax)
	}
}

func parseCall(text string) (call int, args [5]uint64, ok bool) {
	word, rest, _ := strings.Cut(text, " ")
	call, err := strconv.Atoi(word)
	for i := range args {
		word, rest, _ = strings.Cut(rest, " ")
		var bad error
		if args[i], bad = strconv.ParseUint(word, 0, 64); bad != nil {
			err = bad
		}
	}
	return call, args, err == nil
}

// readOnce reads a small file of /proc with three system calls: a LOOKUP waits for it.
func readOnce(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	return buf[:max(n, 0)], err
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
