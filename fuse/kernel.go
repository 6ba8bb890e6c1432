package fuse

import (
	"fmt"
	"strings"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// oldestKernel and goodKernel are the oldest Linux that dfs is made for, and the oldest that has all that it asks for, with the mends that
// shared mappings past the page cache needed (of 6.6 to 6.8 the updates of April 2024 and later have them, too).
const (
	oldestKernel = "5.13"
	goodKernel   = "6.9"
)

// offer is what the kernel said that it can do, as the connection began: the minor version of its FUSE protocol (7.x), and gofuse.CAP_* flags.
type offer struct {
	minor uint32
	flags uint64
}

// offerOf reads the kernel's INIT request; without are flags that are taken for missing.
func offerOf(in *gofuse.InitIn, without uint64) offer {
	o := offer{in.Minor, in.Flags64()}
	if in.Flags&gofuse.CAP_INIT_EXT == 0 { // before 7.36 the request ended before the upper half
		o.flags = uint64(in.Flags)
	}
	o.flags &^= without
	return o
}

const (
	minorTmpfile = 37 // FUSE_TMPFILE, which has no flag: Linux 6.1
	// baseFlags are in every kernel since oldestKernel.
	baseFlags = gofuse.CAP_POSIX_ACL | gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_SETXATTR_EXT | gofuse.CAP_MAX_PAGES | gofuse.CAP_ABORT_ERROR |
		gofuse.CAP_ATOMIC_O_TRUNC | gofuse.CAP_AUTO_INVAL_DATA | gofuse.CAP_POSIX_LOCKS | gofuse.CAP_FLOCK_LOCKS
)

// expires reports whether names can be expired. A kernel that cannot takes the notification for one that the name is gone, does not tell, and
// unmounts what is mounted below it. So it is never sent one: no name is handed out with a timeout there.
func (o offer) expires() bool { return o.flags&gofuse.CAP_HAS_EXPIRE_ONLY != 0 }

// mapsDirect reports whether a file that is open past the page cache can be mapped shared, and whether what is written so is dropped from the cache.
func (o offer) mapsDirect() bool { return o.flags&gofuse.CAP_DIRECT_IO_ALLOW_MMAP != 0 }

// worse says what is worse on this kernel than on a newer one; nothing where all is there. uncached is a thin client's mount.
func (o offer) worse(uncached bool) []string {
	var list []string
	if o.flags&baseFlags != baseFlags {
		list = append(list, fmt.Sprintf("it is older than Linux %s, the oldest that dfs is made for: locks, access control lists, set-id bits and caches may not work as they should", oldestKernel))
	}
	if o.minor < minorTmpfile {
		list = append(list, "O_TMPFILE is refused (Linux 6.1 has it)")
	}
	if !o.expires() && !uncached {
		list = append(list, "it cannot expire names, so none is cached and each step of a path is a request to this process (Linux 6.5 and 6.1.110 can)")
	}
	switch {
	case o.mapsDirect():
	case uncached:
		list = append(list, "files cannot be mapped shared: mmap with MAP_SHARED is ENODEV (Linux 6.6 can)")
	default:
		list = append(list, "files that several mounts write stay in the page cache, which makes each hand-over drop their pages; "+
			"a file opened to append cannot be mapped shared, and mappings may miss what is appended on this machine (Linux 6.6 is better)")
	}
	return list
}

// adapt has the connection do without what the kernel does not offer, and says so. It is called before the first request.
func (c *conn) adapt(o offer) {
	c.mapsDirect = o.mapsDirect()
	c.names.uncached = !o.expires()
	if worse := o.worse(c.opt.Uncached); len(worse) > 0 {
		c.log.Warn("fuse: this kernel lacks some of what dfs uses; Linux "+goodKernel+" or newer has all of it", "protocol", fmt.Sprintf("7.%d", o.minor), "worse", strings.Join(worse, "; "))
	}
}

// MapsDirect implements fs.DirectMapper.
func (c *conn) MapsDirect() bool { return c.mapsDirect }
