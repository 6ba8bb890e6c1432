package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"dfs/internal/errors"
)

// devStateVersion is the format of dev.json.
const devStateVersion = 1

// devState is what a dev cluster's data directory remembers: the nodes' addresses must stay.
type devState struct {
	Version  int       `json:"version"`
	PID      int       `json:"pid"` // the supervisor's
	MountPID int       `json:"mount_pid"`
	Dir      string    `json:"dir"`
	Nodes    []devNode `json:"nodes"`
}

type devNode struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
	Data    string `json:"data"`
	Log     string `json:"log"`
}

func (s *devState) cluster() string {
	var list []string
	for _, n := range s.Nodes {
		list = append(list, n.Address)
	}
	return strings.Join(list, ",")
}

func (s *devState) bootstrap() string {
	var list []string
	for _, n := range s.Nodes {
		list = append(list, n.ID+"="+n.Address)
	}
	return strings.Join(list, ",")
}

func devStatePath(data string) string { return filepath.Join(data, "dev.json") }

func readDevState(data string) (*devState, error) {
	b, err := os.ReadFile(devStatePath(data))
	if err != nil {
		return nil, err
	}
	var s devState
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, errors.New(errors.KindCorrupt, "%s does not parse (%w); repair it, or use another --data", devStatePath(data), err)
	}
	if s.Version != devStateVersion {
		return nil, errors.New(errors.KindTooNew, "%s has version %d, this dfs knows %d; use the dfs that wrote it", devStatePath(data), s.Version, devStateVersion)
	}
	return &s, nil
}

func writeDevState(data string, s *devState) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	tmp := devStatePath(data) + ".new"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil {
		return errors.New(errors.KindOf(err), "writing %s: %w", tmp, err)
	}
	return os.Rename(tmp, devStatePath(data))
}

// mounts lists the further mounts (dfs dev mount) of a dev cluster: one file each.
func (s *devState) mounts(data string) []string {
	files, _ := filepath.Glob(filepath.Join(data, "mounts", "*"))
	var dirs []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil {
			dirs = append(dirs, strings.TrimSuffix(string(b), "\n"))
		}
	}
	return dirs
}

func mountRecord(data, dir string) string {
	return filepath.Join(data, "mounts", escapePath(dir))
}

func (s *devState) rememberMount(data, dir string) {
	_ = os.MkdirAll(filepath.Join(data, "mounts"), 0o755)
	_ = os.WriteFile(mountRecord(data, dir), []byte(dir+"\n"), 0o644)
}

func (s *devState) forgetMount(data, dir string) { _ = os.Remove(mountRecord(data, dir)) }

func devLockPath(data string) string { return filepath.Join(data, "dev.lock") }

// lockDev takes the supervisor's lock; KindBusy if another one lives.
func lockDev(data string) (*os.File, error) {
	f, err := os.OpenFile(devLockPath(data), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, errors.New(errors.KindOf(err), "the lock in %s: %w", data, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, errors.New(errors.KindBusy, "a dev cluster runs already on %s; stop it first: dfs dev stop --data %s", data, data)
	}
	return f, nil
}
