package main

import (
	"os"

	"dfs/fuse"
)

// guardCommand is the word after which this program is a mount's guard: `dfs mount-guard DIR`. It is looked at before
// anything else is set up, because a guard should be small.
const guardCommand = "mount-guard"

// guardOf is the command line of the guard of a mount at dir, which is there for people who look at the process list.
func guardOf(dir string) []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	return []string{self, guardCommand, dir}
}

// runGuard waits for the death of the mount's process; started by hand it says so and ends.
func runGuard() {
	log, err := newLogger("info")
	if err != nil {
		return
	}
	if len(os.Args) > 2 {
		log = log.With("dir", os.Args[2])
	}
	fuse.Guard(log)
}
