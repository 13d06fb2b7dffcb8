package crashtest

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
)

// faultSeedEnv runs one seed of TestStreamFaults alone, and prints what
// happened in it.
const faultSeedEnv = "QUERN_CRASHTEST_FAULT_SEED"

// TestStreamFaults runs clients over a network that breaks their streams in
// every way, against a node whose power is cut, and expects of every add what
// its caller was told: acknowledged is applied once, unknown at most once,
// refused never; a repeat gets the first answer; who is patient learns the
// outcome unless the session is gone.
func TestStreamFaults(t *testing.T) {
	t.Parallel()
	if s := os.Getenv(faultSeedEnv); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		faultRun(t, seed, breaks{}, true)
		return
	}
	seeds := 300
	if testing.Short() {
		seeds = 40
	}
	for seed := range uint64(seeds) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			faultRun(t, seed, breaks{}, false)
		})
	}
}

// troubleOf spreads the kinds of trouble over the seeds.
func troubleOf(seed uint64) trouble {
	r := trouble{crashes: int(seed % 3), restarts: int(seed / 3 % 2)} //nolint:gosec // small
	switch seed % 4 {
	case 2:
		r.forgets = 6
	case 3:
		r.forgets, r.closes = 2, 2
	}
	r.idles = seed%32 == 10
	return r
}

// faultRun runs a world and reports what was wrong in it.
func faultRun(t *testing.T, seed uint64, b breaks, loud bool) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed, troubleOf(seed), b)
		wrong := w.run()
		if len(wrong) > 0 {
			t.Errorf("%s=%d: %d wrong:\n%s\n\n%s", faultSeedEnv, seed, len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"), w.net.Schedule())
		} else if loud {
			t.Log(w.net.Schedule())
		}
		if loud || seed%50 == 0 {
			t.Logf("seed %d: %d acknowledged, %d unknown, %d refused; %d retries, %d streams, %d repeats of what was answered",
				seed, w.ledger.acked, w.ledger.unknown, w.ledger.refused, w.stats.Retries, w.stats.Connects, w.answers.repeats)
		}
	})
}
