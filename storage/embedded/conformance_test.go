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
func target(o embedded.Options, where func(t testing.TB) (vfs.FS, string)) storagetest.Target {
	return storagetest.Target{
		Name: "embedded", Durable: true,
		New: func(t testing.TB) func(testing.TB) actors.Store {
			o := o
			o.FS, o.Dir = where(t)
			o.Shards = storagetest.Shards
			return func(t testing.TB) actors.Store {
				s, err := embedded.Open(t.Context(), o)
				if err != nil {
					t.Fatalf("open: %v", err)
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
	tg := target(embedded.Options{CacheBytes: 1 << 20, TailBytes: 64 << 10}, func(t testing.TB) (vfs.FS, string) { return nil, t.TempDir() })
	tg.Steps = 300
	storagetest.Run(t, tg)
}
