// Package jsonfile is the frame of the small JSON files that dfs keeps on disks:
//
//	{
//	  "magic": "dfs-node",
//	  "version": 1,
//	  "crc32c": "<8 hex digits: CRC32C of the body without insignificant white space>",
//	  "body": {…}
//	}
//
// So a file of something else, one of a newer dfs and a damaged one are told apart.
package jsonfile

import (
	"bytes"
	"encoding/json"
	"fmt"

	"dfs/internal/crc"
	"dfs/internal/errors"
)

// frame is what every version of every such file has.
type frame struct {
	Magic   string          `json:"magic"`
	Version int             `json:"version"`
	CRC32C  string          `json:"crc32c"`
	Body    json.RawMessage `json:"body"`
}

func checksum(b []byte) string { return fmt.Sprintf("%08x", crc.Checksum(b)) }

// Encode frames body, of the format version named, indented for people.
func Encode(magic string, version int, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(frame{magic, version, checksum(b), b}, "", "  ")
}

// Decode reads what Encode made into body. The errors are KindForeign (another magic), KindTooNew (a version above the one
// named) and KindCorrupt; their texts go on from "the file …: ".
func Decode(b []byte, magic string, version int, body any) error {
	var f frame
	if err := json.Unmarshal(b, &f); err != nil {
		return errors.New(errors.KindCorrupt, "it is no JSON: %w", err)
	}
	if f.Magic != magic {
		return errors.New(errors.KindForeign, "it is no %s file (magic %q)", magic, f.Magic)
	}
	if f.Version > version {
		return errors.New(errors.KindTooNew, "it has version %d, this program knows %d: run a newer dfs", f.Version, version)
	}
	if f.Version < 1 {
		return errors.New(errors.KindCorrupt, "it names version %d, which there never was", f.Version)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, f.Body); err != nil {
		return errors.New(errors.KindCorrupt, "its body is no JSON: %w", err)
	}
	if sum := checksum(compact.Bytes()); sum != f.CRC32C {
		return errors.New(errors.KindCorrupt, "its checksum does not fit (%s, want %s)", sum, f.CRC32C)
	}
	if err := json.Unmarshal(f.Body, body); err != nil {
		return errors.New(errors.KindCorrupt, "its body does not parse: %w", err)
	}
	return nil
}
