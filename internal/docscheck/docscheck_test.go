package docscheck

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the module's root, seen from this folder.
const root = "../.."

var (
	// reference finds `folder/file.go: Name`, also without the blank and with
	// a method as Type.Method or (*Type).Method; the name may be missing.
	reference = regexp.MustCompile(`([\w./-]+\.go)(?::\s*\(?\*?([A-Za-z_]\w*)\)?(?:\.([A-Za-z_]\w*))?)?`)
	// link finds the target of a Markdown link.
	link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	// makeCommand finds `make target` in code, with assignments before or
	// after the target.
	makeCommand = regexp.MustCompile("(?m)(?:^[ \\t]*(?:[$] )?|[;&|] *|`)make((?:[ \\t]+[\\w./=:-]+)+)")
	// fence finds blocks of code.
	fence = regexp.MustCompile("(?s)```.*?```")
	// indented finds lines of code that are indented by four.
	indented = regexp.MustCompile(`(?m)^(?:    |\t).*$`)
	// span finds code within a line.
	span = regexp.MustCompile("`[^`\n]+`")
	// target finds the targets of the Makefile.
	target = regexp.MustCompile(`(?m)^([A-Za-z0-9_-]+):(?:[^=]|$)`)
)

// TestReferences: every Go file that a document names exists and declares what
// the document says it does.
func TestReferences(t *testing.T) {
	t.Parallel()
	for _, doc := range documents(t) {
		// A figure of history may name what is gone.
		if strings.HasPrefix(doc, "docs/adr/") || doc == "CHANGELOG.md" {
			continue
		}
		for _, ref := range reference.FindAllStringSubmatch(read(t, doc), -1) {
			checkReference(t, doc, ref[1], ref[2], ref[3])
		}
	}
}

func checkReference(t *testing.T, doc, file, name, method string) {
	t.Helper()
	found := locate(t, doc, file)
	if len(found) == 0 {
		t.Errorf("%s names %s, which does not exist", doc, file)
		return
	}
	if name == "" {
		return
	}
	for _, f := range found {
		if declares(t, f, name, method) {
			return
		}
	}
	if method != "" {
		name += "." + method
	}
	t.Errorf("%s names %s in %s, which does not declare it", doc, name, file)
}

// locate returns the files that a document can mean: a path from the root or
// from the document, or the end of a path where that says it all.
func locate(t *testing.T, doc, file string) []string {
	t.Helper()
	for _, base := range []string{"", path.Dir(doc)} {
		p := path.Join(base, file)
		if _, err := os.Stat(filepath.Join(root, p)); err == nil {
			return []string{p}
		}
	}
	var found []string
	for _, f := range goFiles(t) {
		if strings.HasSuffix(f, "/"+file) {
			found = append(found, f)
		}
	}
	return found
}

// declares reports whether a file declares name, or the method of the type.
func declares(t *testing.T, file, name, method string) bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			receiver := receiverOf(d)
			if method == "" && d.Name.Name == name || receiver == name && d.Name.Name == method {
				return true
			}
		case *ast.GenDecl:
			if slices.ContainsFunc(d.Specs, func(s ast.Spec) bool { return specifies(s, name, method) }) {
				return true
			}
		}
	}
	return false
}

// specifies reports whether a type, constant or variable has the name. For a
// type, member is one of its fields or interface methods, if any.
func specifies(s ast.Spec, name, member string) bool {
	switch s := s.(type) {
	case *ast.TypeSpec:
		return s.Name.Name == name && (member == "" || hasMember(s.Type, member))
	case *ast.ValueSpec:
		return member == "" && slices.ContainsFunc(s.Names, func(n *ast.Ident) bool { return n.Name == name })
	default:
		return false
	}
}

func hasMember(e ast.Expr, member string) bool {
	var fields *ast.FieldList
	switch e := e.(type) {
	case *ast.StructType:
		fields = e.Fields
	case *ast.InterfaceType:
		fields = e.Methods
	default:
		return false
	}
	for _, f := range fields.List {
		if slices.ContainsFunc(f.Names, func(n *ast.Ident) bool { return n.Name == member }) {
			return true
		}
	}
	return false
}

func receiverOf(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	e := d.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

// TestArchitectureNamesPackages: the file map has every package of the module.
func TestArchitectureNamesPackages(t *testing.T) {
	t.Parallel()
	text := read(t, "docs/architecture.md")
	packages := make(map[string]bool)
	for _, f := range goFiles(t) {
		dir := path.Dir(f)
		// Generated code is mapped as a whole.
		if dir != "." && !strings.HasPrefix(dir, "messages/") {
			packages[dir] = true
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		named := regexp.MustCompile(`(^|[^\w/.-])` + regexp.QuoteMeta(dir) + `($|[^\w-])`)
		if !named.MatchString(text) {
			t.Errorf("docs/architecture.md does not name the package %s", dir)
		}
	}
}

// TestMakeTargets: every make target that a document tells to call exists.
func TestMakeTargets(t *testing.T) {
	t.Parallel()
	targets := make(map[string]bool)
	for _, m := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, doc := range documents(t) {
		text := read(t, doc)
		code := strings.Join(slices.Concat(fence.FindAllString(text, -1), indented.FindAllString(text, -1), span.FindAllString(text, -1)), "\n")
		for _, m := range makeCommand.FindAllStringSubmatch(code, -1) {
			for word := range strings.FieldsSeq(m[1]) {
				if !strings.ContainsAny(word, "=/.:") && !strings.HasPrefix(word, "-") && !targets[word] {
					t.Errorf("%s calls make %s, which is no target", doc, word)
				}
			}
		}
	}
}

// TestLinks: every relative link leads to a file.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, doc := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(read(t, doc), ""), -1) {
			to, _, _ := strings.Cut(m[1], "#")
			if to == "" || strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(doc), to)); err != nil {
				t.Errorf("%s links to %s, which does not exist", doc, to)
			}
		}
	}
}

// TestMakeHelp: every target that is meant for people says what it does.
func TestMakeHelp(t *testing.T) {
	t.Parallel()
	makefile := read(t, "Makefile")
	for _, name := range []string{"help", "run", "test", "lint", "generate", "bench", "fuzz", "cover", "vuln", "clean"} {
		if !regexp.MustCompile(`(?m)^` + name + `:.*## \S`).MatchString(makefile) {
			t.Errorf("the Makefile has no target %s that says what it does", name)
		}
	}
}

// documents returns the Markdown files of the project, from its root.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	walk(t, func(p string) {
		if strings.HasSuffix(p, ".md") {
			all = append(all, p)
		}
	})
	return all
}

func goFiles(t *testing.T) []string {
	t.Helper()
	var all []string
	walk(t, func(p string) {
		if strings.HasSuffix(p, ".go") {
			all = append(all, p)
		}
	})
	return all
}

// walk calls visit for every file of the project, with its path from the root.
func walk(t *testing.T, visit func(p string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "quern-data") {
				return filepath.SkipDir
			}
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(rel))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s does not exist yet", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
