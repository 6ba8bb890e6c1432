package posixclient

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"dfs/fs/filerpc"
)

func errorsIs(err, target error) bool { return stderrors.Is(err, target) }

func TestOpenFlags(t *testing.T) {
	w := newWorld(t, 1, filerpc.Options{})
	c := w.client()
	must(t, c.WriteFile("/file", []byte("content"), 0o644))
	must(t, c.Mkdir("/dir", 0o755))
	must(t, c.Symlink("file", "/link"))
	must(t, c.Symlink("nowhere", "/dangling"))
	must(t, c.Symlink("loop", "/loop"))
	must(t, c.Symlink("dir", "/todir"))
	for _, tt := range []struct {
		path  string
		flags int
		want  syscall.Errno
	}{
		{"/file", os.O_RDONLY, 0},
		{"file", os.O_RDONLY, 0},
		{"/link", os.O_RDONLY, 0},
		{"/link", os.O_RDONLY | syscall.O_NOFOLLOW, syscall.ELOOP},
		{"/link", os.O_RDWR | os.O_CREATE, 0},
		{"/link", os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW, syscall.ELOOP},
		{"/link", os.O_RDWR | os.O_CREATE | os.O_EXCL, syscall.EEXIST},
		{"/dangling", os.O_RDWR, syscall.ENOENT},
		{"/dangling", os.O_RDWR | os.O_CREATE | os.O_EXCL, syscall.EEXIST},
		{"/loop", os.O_RDONLY, syscall.ELOOP},
		{"/loop", os.O_RDWR | os.O_CREATE, syscall.ELOOP},
		{"/file", os.O_RDWR | os.O_CREATE | os.O_EXCL, syscall.EEXIST},
		{"/file", os.O_RDONLY | syscall.O_DIRECTORY, syscall.ENOTDIR},
		{"/link", os.O_RDONLY | syscall.O_DIRECTORY | syscall.O_NOFOLLOW, syscall.ENOTDIR},
		{"/file/", os.O_RDONLY, syscall.ENOTDIR},
		{"/file/.", os.O_RDONLY, syscall.ENOTDIR},
		{"/file/x", os.O_RDONLY, syscall.ENOTDIR},
		{"/file/..", os.O_RDONLY, syscall.ENOTDIR},
		{"/dir", os.O_RDONLY | syscall.O_DIRECTORY, 0},
		{"/dir/", os.O_RDONLY, 0},
		{"/todir", os.O_RDONLY | syscall.O_DIRECTORY, 0},
		{"/todir/", os.O_RDONLY | syscall.O_NOFOLLOW, 0},
		{"/dir", os.O_RDWR, syscall.EISDIR},
		{"/dir", os.O_RDONLY | os.O_CREATE, syscall.EISDIR},
		{"/dir", os.O_RDONLY | os.O_TRUNC, syscall.EISDIR},
		{"/dir/new/", os.O_RDWR | os.O_CREATE, syscall.EISDIR},
		{"/dir/.", os.O_RDWR | os.O_CREATE, syscall.EISDIR},
		{"/", os.O_RDWR | os.O_CREATE, syscall.EISDIR},
		{"/new", os.O_RDWR | os.O_CREATE | syscall.O_DIRECTORY, syscall.EINVAL},
		{"/missing", os.O_RDWR, syscall.ENOENT},
		{"/missing/x", os.O_RDWR | os.O_CREATE, syscall.ENOENT},
		{"", os.O_RDONLY, syscall.ENOENT},
		{"/a\x00b", os.O_RDONLY, syscall.EINVAL},
		{"/" + strings.Repeat("n", 256), os.O_RDONLY, syscall.ENAMETOOLONG},
		{"/" + strings.Repeat("n", 256), os.O_RDWR | os.O_CREATE, syscall.ENAMETOOLONG},
		{"/" + strings.Repeat("n", 255), os.O_RDWR | os.O_CREATE, 0},
		{strings.Repeat("/", pathMax-len("file")-1) + "file", os.O_RDONLY, 0},
		{strings.Repeat("/", pathMax-len("file")) + "file", os.O_RDONLY, syscall.ENAMETOOLONG},
		{"/dir/../../../file", os.O_RDONLY, 0},
		{"/todir/../file", os.O_RDONLY, 0},
	} {
		f, err := c.Open(tt.path, tt.flags, 0o644)
		want(t, fmt.Sprintf("open %.40q with %#o", tt.path, tt.flags), err, tt.want)
		if err == nil {
			must(t, f.Close())
		}
	}
	// A dangling link is created through.
	f := open(t, c, "/dangling", os.O_RDWR|os.O_CREATE)
	_, err := f.Write([]byte("made"))
	must(t, err)
	if got := content(t, c, "/nowhere"); got != "made" {
		t.Errorf("through the dangling link: %q", got)
	}
	if got := content(t, c, "/file"); got != "content" {
		t.Errorf("the file is now %q", got)
	}
	open(t, c, "/file", os.O_RDWR|os.O_TRUNC)
	if got := content(t, c, "/file"); got != "" {
		t.Errorf("after O_TRUNC: %q", got)
	}
}

