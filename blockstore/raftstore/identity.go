package raftstore

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"dfs/blockstore"
	"dfs/internal/errors"
	"dfs/internal/jsonfile"
	"dfs/internal/mux"
)

// The identity file, node.json, binds a data directory to one node of one cluster (package jsonfile has its frame).
const (
	identityFile    = "node.json"
	identityMagic   = "dfs-node"
	identityVersion = 2
)

// incarnation is the random number that a data directory gets when it is made; hex in text.
type incarnation uint64

func (i incarnation) String() string { return fmt.Sprintf("%016x", uint64(i)) }

// MarshalText writes 16 hex digits.
func (i incarnation) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText reads 16 hex digits.
func (i *incarnation) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != 8 {
		return fmt.Errorf("incarnation %q is not 16 hex digits", b)
	}
	*i = incarnation(binary.BigEndian.Uint64(raw))
	return nil
}

// founder is a member of the first configuration.
type founder struct {
	Node        blockstore.NodeID `json:"node"`
	Address     string            `json:"address"`
	Incarnation incarnation       `json:"incarnation"`
}

// identity is what the identity file holds.
type identity struct {
	Node        blockstore.NodeID `json:"node"`
	Incarnation incarnation       `json:"incarnation"`
	Cluster     string            `json:"cluster,omitempty"` // hex of the cluster id, "" while there is none
	Founders    []founder         `json:"founders,omitempty"`
	// Lives: this directory may hold acknowledged entries or votes. Without its Raft log it must not run.
	Lives bool `json:"lives,omitempty"`
	// Recovered: this node went on alone after the loss of a majority. Since version 2, which is written only then.
	Recovered *recovered `json:"recovered,omitempty"`
}

func (id *identity) clusterID() (mux.ClusterID, bool) {
	b, err := hex.DecodeString(id.Cluster)
	if err != nil || len(b) != len(mux.ClusterID{}) {
		return mux.ClusterID{}, false
	}
	return mux.ClusterID(b), true
}

func (id *identity) serverID() raft.ServerID { return serverID(id.Node, id.Incarnation) }

func encodeIdentity(id *identity) ([]byte, error) {
	version := 1
	if id.Recovered != nil {
		version = 2
	}
	return jsonfile.Encode(identityMagic, version, id)
}

// decodeIdentity: KindForeign, KindTooNew, KindCorrupt.
func decodeIdentity(b []byte) (*identity, error) {
	id := new(identity)
	if err := jsonfile.Decode(b, identityMagic, identityVersion, id); err != nil {
		return nil, err
	}
	if _, ok := id.clusterID(); id.Cluster != "" && !ok {
		return nil, errors.New(errors.KindCorrupt, "cluster id %q is not 32 hex digits", id.Cluster)
	}
	return id, nil
}

// loadIdentity reads the identity of dir, or makes one for a directory that has none.
func loadIdentity(dir string, node blockstore.NodeID) (*identity, error) {
	id, err := readIdentity(dir)
	if errors.Is(err, errors.KindNotExist) {
		var raw [8]byte
		if _, err := rand.Read(raw[:]); err != nil {
			return nil, err
		}
		id := &identity{Node: node, Incarnation: incarnation(binary.BigEndian.Uint64(raw[:]))}
		return id, saveIdentity(dir, id)
	}
	if err != nil {
		return nil, err
	}
	if id.Node != node {
		return nil, errors.New(errors.KindForeign, "data directory %s belongs to node %q, not %q: start with that id, or with another directory", dir, id.Node, node)
	}
	return id, nil
}

// saveIdentity replaces the identity file, durably.
func saveIdentity(dir string, id *identity) error {
	b, err := encodeIdentity(id)
	if err != nil {
		return err
	}
	return writeFileDurably(dir, identityFile, b)
}

// writeFileDurably replaces dir/name by b: after a crash it holds the old or the new bytes.
func writeFileDurably(dir, name string, b []byte) error {
	tmp := filepath.Join(dir, name+".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.New(errors.KindIO, "cannot write %s: %w", name, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return errors.New(errors.KindIO, "cannot write %s: %w", name, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sortFounders puts the first members into the order that all of them use.
func sortFounders(fs []founder) {
	slices.SortFunc(fs, func(a, b founder) int { return strings.Compare(string(a.Node), string(b.Node)) })
}

// clusterOf derives the cluster id from the first members. Their incarnations are random, so no two clusters share one.
func clusterOf(fs []founder) mux.ClusterID {
	h := sha256.New()
	h.Write([]byte("dfs cluster 1\n"))
	for _, f := range fs {
		_, _ = fmt.Fprintf(h, "%q %q %s\n", f.Node, f.Address, f.Incarnation)
	}
	return mux.ClusterID(h.Sum(nil)[:16])
}

// A member's Raft id and address end with its incarnation: "a#0123456789abcdef", "host:port#0123456789abcdef".

func serverID(node blockstore.NodeID, inc incarnation) raft.ServerID {
	return raft.ServerID(string(node) + "#" + inc.String())
}

func serverAddress(addr string, inc incarnation) raft.ServerAddress {
	return raft.ServerAddress(addr + "#" + inc.String())
}

// splitServer undoes serverID and serverAddress.
func splitServer(s string) (string, incarnation, bool) {
	base, text, ok := strings.Cut(s, "#")
	if !ok {
		return s, 0, false
	}
	var inc incarnation
	return base, inc, inc.UnmarshalText([]byte(text)) == nil
}
