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
		return nil, named(err, name)
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
		return nil, named(err, name)
	}
	return fileInfo{name: path.Base(name), attr: info.(fileInfo).attr}, nil
}

// ReadDir implements fs.ReadDirFS.
func (f *FS) ReadDir(name string) ([]iofs.DirEntry, error) {
	p, err := f.path("readdir", name)
	if err != nil {
		return nil, err
	}
	list, err := f.c.ReadDir(p)
	return list, named(err, name)
}

// ReadFile implements fs.ReadFileFS.
func (f *FS) ReadFile(name string) ([]byte, error) {
	p, err := f.path("read", name)
	if err != nil {
		return nil, err
	}
	data, err := f.c.ReadFile(p)
	return data, named(err, name)
}

// named makes an error speak of the name that the view was asked for.
func named(err error, name string) error {
	if pe, ok := err.(*iofs.PathError); ok {
		return &iofs.PathError{Op: pe.Op, Path: name, Err: pe.Err}
	}
	return err
}
