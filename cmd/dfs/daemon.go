package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"dfs/internal/errors"
)

// A command that goes to the background starts itself again with
// readyVariable set to the number of a pipe's descriptor, and waits there for one line: "ready" and
// text to show, or "failed", the exit code and the error.
const readyVariable = "DFS_READY_FD"

// background starts `dfs args…` as a daemon (its own session, output appended to logFile) and
// waits until it says that it is ready, showing what it says.
func background(ctx context.Context, args []string, logFile string, out io.Writer) error {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return errors.New(errors.KindOf(err), "the log's directory: %w", err)
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return errors.New(errors.KindOf(err), "opening the log: %w", err)
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return errors.New(errors.KindIO, "making a pipe: %w", err)
	}
	defer r.Close()
	self, err := os.Executable()
	if err != nil {
		return errors.New(errors.KindIO, "finding this program: %w", err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = os.Args[0] // mount.dfs stays what it is
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(os.Environ(), readyVariable+"=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return errors.New(errors.KindIO, "starting %s: %w", self, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	answer, _ := io.ReadAll(bufio.NewReader(r))
	if ctx.Err() != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return errors.New(errors.KindInterrupted, "interrupted while starting; the log is %s", logFile)
	}
	word, text, _ := strings.Cut(string(answer), "\n")
	switch word {
	case "ready":
		_, err := io.WriteString(out, text)
		return err
	case "failed":
		code, text, _ := strings.Cut(text, "\n")
		failed := &childError{code: exitFailed, text: strings.TrimSpace(text)}
		if n, err := strconv.Atoi(code); err == nil {
			failed.code = n
		}
		return failed
	}
	_ = cmd.Wait()
	return errors.New(errors.KindIO, "the background process ended before it was ready (%s); see its log: %s", cmd.ProcessState, logFile)
}

// childError is the error of a process in the background, with the exit code it stands for.
type childError struct {
	code int
	text string
}

func (e *childError) Error() string { return e.text }

// readiness reports to whoever started this process in the background.
type readiness struct{ pipe *os.File }

// newReadiness takes the pipe that the starter left, if there is one.
func newReadiness() *readiness {
	if os.Getenv(readyVariable) == "" {
		return &readiness{}
	}
	_ = os.Unsetenv(readyVariable)
	syscall.CloseOnExec(3)
	return &readiness{pipe: os.NewFile(3, "ready")}
}

// daemon tells whether somebody waits for this process to get ready.
func (r *readiness) daemon() bool { return r.pipe != nil }

// ready says that all is up; text is shown to the user.
func (r *readiness) ready(text string) { r.say("ready\n" + text) }

// failed passes err on (if not ready yet) and returns it.
func (r *readiness) failed(err error) error {
	if err != nil {
		r.say(fmt.Sprintf("failed\n%d\n%v", exitCode(err), err))
	}
	return err
}

func (r *readiness) say(s string) {
	if r.pipe == nil {
		return
	}
	_, _ = io.WriteString(r.pipe, s)
	_ = r.pipe.Close()
	r.pipe = nil
}

// newLogger logs text to standard error at the level named (debug, info, warn, error).
func newLogger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usageError{fmt.Errorf("--log-level %q: want debug, info, warn or error", level)}
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
