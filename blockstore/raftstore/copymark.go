package raftstore

import (
	"encoding/json"
	stderrors "errors"
	"io/fs"
	"os"
	"path/filepath"

	"dfs/internal/errors"
	"dfs/internal/jsonfile"
)

// copyMark is the note catchup.json (package jsonfile has its frame).
type copyMark struct {
	Copying bool   `json:"copying"` // the device is neither what it was nor what it is to be
	Floor   uint64 `json:"floor"`   // not to be read before this index is applied
}

const (
	copyMarkFile    = "catchup.json"
	copyMarkMagic   = "dfs-catchup"
	copyMarkVersion = 2
)

func encodeCopyMark(m *copyMark) ([]byte, error) {
	return jsonfile.Encode(copyMarkMagic, copyMarkVersion, m)
}

// decodeCopyMark reads a note: KindForeign, KindTooNew, KindCorrupt. Version 1 had no frame: its fields stand beside the version.
func decodeCopyMark(b []byte) (*copyMark, error) {
	var first struct {
		Magic   string `json:"magic"`
		Version int    `json:"version"`
		copyMark
	}
	if err := json.Unmarshal(b, &first); err == nil && first.Magic == "" && first.Version == 1 {
		return &first.copyMark, nil
	}
	m := new(copyMark)
	if err := jsonfile.Decode(b, copyMarkMagic, copyMarkVersion, m); err != nil {
		return nil, err
	}
	return m, nil
}

// loadCopyMark reads the note of dir, nil if there is none.
func loadCopyMark(dir string) (*copyMark, error) {
	path := filepath.Join(dir, copyMarkFile)
	b, err := os.ReadFile(path)
	if stderrors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.New(errors.KindIO, "cannot read the note of a copy: %w", err)
	}
	m, err := decodeCopyMark(b)
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "the note of a copy from another replica, %s, cannot be read (if it is damaged: %s): %w", path, rebuild, err)
	}
	return m, nil
}

func (n *Node) setCopyMark(m *copyMark) error {
	b, err := encodeCopyMark(m)
	if err == nil {
		err = n.commitFile(func() error { return writeFileDurably(n.opts.Dir, copyMarkFile, b) })
	}
	if err != nil {
		return err
	}
	n.copying.mu.Lock()
	n.copying.mark = m
	n.copying.mu.Unlock()
	return nil
}
