package clustertest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hands are an operator's on a twin.
type hands struct{ *clustertest.Twin }

func (h hands) Connect(_ testing.TB, name string, checkTTL time.Duration) cluster.Authority {
	return h.Twin.Connect(name, checkTTL)
}

func (h hands) DeleteLock(_ testing.TB, name string, shard uint32) { h.Twin.DeleteLock(name, shard) }
func (h hands) EndSession(_ testing.TB, s cluster.Session)         { h.Twin.EndSession(s) }

func (h hands) Save(testing.TB) func(testing.TB) {
	saved := h.Snapshot()
	return func(testing.TB) { h.Restore(saved) }
}

// TestTwinInRealTime runs the suite on one twin that all tests share.
func TestTwinInRealTime(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for real time to pass")
	}
	t.Parallel()
	clustertest.Run(t, clustertest.Target{
		Start: func(testing.TB) clustertest.Server { return hands{clustertest.New()} },
	})
}

func TestTwin(t *testing.T) {
	t.Parallel()
	clustertest.Run(t, clustertest.Target{
		Start:   func(testing.TB) clustertest.Server { return hands{clustertest.New()} },
		Virtual: true,
	})
}
