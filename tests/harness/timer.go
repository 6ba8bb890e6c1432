package harness

import (
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// UnderTimer runs Python code in a process to which a timer sends a signal again and again, whose handler does not ask for calls to be
// restarted: on a local file system no call fails with EINTR for that. (From Go that is hard to get, and Python has no such handler
// of its own.) The code makes C's calls by call(name, …), which ends the process with the error's name if one fails; its arguments are in
// sys.argv[1:], and ticks counts the signals whose handler ran. It returns what was printed; with an error, if a call failed or no signal came.
func UnderTimer(every time.Duration, code string, args ...string) (string, error) {
	script := fmt.Sprintf(`
import ctypes, errno, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
ticks = 0
def tick(*a):
    global ticks
    ticks += 1
def call(name, *args):
    ctypes.set_errno(0)
    r = getattr(libc, name)(*args)
    if r < 0:
        e = ctypes.get_errno()
        sys.exit(name + ": " + errno.errorcode.get(e, str(e)))
    return r
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, %[1]f, %[1]f)
%[2]s
signal.setitimer(signal.ITIMER_REAL, 0)
sys.exit(0 if ticks > 0 else "no ticks")
`, every.Seconds(), strings.TrimSpace(code))
	b, err := exec.Command("python3", append([]string{"-c", script}, args...)...).CombinedOutput()
	out := strings.TrimSpace(string(b))
	if err != nil {
		return out, fmt.Errorf("%s: %w", out, err)
	}
	return out, nil
}
