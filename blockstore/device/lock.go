package device

import (
	stderrors "errors"
	"os"
	"strconv"
	"strings"
)

func pidText(b []byte) string {
	s := strings.TrimSpace(string(b))
	if _, err := strconv.Atoi(s); err != nil {
		return "(unknown)"
	}
	return s
}

// writePID puts this process's number into the lock file; f is closed on error.
func writePID(f *os.File) error {
	err := f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return stderrors.Join(err, f.Close())
	}
	return nil
}
