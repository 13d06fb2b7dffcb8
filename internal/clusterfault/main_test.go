package clusterfault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/clusterproc"
	"github.com/quern-io/quern/internal/nodeproc"
)

const (
	// roleEnv makes this program a loader with the configuration that it holds.
	roleEnv = "QUERN_CLUSTERFAULT_LOADER"
	// binaryEnv names the program under test where it is built already.
	binaryEnv = "QUERN_CLUSTERFAULT_BINARY"
	// seedEnv repeats a schedule: the seed that a test printed.
	seedEnv = "QUERN_CLUSTERFAULT_SEED"
	// proxiesEnv keeps the tests out of namespaces.
	proxiesEnv = "QUERN_CLUSTERFAULT_PROXIES"
	// logsEnv is a folder for logs of failed tests; empty: a temporary one.
	logsEnv = "QUERN_CLUSTERFAULT_LOGS"
	// patience bounds every single wait. Nothing is expected to take as long.
	patience = 60 * time.Second
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	if config := os.Getenv(roleEnv); config != "" {
		os.Exit(loaderMain(config))
	}
	if clusterproc.Entered() {
		if err := clusterproc.Begin(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		binary = os.Getenv(binaryEnv)
		os.Exit(m.Run())
	}
	os.Exit(enter(m))
}

// enter builds the program and runs the tests, in namespaces where that can be.
func enter(m *testing.M) int {
	folder, err := os.MkdirTemp("", "quern-clusterfault")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	// A developer's settings are none of the program's here.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "QUERN_") && !keepEnv(name) {
			_ = os.Unsetenv(name) // its name is one
		}
	}
	if binary = os.Getenv(binaryEnv); binary == "" {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		if binary, err = nodeproc.Build(ctx, folder, false); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if os.Getenv(proxiesEnv) == "" {
		code, err := clusterproc.Enter(binaryEnv + "=" + binary)
		if err == nil {
			return code
		}
		fmt.Fprintln(os.Stderr, "no network namespaces, so links lead through proxies:", err)
	}
	return m.Run()
}

// keepEnv tells the variables that speak to tests and not to the program.
func keepEnv(name string) bool {
	return strings.HasPrefix(name, "QUERN_CLUSTERFAULT_") || strings.HasPrefix(name, "QUERN_SERVICES_") ||
		name == "QUERN_REQUIRE_SERVICES" || name == "QUERN_POSTGRES_BIN"
}

// chance returns a source of random numbers whose seed is printed and can be
// given again.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(seedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed: %s=%d", seedEnv, seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// soon bounds a wait.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// hold lets time pass: what a fault does takes some.
func hold(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}
