package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "reserved 0, stock and sold 100\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
