package posixclient

import (
	"context"
	"strings"
	"syscall"

	"dfs/internal/errors"
	"dfs/internal/wire/filepb"
)

// symlinksMax is how many symlinks one path may lead through, as in Linux.
const symlinksMax = 40

// pathMax is the longest path in bytes, as in Linux.
const pathMax = 4096

// walkState is a path being resolved: the directories walked so far, and what is left.
type walkState struct {
	stack []*filepb.Attr // from the root to where we are
	rest  []string
	links int
}

// split gives a path's components; empty ones and "." are dropped.
func split(path string) []string {
	var parts []string
	for _, p := range strings.Split(path, "/") {
		if p != "" && p != "." {
			parts = append(parts, p)
		}
	}
	return parts
}

func baseName(path string) string {
	parts := split(path)
	if len(parts) == 0 {
		return "/"
	}
	return parts[len(parts)-1]
}

func join(dir, name string) string { return strings.TrimRight(dir, "/") + "/" + name }

// prefixes lists "/a", "/a/b", … for MkdirAll.
func prefixes(path string) []string {
	var list []string
	at := ""
	for _, p := range split(path) {
		at += "/" + p
		list = append(list, at)
	}
	return list
}

// resolve returns the attributes of what path names. All paths begin at the root.
func (c *Client) resolve(path string, follow bool) (*filepb.Attr, error) {
	w, err := c.begin(path)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(path, "/") {
		follow = true
	}
	for len(w.rest) > 0 {
		if err := c.step(w, follow || len(w.rest) > 1); err != nil {
			return nil, err
		}
	}
	found := w.stack[len(w.stack)-1]
	if strings.HasSuffix(path, "/") && found.GetMode()&syscall.S_IFMT != syscall.S_IFDIR {
		return nil, errors.Of(errors.KindNotDir)
	}
	return found, nil
}

// parent returns the directory that holds (or will hold) path's last component, and that component.
func (c *Client) parent(path string) (uint64, string, error) {
	parts := split(path)
	if len(parts) == 0 {
		return 0, "", errors.Of(errors.KindExist)
	}
	last := parts[len(parts)-1]
	if last == ".." {
		return 0, "", errors.Of(errors.KindInvalid)
	}
	dir, err := c.resolve(strings.Join(parts[:len(parts)-1], "/")+"/", true)
	if err != nil {
		return 0, "", err
	}
	return dir.GetIno(), last, nil
}

func (c *Client) begin(path string) (*walkState, error) {
	if path == "" {
		return nil, errors.Of(errors.KindNotExist)
	}
	if len(path) > pathMax {
		return nil, errors.Of(errors.KindNameTooLong)
	}
	if strings.ContainsRune(path, 0) {
		return nil, errors.Of(errors.KindInvalid)
	}
	root, err := c.getAttr(rootIno)
	if err != nil {
		return nil, err
	}
	return &walkState{stack: []*filepb.Attr{root}, rest: split(path)}, nil
}

// step walks one component.
func (c *Client) step(w *walkState, follow bool) error {
	name := w.rest[0]
	w.rest = w.rest[1:]
	here := w.stack[len(w.stack)-1]
	if here.GetMode()&syscall.S_IFMT != syscall.S_IFDIR {
		return errors.Of(errors.KindNotDir)
	}
	if name == ".." {
		w.stack = w.stack[:max(1, len(w.stack)-1)]
		return nil
	}
	child, err := c.lookup(here.GetIno(), name)
	if err != nil {
		return err
	}
	if child.GetMode()&syscall.S_IFMT != syscall.S_IFLNK || !follow {
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

func (c *Client) getAttr(ino uint64) (attr *filepb.Attr, err error) {
	err = c.conn.call(c.ctx, true, "stat", func(ctx context.Context, a *attachment) error {
		r, err := a.files.GetAttr(ctx, &filepb.InodeRequest{Caller: c.caller(), Ino: ino})
		attr = r.GetAttr()
		return err
	})
	return attr, err
}

func (c *Client) lookup(dir uint64, name string) (attr *filepb.Attr, err error) {
	err = c.conn.call(c.ctx, true, "lookup", func(ctx context.Context, a *attachment) error {
		r, err := a.files.Lookup(ctx, &filepb.NameRequest{Caller: c.caller(), Dir: dir, Name: []byte(name)})
		attr = r.GetAttr()
		return err
	})
	return attr, err
}

// inParent runs a changing call on path's directory and last component.
func (c *Client) inParent(path, what string, f func(ctx context.Context, a *attachment, dir uint64, name []byte) error) error {
	dir, name, err := c.parent(path)
	if err != nil {
		return err
	}
	return c.conn.call(c.ctx, false, what, func(ctx context.Context, a *attachment) error { return f(ctx, a, dir, []byte(name)) })
}
