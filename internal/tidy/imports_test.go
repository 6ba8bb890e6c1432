package tidy

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// direction says what some packages may not import; see under for the form of paths.
type direction struct {
	from   []string
	except []string
	deny   []string
	allow  []string // of what deny names
	why    string
}

var up = []string{"dfs/fuse", "dfs/posixclient", "dfs/internal/assembly", "dfs/cmd"}

var directions = []direction{
	{from: []string{"dfs/internal/errors"}, deny: []string{"dfs/"}, why: "all import it"},
	{from: []string{"dfs/wal"}, deny: []string{"dfs/"}, allow: []string{"dfs/internal/crc", "dfs/internal/errors", "dfs/internal/pagemem", "dfs/wal"}, why: "wal knows nobody"},
	{from: []string{"dfs/wal/seglog"}, deny: []string{"dfs/wal$"}, why: "the segmented log knows no records"},
	{from: []string{"dfs/blockstore"}, deny: append([]string{"dfs/lockserver", "dfs/fs"}, up...), why: "imports point down"},
	{from: []string{"dfs/blockstore/device"}, deny: []string{"dfs/blockstore/raftstore", "dfs/blockstore/blockrpc"}, why: "the device knows neither Raft nor the network"},
	{from: []string{"dfs/blockstore/raftstore"}, deny: []string{"dfs/blockstore/device", "dfs/blockstore/blockrpc"}, why: "raftstore works on interfaces"},
	{from: []string{"dfs/lockserver"}, deny: append([]string{"dfs/fs", "dfs/wal", "dfs/blockstore/"}, up...), why: "lockserver imports blockstore's contract alone"},
	{from: []string{"dfs/fs"}, deny: append([]string{"dfs/blockstore/", "dfs/lockserver/", "dfs/wal/seglog"}, up...), why: "the file server works on interfaces"},
	{from: []string{"dfs/fuse"}, deny: []string{"dfs/"}, allow: []string{"dfs/fs$", "dfs/internal/errors"}, why: "fuse knows the FileSystem interface alone"},
	{from: []string{"dfs/posixclient"}, deny: []string{"dfs/"}, allow: []string{"dfs/internal/cluster", "dfs/internal/errors", "dfs/internal/fileconn", "dfs/internal/wire"}, why: "posixclient imports the wire API only"},
	{from: []string{"dfs/internal/fileconn"}, deny: []string{"dfs/"}, allow: []string{"dfs/internal/cluster", "dfs/internal/errors", "dfs/internal/wire"}, why: "a thin client's connection knows the wire alone"},
	{from: []string{"dfs"}, except: []string{"dfs/internal/simdisk"}, deny: []string{"dfs/internal/simdisk"}, why: "the simulated disk is for tests"},
	{from: []string{"dfs"}, except: []string{"dfs/blockstore/raftstore", "dfs/bench"}, deny: []string{"github.com/hashicorp"}, why: "raft belongs to raftstore"},
	{from: []string{"dfs"}, except: []string{"dfs/blockstore/device", "dfs/blockstore/raftstore"}, deny: []string{"go.etcd.io/bbolt"}, why: "bbolt belongs to the device's map and to raftstore"},
	{from: []string{"dfs"}, except: []string{"dfs/fuse", "dfs/bench", "dfs/tests"}, deny: []string{"github.com/hanwen/go-fuse"}, why: "go-fuse belongs to fuse"},
	{from: []string{"dfs"}, except: []string{"dfs/blockstore/blockrpc", "dfs/lockserver/lockrpc", "dfs/fs/filerpc", "dfs/posixclient", "dfs/internal", "dfs/cmd"},
		deny: []string{"google.golang.org/grpc", "google.golang.org/protobuf", "dfs/internal/wire"}, why: "gRPC belongs to the *rpc packages"},
	{from: []string{"dfs"}, except: []string{"dfs/cmd"}, deny: []string{"github.com/spf13/cobra"}, why: "flags belong to cmd"},
}

// under reports whether path is one of the list's, or below one ("x": x and below, "x/": below x, "x$": x).
func under(path string, list []string) bool {
	for _, p := range list {
		if exact, only := strings.CutSuffix(p, "$"); only && path == exact {
			return true
		}
		if path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return false
}

// wrong returns the reason why from may not import pkg, "" if it may.
func wrong(from, pkg string) string {
	for _, d := range directions {
		if !under(from, d.from) || under(from, d.except) {
			continue
		}
		if own := from == pkg; !own && under(pkg, d.deny) && !under(pkg, d.allow) {
			return d.why
		}
	}
	return ""
}

func TestImportsPointDown(t *testing.T) {
	cmd := exec.Command("go", "list", "-buildvcs=false", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	packages := 0
	for d := json.NewDecoder(bytes.NewReader(out)); ; packages++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, i := range p.Imports {
			if why := wrong(p.ImportPath, i); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, i, why)
			}
		}
	}
	if packages < 20 {
		t.Fatalf("go list tells of %d packages only", packages)
	}
}

// TestDirections: the rules bite, and let through what they should.
func TestDirections(t *testing.T) {
	for _, c := range []struct {
		from, pkg string
		allowed   bool
	}{
		{"dfs/wal", "dfs/blockstore", false},
		{"dfs/wal", "dfs/internal/errors", true},
		{"dfs/wal/seglog", "dfs/wal", false},
		{"dfs/wal", "context", true},
		{"dfs/blockstore", "dfs/wal", true},
		{"dfs/blockstore/device", "dfs/lockserver", false},
		{"dfs/blockstore/blockrpc", "dfs/blockstore/raftstore", true},
		{"dfs/blockstore/blockrpc", "github.com/hashicorp/raft", false},
		{"dfs/blockstore/raftstore", "github.com/hashicorp/raft", true},
		{"dfs/lockserver", "dfs/blockstore", true},
		{"dfs/lockserver", "dfs/blockstore/raftstore", false},
		{"dfs/lockserver/lockrpc", "google.golang.org/grpc", true},
		{"dfs/lockserver", "google.golang.org/grpc", false},
		{"dfs/fs", "dfs/lockserver", true},
		{"dfs/fs", "dfs/lockserver/lockrpc", false},
		{"dfs/fs/filerpc", "google.golang.org/grpc/codes", true},
		{"dfs/fs/layout", "google.golang.org/grpc/codes", false},
		{"dfs/fuse", "dfs/fs", true},
		{"dfs/fuse", "dfs/fs/layout", false},
		{"dfs/posixclient", "dfs/fs", false},
		{"dfs/posixclient", "dfs/internal/wire/filepb", true},
		{"dfs/internal/fileconn", "dfs/fs", false},
		{"dfs/fs", "github.com/hanwen/go-fuse/v2/fuse", false},
		{"dfs/fs", "github.com/spf13/cobra", false},
		{"dfs/blockstore/raftstore", "dfs/internal/simdisk", false},
	} {
		if got := wrong(c.from, c.pkg) == ""; got != c.allowed {
			t.Errorf("%s importing %s: allowed is %v", c.from, c.pkg, got)
		}
	}
}
