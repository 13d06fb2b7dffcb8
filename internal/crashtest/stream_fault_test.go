package crashtest

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/server"
)

const (
	// faultSeedEnv runs one seed of TestStreamFaults alone, and prints what
	// happened in it.
	faultSeedEnv = "QUERN_CRASHTEST_FAULT_SEED"
	// faultSeedsEnv says how many seeds there are.
	faultSeedsEnv = "QUERN_CRASHTEST_FAULT_SEEDS"
)

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
	seeds := uint64(300)
	if testing.Short() {
		seeds = 40
	}
	if s := os.Getenv(faultSeedsEnv); s != "" {
		var err error
		if seeds, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	for seed := range seeds {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			faultRun(t, seed, breaks{}, false)
		})
	}
}

// troubleOf spreads the kinds of trouble over the seeds.
func troubleOf(seed uint64) trouble {
	r := trouble{crashes: int(seed % 3), restarts: int(seed / 3 % 2)}
	switch seed % 4 {
	case 2:
		r.forgets = 6
	case 3:
		r.forgets, r.closes = 2, 2
	}
	r.sick, r.narrow, r.idles, r.mixed = seed%5 == 1, seed%7 == 5, seed%32 == 10, seed%4 == 1
	return r
}

// TestStreamFaultsAreNoticed breaks the node from outside and expects that the
// worlds of TestStreamFaults go wrong.
func TestStreamFaultsAreNoticed(t *testing.T) {
	t.Parallel()
	const enough = 60
	for name, b := range map[string]breaks{
		"a repeat gets a new number":      {backend: newRenumbering},
		"results are forgotten":           {backend: func(b server.Backend) server.Backend { return forgetting{b} }},
		"one number too many is settled":  {backend: func(b server.Backend) server.Backend { return hasty{b} }},
		"a part's repeat is another's":    {backend: newRenumberingAdds},
		"results of parts are forgotten":  {backend: func(b server.Backend) server.Backend { return forgettingAdds{b} }},
		"results are not written":         {store: func(s actors.Store) actors.Store { return &parting{Store: s} }},
		"results are written a bit later": {store: func(s actors.Store) actors.Store { return &parting{Store: s, delay: true} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(enough) {
				r := troubleOf(seed)
				r.sick = r.sick && b.store == nil
				var wrong []string
				synctest.Test(t, func(t *testing.T) { wrong = newWorld(t, seed, r, b).run() })
				if len(wrong) > 0 {
					t.Logf("noticed after %d seeds, the first of %d signs: %s", seed+1, len(wrong), wrong[0])
					return
				}
			}
			t.Errorf("not noticed in %d seeds", enough)
		})
	}
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
