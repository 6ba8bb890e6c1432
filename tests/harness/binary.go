package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// binaryPrefix begins the name of the directory, in that for temporary files, of a test process's dfs; its pid ends it.
const binaryPrefix = "dfs-test-bin-"

var build struct {
	once sync.Once
	path string
	err  error
}

func binaryDir(pid int) string {
	return filepath.Join(os.TempDir(), binaryPrefix+strconv.Itoa(pid))
}

// Main runs the tests of a package that uses Binary, and removes what that has built: for its TestMain. In the launcher of a
// Network, which is the same binary, it is the launcher.
func Main(m *testing.M) {
	if os.Getenv(launcherVariable) != "" {
		launch(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	code := m.Run()
	_ = os.RemoveAll(binaryDir(os.Getpid()))
	os.Exit(code)
}

// Binary builds cmd/dfs once per test process and returns its path. DFS_BINARY overrides.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("DFS_BINARY"); path != "" {
		return path
	}
	build.once.Do(func() {
		removeOldBinaries()
		dir := binaryDir(os.Getpid())
		if build.err = os.MkdirAll(dir, 0o755); build.err != nil {
			return
		}
		build.path = filepath.Join(dir, "dfs")
		out, err := exec.Command("go", "build", "-o", build.path, "dfs/cmd/dfs").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("go build dfs/cmd/dfs: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

// removeOldBinaries removes what test processes left that were killed, or panicked, before their Main could: their binaries, and
// what still runs of them in the background, such as a mount that mount(8) started.
func removeOldBinaries() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), binaryPrefix+"*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), binaryPrefix))
		if err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			killAllOf(dir)
			_ = os.RemoveAll(dir)
		}
	}
}

// killAllOf kills the processes whose program is in dir.
func killAllOf(dir string) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		exe, err := os.Readlink(link)
		pid, perr := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil && perr == nil && strings.HasPrefix(exe, dir+"/") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
