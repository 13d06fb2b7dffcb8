package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// root is the module's root, seen from this folder.
const root = "../.."

// layers says what the non-test code of a top-level folder may import of this
// module. A folder may always import itself; everything may import failure,
// keyspace and internal, which import nothing above them.
var layers = map[string][]string{
	"failure":  {},
	"internal": {"messages"},
	"keyspace": {},
	"messages": {},
	"handles":  {"messages"},
	"actors":   {"messages", "handles"},
	"grains":   {"messages", "handles", "actors"},
	"storage":  {"messages", "actors"},
	"cluster":  {"messages", "handles"},
	"client":   {"messages", "handles"},
	"server":   {"messages", "handles"},
	".":        {"messages", "handles", "actors", "grains", "storage", "cluster", "client", "server"},
	"bench":    {"messages", "handles", "client", "."},
	"cmd":      {"messages", "handles", "client", "server", "bench", "."},
	"examples": {"messages", "handles", "client", "."},
}

// everywhere may be imported by every folder that is not messages.
var everywhere = []string{"failure", "internal", "keyspace"}

// confined names imports that only the listed folders may have, with all that
// lies below them. Paths of this module are written from its root.
var confined = []struct {
	path string
	to   []string
	why  string
}{
	{"cluster/consul", []string{"."}, "policy must not depend on one authority"},
	{"cluster/clustertest", nil, "it serves tests only"},
	{"storage/storagetest", nil, "it serves tests only"},
	{"github.com/hashicorp/consul/api", []string{"cluster/consul", "bench/peers"}, "an authority is an interface elsewhere"},
	{"github.com/asynkron/protoactor-go", []string{"actors", "bench/peers"}, "the engine is hidden behind actors"},
	{"github.com/cockroachdb/pebble", []string{"storage/embedded"}, "a store is an interface elsewhere"},
	{"github.com/jackc/pgx", []string{"storage/postgres"}, "a store is an interface elsewhere"},
	{"database/sql", []string{"storage/postgres"}, "a store is an interface elsewhere"},
	{"google.golang.org/grpc", []string{"messages", "server", "client", "cluster", "internal/wire", "bench/peers"}, "handles and kinds know no transport"},
	{"connectrpc.com/connect", []string{"messages", "server", "internal/wire", "cmd"}, "handles and kinds know no transport"},
	{"gonum.org/v1/plot", []string{"bench"}, "only reports draw"},
	{"testing", []string{"cluster/clustertest", "storage/storagetest", "internal"}, "production code does not test"},
}

// barred names what a folder must not import although others may.
var barred = []struct {
	folder string
	paths  []string
	why    string
}{
	{"grains", []string{"os", "net", "sync", "log", "log/slog", "io/fs", "math/rand", "crypto/rand"}, "kinds are pure: no I/O, locks or chance"},
	{"handles", []string{"os", "net"}, "handles are written against Invoker alone"},
	{"actors", []string{"os", "net"}, "the runtime knows no file and no network"},
	{"failure", []string{"google.golang.org/protobuf"}, "failures are plain values; the transports encode them"},
}

// unlinked names what must not be reachable from a folder, over any number of
// imports within this module.
var unlinked = map[string][]string{
	"client":  {"actors", "storage", "cluster", "github.com/asynkron/protoactor-go", "github.com/cockroachdb/pebble"},
	"handles": {"actors", "storage", "cluster"},
	".":       {"bench", "gonum.org/v1/plot"},
}

// TestLayering reads every non-test file in-process rather than through
// "go list", so that the go command's test cache notices a changed import.
func TestLayering(t *testing.T) {
	t.Parallel()

	imports := readImports(t)
	for _, from := range slices.Sorted(maps.Keys(imports)) {
		if _, known := layers[top(from)]; !known {
			t.Errorf("the folder %s has no place in the layers", top(from))
			continue
		}
		for _, imp := range imports[from] {
			checkLayer(t, from, imp)
			checkConfined(t, from, imp)
			checkBarred(t, from, imp)
		}
	}
}

