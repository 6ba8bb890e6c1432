package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// keepLogs copies the logs of nodes and mounts to a directory of their own below DFS_LOGS, if that is set: those of a test
// that failed, which would be removed with its data.
func (c *Cluster) keepLogs() {
	dir := os.Getenv("DFS_LOGS")
	if dir == "" {
		return
	}
	dir = filepath.Join(dir, fmt.Sprintf("%s-%d", strings.ReplaceAll(c.t.Name(), "/", "-"), os.Getpid()))
	logs, err := filepath.Glob(filepath.Join(c.Dir, "*.log"))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	for _, path := range logs {
		var b []byte
		if err == nil {
			b, err = os.ReadFile(path)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o644)
		}
	}
	c.t.Logf("the logs of nodes and mounts are kept in %s (error: %v)", dir, err)
}
