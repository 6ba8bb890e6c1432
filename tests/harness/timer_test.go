package harness

import (
	"strings"
	"testing"
	"time"
)

// TestUnderTimer: a call that the timer interrupts is told, as is one that fails otherwise.
func TestUnderTimer(t *testing.T) {
	for code, want := range map[string]string{
		`call("pause")`:                                      "pause: EINTR",
		`call("open", b"/no/one", 0)`:                        "open: ENOENT",
		`signal.setitimer(signal.ITIMER_REAL, 0); ticks = 0`: "no ticks",
		`nonsense`: "NameError",
	} {
		if out, err := UnderTimer(time.Millisecond, code); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v; want %q", code, out, err, want)
		}
	}
	out, err := UnderTimer(time.Millisecond, "\nwhile ticks == 0:\n    call(\"access\", sys.argv[1].encode(), 0)\nprint(\"seen\")\n", "/")
	if err != nil || out != "seen" {
		t.Errorf("%q, %v", out, err)
	}
}
