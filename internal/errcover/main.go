// Command errcover lists the places where an error is made or passed on and that no test has reached: in
// the packages given, every statement that returns an error other than nil, held against a coverage profile.
//
//	go test -coverpkg=./wal/...,./blockstore/... -coverprofile=cover.out ./wal/... ./blockstore/...
//	go run ./internal/errcover cover.out ./wal ./wal/seglog ./blockstore ./blockstore/device ./blockstore/raftstore ./blockstore/blockrpc
//
// It prints the counts for each package and, with -list, the places.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// block is a line of a coverage profile: the statements between two positions were reached or not.
type block struct {
	fromLine, fromCol, toLine, toCol int
	reached                          bool
}

// place is a statement that returns an error.
type place struct {
	pos     token.Position
	text    string
	makes   bool // it makes the error, or adds to it; else it passes one on
	reached bool
}

func main() {
	list := flag.Bool("list", false, "print every place that no test has reached")
	flag.Parse()
	if flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "errcover: give a coverage profile and the directories of the packages")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Args()[1:], *list); err != nil {
		fmt.Fprintln(os.Stderr, "errcover:", err)
		os.Exit(1)
	}
}

func run(profile string, dirs []string, list bool) error {
	blocks, err := readProfile(profile)
	if err != nil {
		return err
	}
	var all, allReached, made, madeReached int
	for _, dir := range dirs {
		places, err := placesIn(dir)
		if err != nil {
			return err
		}
		n, reached := 0, 0
		for _, p := range places {
			p.reached = covered(blocks[filepath.ToSlash(filepath.Clean(p.pos.Filename))], p.pos)
			n++
			if p.makes {
				made++
			}
			if p.reached {
				reached++
				if p.makes {
					madeReached++
				}
			} else if list {
				kind := "passes on"
				if p.makes {
					kind = "makes"
				}
				fmt.Printf("%s:%d: %-9s %s\n", p.pos.Filename, p.pos.Line, kind, p.text)
			}
		}
		all, allReached = all+n, allReached+reached
		fmt.Printf("%-28s %4d returns of errors, %4d reached (%.0f%%)\n", dir, n, reached, percent(reached, n))
	}
	fmt.Printf("%-28s %4d returns of errors, %4d reached (%.0f%%); of those that make one, %d of %d (%.0f%%)\n", "all", all, allReached, percent(allReached, all), madeReached, made, percent(madeReached, made))
	return nil
}

func percent(n, of int) float64 {
	if of == 0 {
		return 100
	}
	return 100 * float64(n) / float64(of)
}

// readProfile reads a profile of `go test`; the paths lose the module's name.
func readProfile(path string) (map[string][]block, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at := map[string][]block{}
	in := bufio.NewScanner(f)
	for in.Scan() {
		name, rest, ok := strings.Cut(in.Text(), ":")
		if !ok || name == "mode" {
			continue
		}
		var b block
		var statements, count int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &b.fromLine, &b.fromCol, &b.toLine, &b.toCol, &statements, &count); err != nil {
			return nil, fmt.Errorf("%s: line %s: %w", path, strconv.Quote(in.Text()), err)
		}
		b.reached = count > 0
		_, name, _ = strings.Cut(name, "/")
		at[name] = append(at[name], b)
	}
	return at, in.Err()
}

func covered(blocks []block, p token.Position) bool {
	for _, b := range blocks {
		after := p.Line > b.fromLine || p.Line == b.fromLine && p.Column >= b.fromCol
		before := p.Line < b.toLine || p.Line == b.toLine && p.Column <= b.toCol
		if after && before && b.reached {
			return true
		}
	}
	return false
}

// placesIn lists the returns of errors of the package in dir.
func placesIn(dir string) ([]place, error) {
	fset := token.NewFileSet()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []place
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		src, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(fset, path, src, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				list = append(list, returnsOf(fset, src, fn.Type, fn.Body)...)
			}
		}
	}
	return list, nil
}

// returnsOf lists the returns of errors in a function and in those written in it.
func returnsOf(fset *token.FileSet, src []byte, typ *ast.FuncType, body *ast.BlockStmt) (list []place) {
	at := -1 // which result is the error
	if typ.Results != nil {
		n := 0
		for _, f := range typ.Results.List {
			n += max(1, len(f.Names))
		}
		if id, ok := typ.Results.List[len(typ.Results.List)-1].Type.(*ast.Ident); ok && id.Name == "error" {
			at = n - 1
		}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			list = append(list, returnsOf(fset, src, n.Type, n.Body)...)
			return false
		case *ast.ReturnStmt:
			if at < 0 || at >= len(n.Results) {
				return true
			}
			if p, ok := errorPlace(n.Results[at]); ok {
				p.pos = fset.Position(n.Pos())
				text := string(src[fset.Position(n.Pos()).Offset:fset.Position(n.End()).Offset])
				p.text, _, _ = strings.Cut(text, "\n")
				list = append(list, p)
			}
		}
		return true
	})
	return list
}

// errorPlace tells whether an expression is an error for sure: one that is made here, or a variable. A
// call of another function (return f()) may succeed and says nothing.
func errorPlace(e ast.Expr) (place, bool) {
	switch e := e.(type) {
	case *ast.Ident:
		return place{}, e.Name != "nil"
	case *ast.UnaryExpr: // &SomeError{…}
		return place{makes: true}, e.Op == token.AND
	case *ast.CallExpr:
		sel, ok := e.Fun.(*ast.SelectorExpr)
		if !ok {
			return place{}, false
		}
		pkg, ok := sel.X.(*ast.Ident)
		return place{makes: true}, ok && (pkg.Name == "errors" || pkg.Name == "fmt") && (sel.Sel.Name == "New" || sel.Sel.Name == "Errorf")
	}
	return place{}, false
}
