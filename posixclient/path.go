package posixclient

import (
	"context"
	"strings"
	"syscall"

	"dfs/internal/errors"
	"dfs/internal/fileconn"
	"dfs/internal/wire/filepb"
)

// symlinksMax is how many symlinks one path may lead through, as in Linux.
const symlinksMax = 40

// pathMax is what a path must be shorter than, in bytes, as in Linux.
const pathMax = 4096

// walkState is a path being resolved: the directories walked so far, and what is left.
type walkState struct {
	stack []*filepb.Attr // from the root to where we are
	rest  []string
	links int
}

// split gives a path's components. Empty ones are dropped; a slash at the end counts as
// "/.", so that what is before it must be a directory.
func split(path string) []string {
	var parts []string
	for _, p := range strings.Split(path, "/") {
		if p != "" {
			parts = append(parts, p)
		}
	}
	if len(parts) > 0 && strings.HasSuffix(path, "/") {
		parts = append(parts, ".")
	}
	return parts
}

// cut splits a path into what leads to its last component, that component ("/" for
// the root itself), and whether slashes follow it.
func cut(path string) (dir, name string, slash bool) {
	trimmed := strings.TrimRight(path, "/")
	if trimmed == "" {
		return "/", "/", false
	}
	i := strings.LastIndexByte(trimmed, '/')
	return trimmed[:i+1], trimmed[i+1:], len(trimmed) < len(path)
}

func baseName(path string) string {
	_, name, _ := cut(path)
	return name
}

func join(dir, name string) string { return strings.TrimRight(dir, "/") + "/" + name }

// prefixes lists "/a", "/a/b", … for MkdirAll.
func prefixes(path string) []string {
	var list []string
	at := ""
	for _, p := range split(path) {
		if p != "." {
			at += "/" + p
			list = append(list, at)
		}
	}
	return list
}

func isDir(a *filepb.Attr) bool  { return a.GetMode()&syscall.S_IFMT == syscall.S_IFDIR }
func isLink(a *filepb.Attr) bool { return a.GetMode()&syscall.S_IFMT == syscall.S_IFLNK }

func checkPath(path string) error {
	switch {
	case path == "":
		return errors.Of(errors.KindNotExist)
	case len(path) >= pathMax:
		return errors.Of(errors.KindNameTooLong)
	case strings.IndexByte(path, 0) >= 0:
		return errors.Of(errors.KindInvalid)
	}
	return nil
}

// resolve returns the attributes of what path names. All paths begin at the root.
func (c *Client) resolve(path string, follow bool) (*filepb.Attr, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	w := &walkState{stack: []*filepb.Attr{{Ino: rootIno, Mode: syscall.S_IFDIR}}, rest: split(path)}
	for len(w.rest) > 0 {
		if err := c.step(w, follow || len(w.rest) > 1); err != nil {
			return nil, err
		}
	}
	if len(w.stack) == 1 {
		return c.getAttr(rootIno)
	}
	return w.stack[len(w.stack)-1], nil
}

// step walks one component.
func (c *Client) step(w *walkState, follow bool) error {
	name := w.rest[0]
	w.rest = w.rest[1:]
	here := w.stack[len(w.stack)-1]
	if !isDir(here) {
		return errors.Of(errors.KindNotDir)
	}
	switch name {
	case ".":
		return nil
	case "..":
		w.stack = w.stack[:max(1, len(w.stack)-1)]
		return nil
	}
	child, err := c.lookup(here.GetIno(), name)
	if err != nil {
		return err
	}
	if !isLink(child) || !follow {
		w.stack = append(w.stack, child)
		return nil
	}
	if w.links++; w.links > symlinksMax {
		return errors.Of(errors.KindLoop)
	}
	target, err := c.readlink(child.GetIno())
	if err != nil {
		return err
	}
	if strings.HasPrefix(target, "/") {
		w.stack = w.stack[:1]
	}
	w.rest = append(split(target), w.rest...)
	return nil
}

// place is where a name is, or will be.
type place struct {
	dir   uint64
	path  string // of dir, ending in a slash
	name  string
	slash bool // the path had a slash at its end: the name is to be a directory's
}

// normal tells a name that can be made and removed from ".", ".." and the root.
func (p place) normal() bool { return p.name != "." && p.name != ".." && p.name != "/" }

// parent resolves all of path but its last component.
func (c *Client) parent(path string) (place, error) {
	if err := checkPath(path); err != nil {
		return place{}, err
	}
	p := place{dir: rootIno, path: "/"}
	var above string
	above, p.name, p.slash = cut(path)
	if len(split(above)) == 0 {
		return p, nil
	}
	dir, err := c.resolve(above, true)
	if err != nil {
		return place{}, err
	}
	p.dir, p.path = dir.GetIno(), above
	return p, nil
}

// newName is the place of a name that is to be made and is no directory's.
func (c *Client) newName(path string) (place, error) {
	p, err := c.parent(path)
	if err != nil {
		return p, err
	}
	if !p.normal() {
		return p, errors.Of(errors.KindExist)
	}
	if p.slash {
		if _, err := c.lookup(p.dir, p.name); err != nil {
			return p, err
		}
		return p, errors.Of(errors.KindExist)
	}
	return p, nil
}

func (c *Client) getAttr(ino uint64) (attr *filepb.Attr, err error) {
	err = c.conn.Call(c.ctx, "stat", func(ctx context.Context, a *fileconn.Attachment) error {
		r, err := a.Files.GetAttr(ctx, &filepb.InodeRequest{Caller: c.caller(), Ino: ino})
		attr = r.GetAttr()
		return err
	})
	return attr, err
}

func (c *Client) lookup(dir uint64, name string) (attr *filepb.Attr, err error) {
	err = c.conn.Call(c.ctx, "lookup", func(ctx context.Context, a *fileconn.Attachment) error {
		r, err := a.Files.Lookup(ctx, &filepb.NameRequest{Caller: c.caller(), Dir: dir, Name: []byte(name)})
		attr = r.GetAttr()
		return err
	})
	return attr, err
}

// change runs a changing call.
func (c *Client) change(what string, f func(ctx context.Context, files filepb.FilesClient) error) error {
	return c.conn.Change(c.ctx, what, func(ctx context.Context, a *fileconn.Attachment) error { return f(ctx, a.Files) })
}
