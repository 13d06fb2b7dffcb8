package pgproc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// ErrMissing means that this machine has no PostgreSQL server.
var ErrMissing = errors.New("pgproc: no PostgreSQL server: initdb is neither on PATH nor in /usr/lib/postgresql/*/bin nor under .tools/postgresql; run scripts/postgres.sh")

// binEnv names the folder of initdb and postgres where it is to be another than
// the one that would be found.
const binEnv = "QUERN_POSTGRES_BIN"

// find returns the folder of initdb and postgres.
func find() (string, error) {
	if bin := os.Getenv(binEnv); bin != "" {
		return bin, nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil && hasServer(filepath.Dir(path)) {
			return filepath.Dir(path), nil
		}
	}
	if bin := newest("/usr/lib/postgresql"); bin != "" {
		return bin, nil
	}
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			if bin := newest(filepath.Join(dir, ".tools/postgresql/usr/lib/postgresql")); bin != "" {
				return bin, nil
			}
			break
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	return "", ErrMissing
}

// newest returns the bin folder of the highest version below dir, empty where
// there is none.
func newest(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	best, found := 0, ""
	for _, e := range entries {
		bin := filepath.Join(dir, e.Name(), "bin")
		if version, err := strconv.Atoi(e.Name()); err == nil && version > best && hasServer(bin) {
			best, found = version, bin
		}
	}
	return found
}

func hasServer(bin string) bool {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(bin, name)); err != nil || info.IsDir() {
			return false
		}
	}
	return true
}