func TestReadWriteSeek(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	f := open(t, c, "/f", os.O_RDWR|os.O_CREATE)
	n, err := f.Write([]byte("hello "))
	if n != 6 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := f.Write([]byte("world")); err != nil {
		t.Fatal(err)
	}
	if at, err := f.Seek(-5, io.SeekEnd); at != 6 || err != nil {
		t.Fatal(at, err)
	}
	buf := make([]byte, 100)
	if n, err := f.Read(buf); string(buf[:n]) != "world" || err != nil {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if n, err := f.Read(buf); n != 0 || err != io.EOF {
		t.Fatal(n, err)
	}
	if n, err := f.ReadAt(buf, 3); string(buf[:n]) != "lo world" || err != io.EOF {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if n, err := f.ReadAt(buf[:5], 0); string(buf[:n]) != "hello" || err != nil {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if n, err := f.Write(nil); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	must(t, f.Truncate(1<<20))
	if _, err := f.WriteAt([]byte("x"), 1<<20+5000); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		off    int64
		whence int
		want   int64
	}{{0, SeekData, 0}, {0, SeekHole, 4096}, {8192, SeekData, 1<<20 + 4096}, {3, io.SeekCurrent, 1<<20 + 4099}, {10, io.SeekStart, 10}} {
		if at, err := f.Seek(tt.off, tt.whence); at != tt.want || err != nil {
			t.Errorf("seek %d from %d: %d %v, want %d", tt.off, tt.whence, at, err, tt.want)
		}
	}
	for _, tt := range []struct {
		off    int64
		whence int
		want   syscall.Errno
	}{{-1, io.SeekStart, syscall.EINVAL}, {-1 << 40, io.SeekEnd, syscall.EINVAL}, {0, 9, syscall.EINVAL},
		{1 << 30, SeekData, syscall.ENXIO}, {-1, SeekData, syscall.ENXIO}, {1 << 62, io.SeekCurrent, 0}, {1 << 62, io.SeekCurrent, syscall.EINVAL}} {
		_, err := f.Seek(tt.off, tt.whence)
		want(t, fmt.Sprintf("seek %d from %d", tt.off, tt.whence), err, tt.want)
	}
	_, err = f.ReadAt(buf, -1)
	want(t, "ReadAt -1", err, syscall.EINVAL)
	_, err = f.WriteAt(buf, -1)
	want(t, "WriteAt -1", err, syscall.EINVAL)
	_, err = f.WriteAt(buf, 1<<61)
	want(t, "WriteAt 2^61", err, syscall.EFBIG)
	want(t, "Truncate -1", f.Truncate(-1), syscall.EINVAL)
	want(t, "Truncate 2^61", f.Truncate(1<<61), syscall.EFBIG)
	must(t, f.Sync())
	must(t, c.Sync())
}

func TestLargeData(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	data := make([]byte, 3<<20+12345)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	must(t, c.WriteFile("/big", data, 0o600))
	got, err := c.ReadFile("/big")
	if err != nil || !slices.Equal(got, data) {
		t.Fatalf("%d bytes came back of %d: %v", len(got), len(data), err)
	}
	f := open(t, c, "/big", os.O_RDONLY)
	part := make([]byte, 2<<20)
	if n, err := f.ReadAt(part, 999); n != len(part) || err != nil || !slices.Equal(part, data[999:999+len(part)]) {
		t.Fatal(n, err)
	}
}

func TestAccessModeOfHandles(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	must(t, c.WriteFile("/f", []byte("abc"), 0o644))
	r, w := open(t, c, "/f", os.O_RDONLY), open(t, c, "/f", os.O_WRONLY)
	_, err := r.Write([]byte("x"))
	want(t, "write to O_RDONLY", err, syscall.EBADF)
	want(t, "truncate of O_RDONLY", r.Truncate(0), syscall.EINVAL)
	_, err = w.Read(make([]byte, 1))
	want(t, "read of O_WRONLY", err, syscall.EBADF)
	d := open(t, c, "/", os.O_RDONLY)
	_, err = d.Read(make([]byte, 1))
	want(t, "read of a directory", err, syscall.EISDIR)
	_, err = d.Write([]byte("x"))
	want(t, "write to a directory", err, syscall.EBADF)
	_, err = r.ReadDir(1)
	want(t, "ReadDir of a file", err, syscall.ENOTDIR)
	must(t, d.Sync())
	must(t, r.Close())
	if err := r.Close(); !errorsIs(err, os.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	_, rerr := r.Read(make([]byte, 1))
	_, serr := r.Stat()
	_, kerr := r.Seek(0, io.SeekStart)
	for what, err := range map[string]error{"read": rerr, "stat": serr, "seek": kerr, "sync": r.Sync()} {
		want(t, what+" after close", err, syscall.EBADF)
		if !errorsIs(err, os.ErrClosed) {
			t.Errorf("%s after close: %v is not os.ErrClosed", what, err)
		}
	}
}

func TestAppend(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	a, b := w.client(), w.client()
	b.conn.Leave() // the second one goes to the second node
	fa, fb := open(t, a, "/log", os.O_WRONLY|os.O_CREATE|os.O_APPEND), open(t, b, "/log", os.O_WRONLY|os.O_APPEND)
	for i := range 20 {
		f := fa
		if i%2 == 1 {
			f = fb
		}
		if _, err := fmt.Fprintf(f, "line %02d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(content(t, a, "/log")), "\n")
	if len(lines) != 20 || !slices.IsSorted(lines) {
		t.Fatalf("%q", lines)
	}
	if at, err := fb.Seek(0, io.SeekCurrent); at != 160 || err != nil {
		t.Fatal("the position after appending:", at, err)
	}
}

func TestNames(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	must(t, c.Mkdir("/d", 0o755))
	must(t, c.Mkdir("/d/sub/", 0o755))
	must(t, c.WriteFile("/f", nil, 0o644))
	must(t, c.MkdirAll("/x/y/../z/./w/", 0o755))
	must(t, c.MkdirAll("/x/y", 0o755))
	for what, tt := range map[string]struct {
		err  error
		want syscall.Errno
	}{
		"mkdir over a file":           {c.Mkdir("/f", 0o755), syscall.EEXIST},
		"mkdir /":                     {c.Mkdir("/", 0o755), syscall.EEXIST},
		"mkdir d/.":                   {c.Mkdir("/d/.", 0o755), syscall.EEXIST},
		"mkdir d/..":                  {c.Mkdir("/d/..", 0o755), syscall.EEXIST},
		"mkdir missing/.":             {c.Mkdir("/missing/.", 0o755), syscall.ENOENT},
		"mkdir below a file":          {c.Mkdir("/f/x", 0o755), syscall.ENOTDIR},
		"MkdirAll through a file":     {c.MkdirAll("/f/x/y", 0o755), syscall.ENOTDIR},
		"MkdirAll of a file":          {c.MkdirAll("/f", 0o755), syscall.ENOTDIR},
		"unlink dir":                  {c.Unlink("/d"), syscall.EISDIR},
		"unlink dir/":                 {c.Unlink("/d/"), syscall.EISDIR},
		"unlink file/":                {c.Unlink("/f/"), syscall.ENOTDIR},
		"unlink missing/":             {c.Unlink("/missing/"), syscall.ENOENT},
		"unlink /":                    {c.Unlink("/"), syscall.EISDIR},
		"rmdir file":                  {c.Rmdir("/f"), syscall.ENOTDIR},
		"rmdir full":                  {c.Rmdir("/d"), syscall.ENOTEMPTY},
		"rmdir .":                     {c.Rmdir("/d/."), syscall.EINVAL},
		"rmdir ..":                    {c.Rmdir("/d/.."), syscall.ENOTEMPTY},
		"rmdir /":                     {c.Rmdir("/"), syscall.EBUSY},
		"remove missing":              {c.Remove("/missing"), syscall.ENOENT},
		"rename /":                    {c.Rename("/", "/r"), syscall.EBUSY},
		"rename to ..":                {c.Rename("/f", "/d/.."), syscall.EBUSY},
		"rename file to slash":        {c.Rename("/f", "/g/"), syscall.ENOTDIR},
		"rename file/":                {c.Rename("/f/", "/g"), syscall.ENOTDIR},
		"rename dir into itself":      {c.Rename("/d", "/d/sub/d"), syscall.EINVAL},
		"rename file over dir":        {c.Rename("/f", "/d"), syscall.EISDIR},
		"rename dir over file":        {c.Rename("/d", "/f"), syscall.ENOTDIR},
		"rename noreplace":            {c.Rename2("/f", "/d", RenameNoReplace), syscall.EEXIST},
		"rename bad flags":            {c.Rename2("/f", "/g", 64), syscall.EINVAL},
		"symlink exists":              {c.Symlink("x", "/f"), syscall.EEXIST},
		"symlink new/":                {c.Symlink("x", "/new/"), syscall.ENOENT},
		"symlink dir/":                {c.Symlink("x", "/d/"), syscall.EEXIST},
		"symlink too long":            {c.Symlink(strings.Repeat("x", 4096), "/l"), syscall.ENAMETOOLONG},
		"link of a directory":         {c.Link("/d", "/hard"), syscall.EPERM},
		"link new/":                   {c.Link("/f", "/new/"), syscall.ENOENT},
		"readlink file":               {second(c.Readlink("/f")), syscall.EINVAL},
		"truncate dir":                {c.Truncate("/d", 0), syscall.EISDIR},
		"truncate -1":                 {c.Truncate("/f", -1), syscall.EINVAL},
		"mknod name/":                 {c.Mknod("/fifo/", syscall.S_IFIFO|0o600, 0), syscall.ENOENT},
		"chmod missing":               {c.Chmod("/missing", 0o600), syscall.ENOENT},
		"name too long":               {c.Mkdir("/"+strings.Repeat("n", 256), 0o755), syscall.ENAMETOOLONG},
		"access":                      {c.Access("/f", 4|2), 0},
		"access execute":              {c.Access("/f", 1), syscall.EACCES},
		"RemoveAll of what is absent": {c.RemoveAll("/missing"), 0},
	} {
		want(t, what, tt.err, tt.want)
	}
	must(t, c.Rename("/d/", "/e/"))
	must(t, c.Link("/f", "/e/hard"))
	must(t, c.Symlink("e/hard", "/soft"))
	must(t, c.Mknod("/e/fifo", syscall.S_IFIFO|0o600, 0))
	if info, err := c.Lstat("/e/fifo"); err != nil || info.Mode() != fs.ModeNamedPipe|0o600 {
		t.Errorf("%v %v", info, err)
	}
	if info, err := c.Stat("/soft"); err != nil || info.Name() != "soft" || info.Sys().(*syscall.Stat_t).Nlink != 2 {
		t.Errorf("%v %v", info, err)
	}
	if info, err := c.Lstat("/soft"); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("%v %v", info, err)
	}
	must(t, c.Rename2("/e", "/x", RenameExchange))
	must(t, c.RemoveAll("/x"))
	must(t, c.RemoveAll("/e"))
	list, err := c.ReadDir("/")
	if err != nil || !slices.Equal(names(list), []string{"f", "soft"}) {
		t.Errorf("%v %v", names(list), err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAttributes(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	must(t, c.WriteFile("/f", []byte("12345"), 0o644))
	for _, mode := range []os.FileMode{0o755 | os.ModeSetuid, 0o2 | os.ModeSetgid, 0o777 | os.ModeSticky, 0} {
		must(t, c.Chmod("/f", mode))
		if info, err := c.Stat("/f"); err != nil || info.Mode() != mode {
			t.Errorf("chmod %v: %v %v", mode, info.Mode(), err)
		}
	}
	must(t, c.Chown("/f", 7, -1))
	must(t, c.Chown("/f", -1, 8))
	then := time.Unix(1000, 5)
	must(t, c.Chtimes("/f", then, then.Add(time.Hour)))
	must(t, c.Truncate("/f", 3))
	info, err := c.Stat("/f")
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	if st.Uid != 7 || st.Gid != 8 || st.Size != 3 || st.Atim.Nsec != 5 || st.Atim.Sec != 1000 {
		t.Errorf("%+v", st)
	}
	must(t, c.Symlink("f", "/l"))
	must(t, c.Lchown("/l", 9, 9))
	if info, err := c.Lstat("/l"); err != nil || info.Sys().(*syscall.Stat_t).Uid != 9 {
		t.Error(err)
	}
	u, err := c.StatFS()
	if err != nil || u.Total == 0 || u.Free > u.Total || u.Available > u.Free {
		t.Errorf("%+v %v", u, err)
	}
}

func TestReadDirPages(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	must(t, c.Mkdir("/d", 0o755))
	const count = 300
	for i := range count {
		must(t, c.Mkdir(fmt.Sprintf("/d/%03d", i), 0o755))
	}
	for _, page := range []int{1, 7, 100, 299, 300, 301, -1, 0} {
		d := open(t, c, "/d", os.O_RDONLY)
		seen := map[string]bool{}
		for {
			list, err := d.ReadDir(page)
			for _, e := range list {
				if seen[e.Name()] {
					t.Fatalf("page %d: %s is listed twice", page, e.Name())
				}
				seen[e.Name()] = true
				if info, err := e.Info(); err != nil || !info.IsDir() || !e.IsDir() {
					t.Fatal(info, err)
				}
			}
			if page > 0 && len(list) > page {
				t.Fatalf("%d entries of %d asked for", len(list), page)
			}
			if err == io.EOF || page <= 0 && len(list) == 0 {
				break
			}
			must(t, err)
		}
		if len(seen) != count {
			t.Errorf("page %d: %d of %d entries", page, len(seen), count)
		}
		if _, err := d.Seek(0, io.SeekCurrent); err != nil {
			t.Error(err)
		}
		if list, err := d.ReadDir(-1); len(list) != 0 || err != nil {
			t.Errorf("page %d: after a seek to where it is: %d more, %v", page, len(list), err)
		}
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			t.Error(err)
		}
		if list, err := d.ReadDir(-1); len(list) != count || err != nil {
			t.Errorf("after a rewind: %d, %v", len(list), err)
		}
	}
}

func TestFilesWithoutName(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	f := open(t, c, "/gone", os.O_RDWR|os.O_CREATE)
	must(t, c.Unlink("/gone"))
	if _, err := f.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if _, err := f.ReadAt(buf, 0); err != nil || string(buf) != "still here" {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Nlink != 0 {
		t.Error(err)
	}
	_, err := c.Open("/", oTmpfile|syscall.O_DIRECTORY, 0o600)
	want(t, "O_TMPFILE for reading", err, syscall.EINVAL)
	tmp := open(t, c, "/", oTmpfile|syscall.O_DIRECTORY|os.O_RDWR)
	if _, err := tmp.Write([]byte("unnamed")); err != nil {
		t.Fatal(err)
	}
	if list, err := c.ReadDir("/"); len(list) != 0 || err != nil {
		t.Errorf("%v %v", names(list), err)
	}
	must(t, tmp.Link("/named"))
	if got := content(t, c, "/named"); got != "unnamed" {
		t.Errorf("%q", got)
	}
}

func TestFSView(t *testing.T) {
	c := newWorld(t, 1, filerpc.Options{}).client()
	must(t, c.MkdirAll("/top/a/b", 0o755))
	must(t, c.WriteFile("/top/a/b/file", []byte("text"), 0o644))
	must(t, c.WriteFile("/top/empty", nil, 0o600))
	must(t, fstest.TestFS(c.FS("/top"), "a/b/file", "empty"))
	must(t, fstest.TestFS(c.FS("top/a/"), "b/file"))
	_, err := c.FS("/top").Open("missing/file")
	var pe *fs.PathError
	if !stderrors.As(err, &pe) || pe.Path != "missing/file" || !errorsIs(err, fs.ErrNotExist) {
		t.Errorf("%#v", err)
	}
	sub, err := fs.Sub(c.FS("/"), "top/a")
	must(t, err)
	if b, err := fs.ReadFile(sub, "b/file"); string(b) != "text" || err != nil {
		t.Error(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, 2, filerpc.Options{})
	c := w.client()
	f := open(t, c, "/shared", os.O_RDWR|os.O_CREATE)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				if _, err := f.Write([]byte{'a' + byte(i)}); err != nil {
					t.Error(err)
				}
				path := fmt.Sprintf("/%d-%d", i, j)
				if err := c.WriteFile(path, []byte(path), 0o644); err != nil {
					t.Error(err)
				}
				if b, err := c.ReadFile(path); err != nil || string(b) != path {
					t.Errorf("%q %v", b, err)
				}
			}
		})
	}
	wg.Wait()
	// Each Write moved the position by what it wrote: none overwrote another.
	if got := content(t, c, "/shared"); len(got) != 80 || strings.Count(got, "c") != 10 {
		t.Errorf("%q", got)
	}
}

func TestContexts(t *testing.T) {
	w := newWorld(t, 1, filerpc.Options{})
	c := w.client()
	must(t, c.WriteFile("/f", []byte("x"), 0o644))
	release := make(chan struct{})
	w.nodes[0].hook.write = func() error { <-release; return nil }
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	f, err := c.WithContext(ctx).Open("/f", os.O_RDWR, 0)
	must(t, err)
	_, err = f.Write([]byte("y"))
	want(t, "a write past its deadline", err, syscall.ETIMEDOUT)
	if !errorsIs(err, context.DeadlineExceeded) {
		t.Errorf("%v is not the context's error", err)
	}
	close(release)
	must(t, f.Close()) // although its context is over
	canceled, cancel2 := context.WithCancel(context.Background())
	cancel2()
	_, err = c.WithContext(canceled).Stat("/f")
	if !errorsIs(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.nodes[0].kill()
	soon, cancel3 := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel3()
	go func() { _, _ = c.Stat("/f") }() // searches a node for as long as the client waits
	started := time.Now()
	_, err = c.WithContext(soon).Stat("/f")
	if !errorsIs(err, context.DeadlineExceeded) || time.Since(started) > 3*time.Second {
		t.Errorf("%v after %v", err, time.Since(started))
	}
}

func TestDialErrors(t *testing.T) {
	if _, err := Dial(context.Background(), nil, Options{}); err == nil {
		t.Error("no addresses were accepted")
	}
	started := time.Now()
	_, err := Dial(context.Background(), []string{"127.0.0.1:1"}, Options{Wait: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || time.Since(started) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(started))
	}
	c := newWorld(t, 1, filerpc.Options{}).client()
	must(t, c.Close())
	if _, err := c.Stat("/"); !errorsIs(err, syscall.EBADF) {
		t.Errorf("a closed client: %v", err)
	}
}
