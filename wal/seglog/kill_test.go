package seglog

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

const killDirEnv = "SEGLOG_KILL_DIR"

// TestMain lets the test binary be the process that TestKilledProcess kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		killChild(dir)
	}
	os.Exit(m.Run())
}

// killChild appends and truncates for ever, and prints what was acknowledged:
// the first and the last index.
func killChild(dir string) {
	l, err := Open(dir, small())
	for err == nil {
		next, n := l.Last()+1, uint64(rand.IntN(10))
		var es []Entry
		for i := next; i <= next+n; i++ {
			es = append(es, Entry{Index: i, Data: payload(i, 1, int(i*97%6000))})
		}
		if err = l.Append(es); err != nil {
			break
		}
		fmt.Println(l.First(), next+n)
		if l.Last()-l.First() < 30 {
			continue
		}
		switch rand.IntN(20) {
		case 0:
			err = l.TruncateFront(l.Last() - 20)
		case 1:
			fmt.Println(l.First(), l.Last()-3) // from here on only that much is promised
			err = l.TruncateBack(l.Last() - 2)
		}
	}
	fmt.Fprintln(os.Stderr, "child:", err)
	os.Exit(1)
}

// TestKilledProcess kills a process that writes real files, and looks for what it acknowledged.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	for round := range 6 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killDirEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(100+37*round)*time.Millisecond, func() { _ = cmd.Process.Kill() })
		var first, last uint64
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if _, err := fmt.Sscan(sc.Text(), &first, &last); err != nil {
				break // half a line
			}
		}
		timer.Stop()
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the child ended by itself: %v", err)
		}
		l := mustOpen(t, dir, small())
		if l.Last() < last || (last > 0 && l.First() < first) {
			t.Fatalf("round %d: the log holds %d..%d, acknowledged were %d..%d", round, l.First(), l.Last(), first, last)
		}
		for i := l.First(); i != 0 && i <= l.Last(); i++ {
			check(t, l, i, i, 1, int(i*97%6000))
		}
		l.Close()
	}
}
