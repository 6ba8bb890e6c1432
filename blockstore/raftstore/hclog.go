package raftstore

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// raftLogger gives raft's log lines to slog. Raft's Info tells of every election and snapshot step,
// so it goes to Debug; warnings and errors keep their level.
type raftLogger struct {
	log  *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*raftLogger)(nil)

func newRaftLogger(l *slog.Logger, name string) hclog.Logger {
	return &raftLogger{log: l.With("part", name), name: name}
}

func (l *raftLogger) level(level hclog.Level) slog.Level {
	switch level {
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelDebug
}

func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	to := l.level(level)
	if !l.log.Enabled(context.Background(), to) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	l.log.Log(context.Background(), to, msg, args...)
}

func (l *raftLogger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *raftLogger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *raftLogger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *raftLogger) IsTrace() bool { return false }
func (l *raftLogger) IsDebug() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool  { return l.IsDebug() }
func (l *raftLogger) IsWarn() bool  { return l.log.Enabled(context.Background(), slog.LevelWarn) }
func (l *raftLogger) IsError() bool { return l.log.Enabled(context.Background(), slog.LevelError) }

func (l *raftLogger) ImpliedArgs() []any { return l.args }
func (l *raftLogger) With(args ...any) hclog.Logger {
	return &raftLogger{log: l.log.With(args...), name: l.name, args: append(append([]any(nil), l.args...), args...)}
}
func (l *raftLogger) Name() string                        { return l.name }
func (l *raftLogger) Named(name string) hclog.Logger      { return newRaftLogger(l.log, l.name+"."+name) }
func (l *raftLogger) ResetNamed(name string) hclog.Logger { return newRaftLogger(l.log, name) }
func (l *raftLogger) SetLevel(hclog.Level)                {}
func (l *raftLogger) GetLevel() hclog.Level               { return hclog.Debug }
func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.log.Handler(), slog.LevelDebug)
}
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(nil).Writer()
}
