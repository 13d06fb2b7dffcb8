package docscheck

import (
	"slices"
	"testing"
)

// TestForms holds what counts as a reference and as a make command: a pattern
// that finds nothing checks nothing.
func TestForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"see `actors/turn.go: run` there":       {"actors/turn.go", "run", ""},
		"`actors/turn.go:run`":                  {"actors/turn.go", "run", ""},
		"`failure/failure.go: (*Error).After`":  {"failure/failure.go", "Error", "After"},
		"`failure/failure.go: Error.Retryable`": {"failure/failure.go", "Error", "Retryable"},
		"[it](../handles/call.go) does":         {"../handles/call.go", "", ""},
		"in failure/reason.go.":                 {"failure/reason.go", "", ""},
	} {
		got := reference.FindStringSubmatch(text)
		if got == nil || !slices.Equal(got[1:], want) {
			t.Errorf("%q: found %q, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"    make run      # builds": " run",
		"`make test`":                " test",
		"$ make lint PKG=./x":        " lint PKG=./x",
		"cd x && make bench":         " bench",
		"    full: make room there":  "",
	} {
		got := ""
		if m := makeCommand.FindStringSubmatch(text); m != nil {
			got = m[1]
		}
		if got != want {
			t.Errorf("%q: found %q, want %q", text, got, want)
		}
	}
}

// TestDeclares holds how a name is looked up in a file.
func TestDeclares(t *testing.T) {
	t.Parallel()
	const file = "failure/failure.go"
	for _, c := range []struct {
		name, member string
		want         bool
	}{
		{"Error", "", true},
		{"Error", "After", true},
		{"Error", "Reason", true},
		{"After", "", true},
		{"NotDone", "", true},
		{"New", "", true},
		{"Gone", "", false},
		{"Error", "Gone", false},
		{"Gone", "After", false},
	} {
		if got := declares(t, file, c.name, c.member); got != c.want {
			t.Errorf("%s.%s: %v, want %v", c.name, c.member, got, c.want)
		}
	}
	if got := locate(t, "docs/x.md", "reason.go"); !slices.Equal(got, []string{"failure/reason.go"}) {
		t.Errorf("reason.go is looked for in %v", got)
	}
	if got := locate(t, "docs/x.md", "no/such.go"); got != nil {
		t.Errorf("a file that does not exist was found as %v", got)
	}
}
