package hostile

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"dfs/tests/harness"
)

// times is n, or many where a long run was asked for.
func times(n, many int) int {
	if minutes, _ := strconv.Atoi(os.Getenv("DFS_SOAK_MINUTES")); minutes > 0 {
		return many
	}
	return n
}

// sh runs a script in a directory of a mount; its arguments are $1 and so on.
func sh(dir, script string, args ...string) (string, error) {
	cmd := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s%s", err, out, errs.String())
	}
	return string(out), err
}

// gitShared has a clone on each mount push to one repository, over and over.
func gitShared(t *testing.T, mounts []*harness.Mount) error {
	pushes := times(3, 30)
	repo := func(i int) string { return mounts[i].Path("git", "repo.git") }
	if _, err := sh(mounts[0].Path("git"), `git init -q --bare -b main repo.git
git clone -q repo.git first 2>/dev/null; cd first; git checkout -q -b main; echo 0 > start; git add start; git commit -q -m start; git push -q origin main`); err != nil {
		return err
	}
	var g errgroup.Group
	for i := range mounts {
		g.Go(func() error {
			_, err := sh(mounts[i].Path("git"), `git clone -q "$1" "work-$2"; cd "work-$2"
for n in $(seq "$3"); do
	echo "$2 $n" > "file-$2-$n"; echo "$2 $n" >> "log-$2"
	git add .; git commit -q -m "commit $2 $n"
	for try in $(seq 200); do
		git pull -q --rebase 2>/dev/null && git push -q 2>/dev/null && continue 2
		git rebase --abort 2>/dev/null || true
	done
	echo "commit $n was never pushed" >&2; exit 1
done`, repo(i), fmt.Sprint(i), fmt.Sprint(pushes))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range mounts {
		out, err := sh(repo(i), `git fsck --full --strict >&2; git log --format=%s main | sort`)
		if err != nil {
			return err
		}
		want := []string{"start"}
		for w := range mounts {
			for n := range pushes {
				want = append(want, fmt.Sprintf("commit %d %d", w, n+1))
			}
		}
		slices.Sort(want)
		if got := strings.Fields(out); !slices.Equal(got, strings.Fields(strings.Join(want, "\n"))) {
			return fmt.Errorf("through mount %d the repository has the commits\n%s", i, out)
		}
	}
	return nil
}

// sqliteShared has a process on each mount write to one database with a rollback journal.
func sqliteShared(t *testing.T, mounts []*harness.Mount) error {
	writes := times(12, 300)
	db := func(i int) string { return mounts[i].Path("sqlite", "db") }
	if _, err := sh("/", `sqlite3 -bail "$1" 'pragma journal_mode=delete; create table log(who, n, unique(who, n)); create table count(n); insert into count values(0)'`, db(0)); err != nil {
		return err
	}
	var g errgroup.Group
	for i := range mounts {
		g.Go(func() error {
			var s strings.Builder
			s.WriteString(".timeout 150000\npragma synchronous=full;\n")
			for n := range writes {
				fmt.Fprintf(&s, "begin immediate; insert into log values(%d, %d); update count set n = n + 1; commit;\n", i, n)
				if n%4 == 3 {
					s.WriteString("begin immediate; delete from log; update count set n = -1; rollback;\n")
				}
			}
			_, err := sh("/", `sqlite3 -bail "$1" <<<"$2"`, db(i), s.String())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range mounts {
		out, err := sh("/", `sqlite3 -bail "$1" '.timeout 100000' 'pragma integrity_check; select count(*), (select n from count) from log'`, db(i))
		if want := fmt.Sprintf("ok\n%d|%[1]d\n", writes*len(mounts)); err != nil || out != want {
			return fmt.Errorf("through mount %d the database says %q, want %q (%w)", i, out, want, err)
		}
	}
	return nil
}

// maildirShared has each mount deliver messages to one maildir and take messages out of it, as mail programs do without any lock.
func maildirShared(t *testing.T, mounts []*harness.Mount) error {
	messages := times(25, 500)
	for _, d := range []string{"tmp", "new", "cur"} {
		if err := os.Mkdir(mounts[0].Path("maildir", d), 0o777); err != nil {
			return err
		}
	}
	var taken atomic.Int64
	total := int64(messages * len(mounts))
	var g errgroup.Group
	for i, m := range mounts {
		g.Go(func() error { return deliver(m.Path("maildir"), i, messages) })
		g.Go(func() error { return takeMail(m.Path("maildir"), i, &taken, total) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if n := taken.Load(); n != total {
		return fmt.Errorf("%d of %d messages were taken", n, total)
	}
	for i, m := range mounts {
		for dir, want := range map[string]int{"tmp": 0, "new": 0, "cur": int(total)} {
			list, err := os.ReadDir(m.Path("maildir", dir))
			if err != nil {
				return err
			}
			if len(list) != want {
				return fmt.Errorf("through mount %d %s lists %d messages, want %d: %s", i, dir, len(list), want, everywhere(mounts, list))
			}
		}
	}
	return nil
}

// everywhere tells where the first of some messages is to be found, through each mount.
func everywhere(mounts []*harness.Mount, list []fs.DirEntry) string {
	var out strings.Builder
	for i, m := range mounts {
		for _, dir := range []string{"tmp", "new", "cur"} {
			for _, e := range list[:min(len(list), 3)] {
				if st, err := os.Lstat(m.Path("maildir", dir, e.Name())); err == nil {
					sys := st.Sys().(*syscall.Stat_t)
					fmt.Fprintf(&out, "\nmount %d: %s/%s inode %d, %d links", i, dir, e.Name(), sys.Ino, sys.Nlink)
				}
			}
		}
	}
	return out.String()
}

func message(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return fmt.Appendf(nil, "%s\n%x\n%s", name, sum, bytes.Repeat(sum[:], 100))
}

// deliver writes each message whole to tmp, then moves it to new, by a rename or by a link.
func deliver(dir string, who, messages int) error {
	for n := range messages {
		name := fmt.Sprintf("%d.%d", who, n)
		tmp, to := filepath.Join(dir, "tmp", name), filepath.Join(dir, "new", name)
		f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(message(name))
		if err == nil {
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil && n%2 == 0 {
			err = os.Rename(tmp, to)
		} else if err == nil {
			if err = os.Link(tmp, to); err == nil {
				err = os.Remove(tmp)
			}
		}
		if err != nil {
			return fmt.Errorf("delivering %s: %w", name, err)
		}
	}
	return nil
}

// takeMail moves messages from new to cur; who moved it reads it. Each taker has target names of its own: where old and new name lead to
// one file, the kernel answers a rename by itself, and it may have looked the old name up before another's rename and the new one after.
func takeMail(dir string, who int, taken *atomic.Int64, total int64) error {
	for end := time.Now().Add(patience); taken.Load() < total; {
		list, err := os.ReadDir(filepath.Join(dir, "new"))
		if err != nil {
			return err
		}
		if len(list) == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		for _, e := range list {
			cur := filepath.Join(dir, "cur", fmt.Sprintf("%s:2,%d", e.Name(), who))
			err := os.Rename(filepath.Join(dir, "new", e.Name()), cur)
			if errors.Is(err, fs.ErrNotExist) {
				continue // another was first
			}
			if err != nil {
				return fmt.Errorf("mount %d takes %s: %w", who, e.Name(), err)
			}
			taken.Add(1)
			if got, err := os.ReadFile(cur); err != nil || !bytes.Equal(got, message(e.Name())) {
				return fmt.Errorf("mount %d reads message %s: %d bytes, %w", who, e.Name(), len(got), err)
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("mount %d waits for %d messages in vain", who, total-taken.Load())
		}
	}
	return nil
}
