package crashtest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// version finds the version in a data folder's format file.
var version = regexp.MustCompile(`"version": *\d+`)

// raiseFormat makes a stopped node's folder look like a later version's.
func raiseFormat(t *testing.T, data string) {
	t.Helper()
	path := filepath.Join(data, "FORMAT")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raised := version.ReplaceAll(content, []byte(`"version": 1000`))
	if string(raised) == string(content) {
		t.Fatalf("%s names no version:\n%s", path, content)
	}
	write(t, path, string(raised))
}
