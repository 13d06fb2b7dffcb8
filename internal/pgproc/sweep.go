//go:build linux

package pgproc

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ownerFile holds the pid of the process that started a server.
const ownerFile = "owner"

// own writes who is to remove the server's folder.
func (s *Server) own() error {
	return os.WriteFile(filepath.Join(s.home, ownerFile), []byte(strconv.Itoa(os.Getpid())), 0o600)
}

// sweep removes what servers have left whose owners were killed. The servers
// themselves ended with their owners.
func sweep() {
	homes, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*")) // the pattern is well-formed
	for _, home := range homes {
		text, err := os.ReadFile(filepath.Join(home, ownerFile)) //nolint:gosec // a path of our own
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			continue
		}
		_ = (&Server{home: home}).Close() // another's, which a later sweep finds again
	}
}
