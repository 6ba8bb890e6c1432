package posixclient

import (
	"context"
	"io"
	iofs "io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// fileInfo implements os.FileInfo; Sys gives a *syscall.Stat_t.
type fileInfo struct {
	name string
	attr *filepb.Attr
}

var _ os.FileInfo = fileInfo{}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return int64(i.attr.GetSize()) }
func (i fileInfo) Mode() os.FileMode  { return goMode(i.attr.GetMode()) }
func (i fileInfo) ModTime() time.Time { return goTime(i.attr.GetMtime()) }
func (i fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i fileInfo) Sys() any {
	a := i.attr
	return &syscall.Stat_t{
		Ino: a.GetIno(), Nlink: uint64(a.GetNlink()), Mode: a.GetMode(), Uid: a.GetUid(), Gid: a.GetGid(), Rdev: uint64(a.GetRdev()),
		Size: int64(a.GetSize()), Blksize: 4096, Blocks: int64(a.GetBlocks()),
		Atim: timespec(a.GetAtime()), Mtim: timespec(a.GetMtime()), Ctim: timespec(a.GetCtime()),
	}
}

func goTime(t *filepb.Time) time.Time { return time.Unix(t.GetSeconds(), int64(t.GetNanos())) }

func timespec(t *filepb.Time) syscall.Timespec {
	return syscall.Timespec{Sec: t.GetSeconds(), Nsec: int64(t.GetNanos())}
}

// modeBits pairs Linux's bits with Go's.
var modeBits = []struct {
	unix uint32
	mode os.FileMode
}{{syscall.S_ISUID, os.ModeSetuid}, {syscall.S_ISGID, os.ModeSetgid}, {syscall.S_ISVTX, os.ModeSticky}}

var typeBits = map[uint32]os.FileMode{
	syscall.S_IFDIR: os.ModeDir, syscall.S_IFLNK: os.ModeSymlink, syscall.S_IFIFO: os.ModeNamedPipe, syscall.S_IFSOCK: os.ModeSocket,
	syscall.S_IFBLK: os.ModeDevice, syscall.S_IFCHR: os.ModeDevice | os.ModeCharDevice,
}

// goMode translates st_mode.
func goMode(mode uint32) os.FileMode {
	m := os.FileMode(mode&0o777) | typeBits[mode&syscall.S_IFMT]
	for _, b := range modeBits {
		if mode&b.unix != 0 {
			m |= b.mode
		}
	}
	return m
}

// unixMode translates permission and set-id bits.
func unixMode(m os.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range modeBits {
		if m&b.mode != 0 {
			mode |= b.unix
		}
	}
	return mode
}

// dirEntry implements io/fs.DirEntry.
type dirEntry struct{ fileInfo }

var _ iofs.DirEntry = dirEntry{}

func (d dirEntry) Type() iofs.FileMode          { return d.Mode().Type() }
func (d dirEntry) Info() (iofs.FileInfo, error) { return d.fileInfo, nil }
func (d dirEntry) String() string               { return iofs.FormatDirEntry(d) }

// ReadDir lists a directory, sorted by name.
func (c *Client) ReadDir(path string) ([]os.DirEntry, error) {
	f, err := c.Open(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	list, err := f.ReadDir(-1)
	slices.SortFunc(list, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, err
}

// ReadDir reads the next n entries (all that are left if n <= 0), in the directory's own order.
func (f *File) ReadDir(n int) ([]os.DirEntry, error) {
	if !f.dir {
		return nil, &os.PathError{Op: "readdir", Path: f.path, Err: syscall.ENOTDIR}
	}
	if err := f.position.Enter(f.c.ctx); err != nil {
		return nil, pathError("readdir", f.path, err)
	}
	defer f.position.Leave()
	if err := f.open.Alive(); err != nil {
		return nil, pathError("readdir", f.path, err)
	}
	var list []os.DirEntry
	for !f.ended && (n <= 0 || len(list) < n) {
		most := 0 // as many as the node gives
		if n > 0 {
			most = n - len(list)
		}
		entries, end, err := f.readDirSome(most)
		if err != nil {
			return list, pathError("readdir", f.path, err)
		}
		for _, e := range entries {
			f.cookie = e.GetCookie()
			if name := string(e.GetName()); name != "." && name != ".." {
				list = append(list, dirEntry{fileInfo{name, attrOf(e)}})
			}
		}
		f.ended = end || len(entries) == 0
	}
	if n > 0 && len(list) == 0 {
		return nil, io.EOF
	}
	return list, nil
}

// readDirSome asks for the entries behind the cookie, at most most of them if that is not 0.
func (f *File) readDirSome(most int) (entries []*filepb.DirEntry, end bool, err error) {
	err = f.call("readdir", func(ctx context.Context, a *fileconn.Attachment, h *filepb.Handle) error {
		r, err := a.Files.ReadDir(ctx, &filepb.ReadDirRequest{Handle: h, Cookie: f.cookie, Plus: true, Max: uint32(min(most, 1<<20))})
		entries, end = r.GetEntries(), r.GetEnd()
		return err
	})
	return entries, end, err
}

// attrOf gives an entry's attributes; without them at least its inode and type.
func attrOf(e *filepb.DirEntry) *filepb.Attr {
	if attr := e.GetAttr(); attr != nil {
		return attr
	}
	return &filepb.Attr{Ino: e.GetIno(), Mode: e.GetType()}
}
