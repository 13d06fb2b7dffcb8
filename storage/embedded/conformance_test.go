package embedded_test

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/embedded"
	"github.com/quern-io/quern/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// target opens stores in a folder of their own. A small tail has every test run
// through many checkpoints.
func target(o embedded.Options, where func(tb testing.TB) (vfs.FS, string)) storagetest.Target {
	return storagetest.Target{
		Name: "embedded", Durable: true,
		New: func(tb testing.TB) func(testing.TB) actors.Store {
			tb.Helper()
			o := o
			o.FS, o.Dir = where(tb)
			o.Shards = storagetest.Shards
			return func(tb testing.TB) actors.Store {
				tb.Helper()
				s, err := embedded.Open(tb.Context(), o)
				if err != nil {
					tb.Fatalf("open: %v", err)
				}
				return s
			}
		},
	}
}

func TestConformanceMem(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]embedded.Options{
		"Default":    {CacheBytes: 1 << 20},
		"Checkpoint": {CacheBytes: 1 << 20, TailBytes: 2 << 10, GrowBytes: 1 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, target(o, func(testing.TB) (vfs.FS, string) { return vfs.NewMem(), "/data" }))
		})
	}
}

func TestConformanceDisk(t *testing.T) {
	t.Parallel()
	tg := target(embedded.Options{CacheBytes: 1 << 20, TailBytes: 64 << 10}, func(tb testing.TB) (vfs.FS, string) {
		tb.Helper()
		return nil, tb.TempDir()
	})
	tg.Steps = 300
	storagetest.Run(t, tg)
}
