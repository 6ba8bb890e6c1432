package errors

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestKindNumbers pins the number of every kind, as it travels: testdata/kinds.txt. A new kind is a new line there; a line never changes.
func TestKindNumbers(t *testing.T) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	conf := types.Config{Error: func(error) {}} // imports are not looked for: the constants need none
	pkg, _ := conf.Check("errors", files, []*ast.File{file}, nil)
	type kind struct {
		name   string
		number uint64
	}
	var kinds []kind
	for _, name := range pkg.Scope().Names() {
		if c, ok := pkg.Scope().Lookup(name).(*types.Const); ok && c.Type().String() == "errors.Kind" {
			n, exact := constant.Uint64Val(c.Val())
			if !exact {
				t.Fatalf("%s is no number: %v", name, c.Val())
			}
			kinds = append(kinds, kind{name, n})
		}
	}
	slices.SortFunc(kinds, func(a, b kind) int { return cmp.Compare(a.number, b.number) })
	var s strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&s, "%d %s\n", k.number, k.name)
	}
	want, err := os.ReadFile("testdata/kinds.txt")
	if err != nil {
		t.Fatal(err)
	}
	if s.String() != string(want) {
		t.Errorf("the kinds are not those of testdata/kinds.txt; nodes and mounts of other versions take each number for what it was:\n%swant\n%s", s.String(), want)
	}
}
