package posixclient

import (
	iofs "io/fs"
	"os"
	"path"
)

// FS is an io/fs view of the file system below a directory. It implements
// fs.FS, fs.StatFS, fs.ReadDirFS and fs.ReadFileFS.
type FS struct {
	c   *Client
	dir string
}

var (
	_ iofs.FS         = (*FS)(nil)
	_ iofs.StatFS     = (*FS)(nil)
	_ iofs.ReadDirFS  = (*FS)(nil)
	_ iofs.ReadFileFS = (*FS)(nil)
)

// FS returns the view of what lies below dir.
func (c *Client) FS(dir string) *FS { return &FS{c: c, dir: dir} }

func (f *FS) path(op, name string) (string, error) {
	if !iofs.ValidPath(name) {
		return "", &iofs.PathError{Op: op, Path: name, Err: iofs.ErrInvalid}
	}
	return path.Join("/", f.dir, name), nil
}

// Open implements fs.FS.
func (f *FS) Open(name string) (iofs.File, error) {
	p, err := f.path("open", name)
	if err != nil {
		return nil, err
	}
	file, err := f.c.Open(p, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return file, nil
}

// Stat implements fs.StatFS.
func (f *FS) Stat(name string) (iofs.FileInfo, error) {
	p, err := f.path("stat", name)
	if err != nil {
		return nil, err
	}
	info, err := f.c.Stat(p)
	if err != nil {
		return nil, err
	}
	return fileInfo{name: path.Base(name), attr: info.(fileInfo).attr}, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *FS) ReadDir(name string) ([]iofs.DirEntry, error) {
	p, err := f.path("readdir", name)
	if err != nil {
		return nil, err
	}
	return f.c.ReadDir(p)
}

// ReadFile implements fs.ReadFileFS.
func (f *FS) ReadFile(name string) ([]byte, error) {
	p, err := f.path("read", name)
	if err != nil {
		return nil, err
	}
	return f.c.ReadFile(p)
}
