//go:build linux

package pgproc_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
)

// TestServerLeavesNothing kills, starts and stops a server, and looks at what is
// left: of it, and of one whose owner was killed before.
func TestServerLeavesNothing(t *testing.T) {
	gone := exec.CommandContext(t.Context(), "true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	left, err := os.MkdirTemp("", "quern-pg") //nolint:usetesting // where servers have their folders
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "owner"), []byte(strconv.Itoa(gone.ProcessState.Pid())), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := pgproc.Start(t.Context())
	if errors.Is(err, pgproc.ErrMissing) {
		testservice.Lacking(t, "postgresql", err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Dir(s.Socket())
	if len(s.Socket()) >= 100 {
		t.Errorf("the socket's path is too long: %s", s.Socket())
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"kill", s.Kill},
		{"kill again", s.Kill},
		{"start", func() error { return s.Start(t.Context()) }},
		{"stop", s.Stop},
		{"start again", func() error { return s.Start(t.Context()) }},
		{"kill at last", s.Kill},
		{"close", s.Close},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	for _, folder := range []string{home, left} {
		if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", folder, err)
		}
	}
}
