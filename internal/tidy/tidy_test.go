package tidy

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The limits, in lines. Functions of test files are not measured: they may be long lists of cases.
const (
	fileLinesMax     = 500
	testFileLinesMax = 1000
	funcLinesMax     = 60
)

const root = "../.."

// source is one Go file of the tree.
type source struct {
	path      string // from the root
	text      string
	fset      *token.FileSet
	file      *ast.File
	test      bool
	generated bool
}

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var list []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // another test's temporary file
			}
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "mnt") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := source{text: string(b), fset: token.NewFileSet(), test: strings.HasSuffix(name, "_test.go")}
		if s.path, err = filepath.Rel(root, path); err != nil {
			return err
		}
		if s.file, err = parser.ParseFile(s.fset, path, b, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return err
		}
		s.generated = ast.IsGenerated(s.file)
		list = append(list, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 100 {
		t.Fatalf("only %d Go files found: this test looks in the wrong place", len(list))
	}
	return list
}

// tooLong maps what exceeds its limit to its lines: "path" or "path func".
func tooLong(list []source) map[string]int {
	long := map[string]int{}
	for _, s := range list {
		if s.generated {
			continue
		}
		if n := strings.Count(s.text, "\n"); n > limitOf(s.path) {
			long[s.path] = n
		}
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
			if n > funcLinesMax {
				long[s.path+" "+f.Name.Name] = n
			}
		}
	}
	return long
}

const allowanceFile = "testdata/allowance.txt"

func readAllowance(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open(allowanceFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	allowed := map[string]int{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		number, what, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%s: %q does not begin with a number of lines", allowanceFile, line)
		}
		allowed[what] = n
	}
	return allowed
}

// TestLengths: nothing grows beyond its limit, or beyond what is allowed to it; what has
// shrunk lowers its allowance. UPDATE=1 writes the allowance anew, and only downwards.
func TestLengths(t *testing.T) {
	long, allowed := tooLong(sources(t)), readAllowance(t)
	for what, n := range long {
		if n > allowed[what] {
			t.Errorf("%s has %d lines, %d are allowed: split it", what, n, max(allowed[what], limitOf(what)))
		}
	}
	next := map[string]int{}
	for what, n := range allowed {
		if now := min(n, long[what]); now > 0 {
			next[what] = now
		}
		if long[what] < n {
			t.Logf("%s needs %d lines, %d are allowed: lower it in %s (UPDATE=1 go test ./internal/tidy)", what, long[what], n, allowanceFile)
		}
	}
	if os.Getenv("UPDATE") != "" {
		writeAllowance(t, next)
	}
}

func limitOf(what string) int {
	switch {
	case strings.Contains(what, " "):
		return funcLinesMax
	case strings.HasSuffix(what, "_test.go"):
		return testFileLinesMax
	}
	return fileLinesMax
}

func writeAllowance(t *testing.T, allowed map[string]int) {
	t.Helper()
	var b strings.Builder
	b.WriteString("# Files over 500 lines (tests: 1000) and functions over 60, with the lines that each may have. Numbers only go down.\n")
	var names []string
	for what := range allowed {
		names = append(names, what)
	}
	slices.Sort(names)
	for _, what := range names {
		fmt.Fprintf(&b, "%d %s\n", allowed[what], what)
	}
	if err := os.WriteFile(allowanceFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestComments(t *testing.T) {
	documented := map[string]bool{} // directory -> has a package comment
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		if !s.test || s.file.Doc != nil {
			documented[dir] = documented[dir] || s.file.Doc != nil
		}
		if s.test || s.generated {
			continue
		}
		for _, d := range s.file.Decls {
			for _, name := range undocumented(d) {
				t.Errorf("%s: exported %s has no comment", s.fset.Position(d.Pos()), name)
			}
		}
	}
	for dir, ok := range documented {
		if !ok && !strings.HasPrefix(dir, "internal/wire/") {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

// undocumented lists the exported names that d declares without a comment.
func undocumented(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() && d.Doc == nil && (d.Recv == nil || receiverExported(d)) && !trivialMethod(d) && !answersRPC(d) {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() && d.Doc == nil && spec.Doc == nil {
					names = append(names, spec.Name.Name)
				}
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					if n.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
						names = append(names, n.Name)
					}
				}
			}
		}
	}
	return names
}

func receiverExported(d *ast.FuncDecl) bool {
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// trivialMethod: methods whose meaning the standard library fixes.
func trivialMethod(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	switch d.Name.Name {
	case "Error", "String", "Unwrap", "Is", "Len", "Less", "Swap":
		return true
	}
	return false
}

// answersRPC: a method that takes a wire message is told of in the .proto file of its service.
func answersRPC(d *ast.FuncDecl) bool {
	for _, p := range d.Type.Params.List {
		star, ok := p.Type.(*ast.StarExpr)
		if !ok {
			continue
		}
		if sel, ok := star.X.(*ast.SelectorExpr); ok {
			if pkg, ok := sel.X.(*ast.Ident); ok && d.Recv != nil && strings.HasSuffix(pkg.Name, "pb") {
				return true
			}
		}
	}
	return false
}

// Words that must not stand in the tree. They are put together here, so that this file does not hold them.
var (
	leftUndone = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b`)
	elsewhere  = regexp.MustCompile(`(^|[\s"'(=])/(work|root|home/[a-z]+)/`)
)

func TestNothingLeftUndone(t *testing.T) {
	for _, s := range sources(t) {
		if s.generated {
			continue
		}
		for i, line := range strings.Split(s.text, "\n") {
			if leftUndone.MatchString(line) {
				t.Errorf("%s:%d: work left undone: %s", s.path, i+1, strings.TrimSpace(line))
			}
		}
	}
}

// TestNoMachine: neither code nor documents name directories of the machine they were written on.
func TestNoMachine(t *testing.T) {
	check := func(path, text string) {
		for i, line := range strings.Split(text, "\n") {
			if elsewhere.MatchString(line) {
				t.Errorf("%s:%d names a directory of somebody's machine: %s", path, i+1, strings.TrimSpace(line))
			}
		}
	}
	for _, s := range sources(t) {
		check(s.path, s.text)
	}
	for path, text := range documents(t, "*.md", "docs/*.md", "docs/*/*.md", "Makefile", "scripts/*") {
		check(path, text)
	}
}

// documents reads what patterns from the root match.
func documents(t *testing.T, patterns ...string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			texts[p] = string(b)
		}
	}
	if len(texts) == 0 {
		t.Fatalf("nothing is like %q", patterns)
	}
	return texts
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// TestLinks: what a document links to inside the tree is there.
func TestLinks(t *testing.T) {
	for p, text := range documents(t, "*.md", "docs/*.md", "docs/*/*.md") {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(p), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", p, m[1])
			}
		}
	}
}
