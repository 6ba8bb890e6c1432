package fuse

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"dfs/internal/errors"
)

// TestFusermountOptions: every flag of a mount reaches fusermount3, or the mount is refused.
func TestFusermountOptions(t *testing.T) {
	for _, o := range kernelOptions {
		words, err := fusermountOptions(Options{MountFlags: o.flag}, false)
		switch {
		case o.users && (err != nil || !strings.Contains(","+words+",", ","+o.word+",")):
			t.Errorf("%s: %q %v", o.word, words, err)
		case !o.users && (!errors.Is(err, errors.KindInvalid) || !strings.Contains(err.Error(), o.word)):
			t.Errorf("%s is not refused by name: %q %v", o.word, words, err)
		}
	}
	if words, err := fusermountOptions(Options{MountFlags: unix.MS_RDONLY | unix.MS_NOSYMFOLLOW}, false); err == nil {
		t.Errorf("a flag without a word is dropped: %q", words)
	}
	for _, may := range []bool{true, false} {
		if words, err := fusermountOptions(Options{Source: "a:1,b:2"}, may); err != nil || strings.Contains(words, "allow_other") != may || !strings.Contains(words, `a:1\,b:2`) {
			t.Errorf("allow_other %v: %q %v", may, words, err)
		}
	}
}
