package conformance

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"dfs/tests/harness"
)

// tool runs a program in dir, which must succeed, and returns what it wrote.
func tool(t *testing.T, dir string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GOFLAGS=-mod=mod", "GOWORK=off", "LC_ALL=C")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String()
}

// TestPrograms: real programs run on a mount.
func TestPrograms(t *testing.T) {
	c := harness.Start(t, harness.Options{})
	m := c.Mount()
	t.Run("go", func(t *testing.T) { goTree(t, m) })
	t.Run("sqlite", func(t *testing.T) { sqlite(t, m) })
	t.Run("rsync", func(t *testing.T) { rsync(t, m) })
	m.Sync()
	c.Check()
}

// goTree unpacks the Go source tree, compares every file by hash, builds a program from it, and keeps it in git.
func goTree(t *testing.T, m *harness.Mount) {
	root := runtime.GOROOT() //nolint:staticcheck // the go command tells every test of its GOROOT
	src := m.Path("go", "src")
	if err := os.MkdirAll(src, 0o755); err != nil {
		t.Fatal(err)
	}
	sh := func(script string, args ...string) string {
		return tool(t, m.Dir, "bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	}
	sh(`tar -C "$1" -cf - . | tar -C "$2" -xf -`, filepath.Join(root, "src"), src)
	hashes := `cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum`
	want := sh(hashes, filepath.Join(root, "src"))
	if got := sh(hashes, src); got != want {
		t.Error("the Go source tree reads back differently")
	}
	if n := strings.Count(want, "\n"); n < 5000 {
		t.Errorf("only %d files were compared", n)
	}

	git := func(args ...string) string {
		return tool(t, src, "git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "gc.auto=0"}, args...)...)
	}
	git("init", "-q", "-b", "main")
	git("add", "net", "os", "fmt", "io", "strings")
	git("commit", "-q", "-m", "first")
	if err := os.WriteFile(filepath.Join(src, "fmt", "print.go"), []byte("package fmt\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	git("commit", "-q", "-a", "-m", "second")
	git("checkout", "-q", "HEAD~1")
	git("gc", "-q")
	if out := git("fsck", "--full", "--strict"); strings.Contains(out, "error") || strings.Contains(out, "missing") {
		t.Errorf("git fsck: %s", out)
	}
	if out := git("status", "--porcelain", "-uno"); out != "" {
		t.Errorf("git status: %s", out)
	}

	// A program that takes a package of the tree on the mount, built and run there.
	prog := m.Path("prog")
	for name, text := range map[string]string{
		"go.mod":  "module prog\n\ngo 1.21\n",
		"main.go": "package main\n\nimport \"prog/heap\"\n\ntype ints []int\n\nfunc (s ints) Len() int { return len(s) }\nfunc (s ints) Less(i, j int) bool { return s[i] < s[j] }\nfunc (s ints) Swap(i, j int) { s[i], s[j] = s[j], s[i] }\nfunc (s *ints) Push(x any) { *s = append(*s, x.(int)) }\nfunc (s *ints) Pop() any { o := *s; x := o[len(o)-1]; *s = o[:len(o)-1]; return x }\n\nfunc main() {\n\th := &ints{5, 2, 8}\n\theap.Init(h)\n\tprintln(heap.Pop(h).(int))\n}\n",
	} {
		if err := os.MkdirAll(filepath.Join(prog, "heap"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(prog, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(`cp "$1/container/heap/heap.go" "$2/heap/"`, src, prog)
	tool(t, prog, filepath.Join(root, "bin", "go"), "build", "-o", "prog", ".")
	out, err := exec.Command(filepath.Join(prog, "prog")).CombinedOutput()
	if err != nil || string(out) != "2\n" {
		t.Errorf("the program says %q, %v", out, err)
	}
}

func sqlite(t *testing.T, m *harness.Mount) {
	for _, mode := range []string{"delete", "truncate", "persist", "wal"} {
		db := m.Path(mode + ".db")
		script := "pragma journal_mode=" + mode + `; pragma busy_timeout=20000;
create table t(id integer primary key, v text);
insert into t(v) with recursive n(i) as (select 1 union all select i+1 from n where i<3000) select hex(randomblob(100)) from n;
create index i on t(v);
begin; delete from t where id%3=0; rollback;
delete from t where id%5=0;
vacuum;
`
		tool(t, m.Dir, "sqlite3", db, script)
		// Several at once.
		cmds := make([]*exec.Cmd, 4)
		for i := range cmds {
			cmds[i] = exec.Command("sqlite3", db, "pragma busy_timeout=30000;"+strings.Repeat("insert into t(v) values(hex(randomblob(50)));", 25))
			if err := cmds[i].Start(); err != nil {
				t.Fatal(err)
			}
		}
		for _, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: a writer beside others: %v", mode, err)
			}
		}
		if got := tool(t, m.Dir, "sqlite3", db, "pragma integrity_check; select count(*) from t;"); got != "ok\n2500\n" {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

// rsync copies a tree with everything that a tree can have to the mount and back, comparing each time.
func rsync(t *testing.T, m *harness.Mount) {
	local := localDir(t)
	from, there, back := filepath.Join(local, "from"), m.Path("there"), filepath.Join(local, "back")
	tool(t, local, "bash", "-euc", `
mkdir from; cd from
mkdir -p a/b/c "with space" deep/$(printf 'n%.0s' $(seq 200))
for i in $(seq 200); do head -c $((i*i)) /dev/urandom > a/f$i; done
echo hello > a/b/hello; ln a/b/hello a/b/c/hard; ln -s ../b/hello a/b/soft; ln -s nowhere dangling
truncate -s 100M sparse; printf x | dd of=sparse bs=1 seek=50000000 conv=notrunc status=none
mkfifo fifo; mknod dev c 1 3; mknod blk b 7 9
printf 'ü\n' > $'odd \n name'
chmod 4755 a/f1; chmod 2755 a; chmod 1777 "with space"; chmod 000 a/f2; chown 1234:2345 a/f3; chown -h 5:6 dangling
setfattr -n user.note -v value a/f4; setfattr -n trusted.t -v x a/b
setfacl -m u:1111:rwx,g:2222:r a/f5; setfacl -d -m u:1111:rx a/b
find . -exec touch -h -d '2005-05-05 05:05:05.987654321' {} + # rsync leaves times that differ by less than a second
touch -d '1999-01-01 01:02:03.123456789' a/f6; touch -h -d '2001-01-01 00:00:00.5' a/b/soft; touch -d '2000-01-01' a/b`)
	check := func(a, b string) {
		t.Helper()
		if diff := tool(t, local, "rsync", "-aHAXScni", "--delete", a+"/", b+"/"); diff != "" {
			t.Errorf("%s and %s differ:\n%s", a, b, diff)
		}
		list := `cd "$1"; find . -type f -printf '%p %m %n %U %G %T@ %s\n' | sort; find . -type d -printf '%p %m %n %U %G %T@\n' | sort
find . -not -type f -not -type d -printf '%p %y %m %n %U %G %T@ %l %s\n' | sort; find . -type f -exec sha256sum {} + | sort
find . -not -type l -print0 | sort -z | xargs -0 getfacl -p --; find . -print0 | sort -z | xargs -0 getfattr -h -d -m - --; stat -c '%n %t:%T' dev blk`
		sh := func(dir string) string { return tool(t, local, "bash", "-euc", list, "bash", dir) }
		if x, y := sh(a), sh(b); x != y {
			t.Errorf("%s and %s are listed differently:\n%s", a, b, firstDiff(x, y))
		}
	}
	tool(t, local, "rsync", "-aHAXS", "--numeric-ids", from+"/", there+"/")
	check(from, there)
	tool(t, local, "rsync", "-aHAXS", "--numeric-ids", there+"/", back+"/")
	check(there, back)
	check(from, back)
}

// firstDiff is the first lines that differ.
func firstDiff(x, y string) string {
	a, b := strings.Split(x, "\n"), strings.Split(y, "\n")
	var out strings.Builder
	for i, n := 0, 0; i < max(len(a), len(b)) && n < 5; i++ {
		if at(a, i) != at(b, i) {
			out.WriteString("  " + at(a, i) + "\n  " + at(b, i) + "\n")
			n++
		}
	}
	return out.String()
}