// TestUnlinked keeps what users link small: a network client does not carry
// the actor engine, and the embedded runtime not the load bench.
func TestUnlinked(t *testing.T) {
	t.Parallel()

	imports := readImports(t)
	for folder, banned := range unlinked {
		for from := range imports {
			if folder == "." && from != "." || folder != "." && !under(from, folder) {
				continue
			}
			for reached, chain := range reachable(imports, from) {
				for _, b := range banned {
					if under(reached, b) {
						t.Errorf("%s links %s: %s", from, b, strings.Join(chain, " → "))
					}
				}
			}
		}
	}
}

// TestMessagesAreGenerated keeps hand-written code out of messages/, which
// generation may empty.
func TestMessagesAreGenerated(t *testing.T) {
	t.Parallel()

	err := filepath.WalkDir(filepath.Join(root, "messages"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.HasSuffix(path, ".go") || !bytes.Contains(content, []byte("DO NOT EDIT.")) {
			t.Errorf("%s is not generated", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkLayer(t *testing.T, from, imp string) {
	t.Helper()
	if !ours(imp) || top(imp) == top(from) {
		return
	}
	allowed := layers[top(from)]
	if top(from) != "messages" && slices.Contains(everywhere, top(imp)) {
		return
	}
	if !slices.Contains(allowed, top(imp)) {
		t.Errorf("%s must not import %s: %s may import %v of this module", from, imp, top(from), allowed)
	}
}

func checkConfined(t *testing.T, from, imp string) {
	t.Helper()
	for _, c := range confined {
		if !under(imp, c.path) || under(from, c.path) {
			continue
		}
		if !slices.ContainsFunc(c.to, func(a string) bool { return under(from, a) }) {
			t.Errorf("%s must not import %s, only %v may: %s", from, imp, c.to, c.why)
		}
	}
}

func checkBarred(t *testing.T, from, imp string) {
	t.Helper()
	for _, b := range barred {
		if !under(from, b.folder) {
			continue
		}
		if slices.ContainsFunc(b.paths, func(p string) bool { return under(imp, p) }) {
			t.Errorf("%s must not import %s: %s", from, imp, b.why)
		}
	}
}

// readImports returns the imports of every folder's non-test code. Paths of
// this module are relative to its root, which itself is ".".
func readImports(t *testing.T) map[string][]string {
	t.Helper()
	module := modulePath(t)
	files := token.NewFileSet()
	imports := make(map[string][]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipFolder(path, d.Name())
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(files, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		from := filepath.ToSlash(dir)
		imports[from] = append(imports[from], importsOf(t, f.Imports, module)...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for from := range imports {
		slices.Sort(imports[from])
		imports[from] = slices.Compact(imports[from])
	}
	return imports
}

func importsOf(t *testing.T, specs []*ast.ImportSpec, module string) []string {
	t.Helper()
	var all []string
	for _, spec := range specs {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if imp == module {
			imp = "."
		}
		all = append(all, strings.TrimPrefix(imp, module+"/"))
	}
	return all
}

// reachable returns all that from imports, directly or over packages of this
// module, each with the chain of imports that leads to it.
func reachable(imports map[string][]string, from string) map[string][]string {
	chains := map[string][]string{from: {from}}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, imp := range imports[queue[0]] {
			if _, seen := chains[imp]; seen {
				continue
			}
			chains[imp] = append(slices.Clone(chains[queue[0]]), imp)
			queue = append(queue, imp)
		}
	}
	return chains
}

func skipFolder(path, name string) error {
	if path == root {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "tools" {
		return filepath.SkipDir
	}
	return nil
}

func modulePath(t *testing.T) string {
	t.Helper()
	gomod := filepath.Join(root, "go.mod")
	b, err := os.ReadFile(gomod)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(line, "module "); ok {
			return strings.TrimSpace(path)
		}
	}
	t.Fatalf("%s names no module", gomod)
	return ""
}

// ours reports whether imp lies in this module: readImports has cut the
// module's path off, and no other import starts with one of our folders.
func ours(imp string) bool {
	_, ok := layers[top(imp)]
	return ok
}

func top(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}

// under reports whether path is prefix or lies below it. Nothing but the root
// itself lies under ".".
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
