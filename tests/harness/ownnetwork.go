package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// ownNetworkVar is set in the environment of a test process that has a network of its own.
const ownNetworkVar = "DFS_TEST_OWN_NETWORK"

// MainInOwnNetwork is Main in a network namespace of its own, in which only loopback is: where a package's tests rest on ports that the command chooses, no other
// package's clusters, and nothing else on the machine, has them.
func MainInOwnNetwork(m *testing.M) {
	if os.Getenv(ownNetworkVar) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "the network of these tests: ip link set lo up: %v: %s\n", err, out)
			os.Exit(1)
		}
		Main(m)
		return
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.Env = append(os.Environ(), ownNetworkVar+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended) && ended.ExitCode() >= 0:
		os.Exit(ended.ExitCode())
	case err != nil:
		fmt.Fprintf(os.Stderr, "the tests in a network of their own: %v\n", err)
		os.Exit(1)
	}
}
