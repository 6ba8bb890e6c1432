package tidy

import (
	"go/ast"
	"path"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest   = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	namedFile   = regexp.MustCompile("`([\\w/]+\\.go)`")
	aside       = regexp.MustCompile("\\([^)]*\\)|`[^`]*`") // of the place of a guard: files, and what is said beside
	namedFunc   = regexp.MustCompile(`\w+`)
	guardsTitle = "| guard | where |"
)

// named is what documents name of the tree.
type named struct {
	files map[string]bool    // paths from the root
	funcs map[[2]string]bool // directory and name
	tests map[string]bool
}

func namesOf(list []source) *named {
	n := &named{files: map[string]bool{}, funcs: map[[2]string]bool{}, tests: map[string]bool{}}
	for _, s := range list {
		n.files[s.path] = true
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				n.funcs[[2]string{path.Dir(s.path), f.Name.Name}] = true
				n.tests[f.Name.Name] = n.tests[f.Name.Name] || s.test && f.Recv == nil
			}
		}
	}
	return n
}

// stale lists what a text names that is not there: tests, and the functions and files where the guards of a table are. A row that names
// no file is of the package of the row before.
func (n *named) stale(text string) (list []string) {
	for _, name := range namedTest.FindAllString(text, -1) {
		if !n.tests[name] {
			list = append(list, name)
		}
	}
	var dirs []string
	_, table, _ := strings.Cut(text, guardsTitle)
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") {
			if len(strings.TrimSpace(line)) == 0 {
				break
			}
			continue // what is left of the title
		}
		cells := strings.Split(line, "|")
		if len(cells) < 3 || strings.HasPrefix(strings.TrimSpace(cells[2]), "---") {
			continue
		}
		if files := namedFile.FindAllStringSubmatch(cells[2], -1); len(files) > 0 {
			dirs = nil
			for _, f := range files {
				found := n.dirsOf(f[1])
				if len(found) == 0 {
					list = append(list, f[1])
				}
				dirs = append(dirs, found...)
			}
		}
		for _, name := range namedFunc.FindAllString(aside.ReplaceAllString(cells[2], ""), -1) {
			there := false
			for _, dir := range dirs {
				there = there || n.funcs[[2]string{dir, name}]
			}
			if !there {
				list = append(list, name)
			}
		}
	}
	return list
}

// dirsOf finds the directories of the files that end in name.
func (n *named) dirsOf(name string) (dirs []string) {
	for p := range n.files {
		if p == name || strings.HasSuffix(p, "/"+name) {
			dirs = append(dirs, path.Dir(p))
		}
	}
	return dirs
}

// TestNamed: the tests that documents name are there, and the functions where guards are said to be.
func TestNamed(t *testing.T) {
	n := namesOf(sources(t))
	for p, text := range documents(t, "docs/*.md", "docs/*/*.md", "spec/*.md") {
		for _, name := range n.stale(text) {
			t.Errorf("%s names %s, which is not there", p, name)
		}
	}
	const title = "| guard | where | test |\n| --- | --- | --- |\n"
	for text, want := range map[string]string{
		"as `TestNamed` and TestGone say": "TestGone",
		title + "| a | `tidy/named_test.go` namesOf, dirsOf (met in passing) | TestNamed |\n| **b** | | |\n| c | stale | TestNamed |\n\nd | gone": "",
		title + "| a | `tidy/gone_test.go` |\n":                        "tidy/gone_test.go",
		title + "| a | `tidy/named_test.go` namesOf |\n| b | gone |\n": "gone",
	} {
		if got := strings.Join(n.stale(text), " "); got != want {
			t.Errorf("%q: %q is stale, want %q", text, got, want)
		}
	}
}
