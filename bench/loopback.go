package main

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// serveLoopback mounts a go-fuse loopback of from at to until SIGTERM: the yardstick of what FUSE itself
// costs. Kernel caches are on, as in dfs.
func serveLoopback(from, to string) error {
	root, err := gofs.NewLoopbackRoot(from)
	if err != nil {
		return err
	}
	second := time.Second
	server, err := gofs.Mount(to, root, &gofs.Options{AttrTimeout: &second, EntryTimeout: &second,
		MountOptions: gofuse.MountOptions{DirectMountStrict: true, MaxWrite: 1 << 20, MaxBackground: 1024, FsName: "loopback"}})
	if err != nil {
		return err
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	<-end
	return server.Unmount()
}

// withLoopback runs f on a loopback mount of a new directory below base.
func withLoopback(base string, f func(mnt string) error) error {
	from, to := filepath.Join(base, "loopback-data"), filepath.Join(base, "loopback-mnt")
	for _, d := range []string{from, to} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	defer func() { _ = os.RemoveAll(from) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-loopback", from+":"+to)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	var before, now syscall.Stat_t
	if err := syscall.Stat(filepath.Dir(to), &before); err != nil {
		return err
	}
	for range 500 {
		if err := syscall.Stat(to, &now); err == nil && now.Dev != before.Dev {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return f(to)
}
