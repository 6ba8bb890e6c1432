package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestMountFileNames: no two mount points share a file, and the plain ones keep names that people recognise.
func TestMountFileNames(t *testing.T) {
	long := "/" + strings.Repeat("much-too-long/", 40)
	of := map[string]string{}
	for _, dir := range []string{"/", "/-", "/a/b", "/a-b", "/a/-b", "/a-/b", "/a//b-", `/a\x2db`, `/a\b`, "/a%b", "/ü", long + "a", long + "b", long + "a-b", long + "a/b"} {
		name := mountFileName(dir, ".json")
		if other, taken := of[name]; taken {
			t.Errorf("%s and %s are both %s", dir, other, name)
		}
		of[name] = dir
		if filepath.Base(name) != name || len(name) > 255 {
			t.Errorf("%s: %q is no file name", dir, name)
		}
	}
	for dir, want := range map[string]string{"/mnt/dfs": "mount-mnt-dfs.log", "/mnt/my-files": `mount-mnt-my\x2dfiles.log`, "/": "mount-.log"} {
		if got := mountFileName(dir, ".log"); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}

// TestDevMounts: the list of further mounts keeps those apart whose names look alike.
func TestDevMounts(t *testing.T) {
	data := t.TempDir()
	var s devState
	dirs := []string{"/a-b", "/a/b", "/c "}
	for _, dir := range dirs {
		s.rememberMount(data, dir)
	}
	list := strings.Join(s.mounts(data), "|")
	for _, dir := range dirs {
		if !strings.Contains("|"+list+"|", "|"+dir+"|") {
			t.Errorf("%q is not in the list %q", dir, list)
		}
	}
	s.forgetMount(data, "/a/b")
	if list := s.mounts(data); len(list) != 2 {
		t.Errorf("without one of them: %q", list)
	}
}
