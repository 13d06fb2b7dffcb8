package actors_test

import (
	"strconv"
	"sync"
	"testing"

	"github.com/quern-io/quern/actors"
)

func TestCountersCount(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory())
	const callers, adds, keys = 16, 2000, 50
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range adds {
				if _, err := r.counter("k"+strconv.Itoa(i%keys)).Add(t.Context(), 1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range keys {
		got, err := r.counter("k" + strconv.Itoa(i)).Get(t.Context())
		if want := int64(callers * adds / keys); err != nil || got != want {
			t.Errorf("key %d: got %d, %v; want %d", i, got, err, want)
		}
	}
}

// TestMemoryComesBack stops a runtime and starts another on its store.
func TestMemoryComesBack(t *testing.T) {
	t.Parallel()
	store := newMemory()
	t.Run("first", func(t *testing.T) {
		r := newRig(t, store)
		for i := range 100 {
			if _, err := r.counter(strconv.Itoa(i)).Add(t.Context(), int64(i)); err != nil {
				t.Fatal(err)
			}
		}
	})
	r := newRig(t, store)
	for i := range 100 {
		if got, err := r.counter(strconv.Itoa(i)).Get(t.Context()); err != nil || got != int64(i) {
			t.Errorf("key %d: got %d, %v", i, got, err)
		}
	}
}

func TestEvictionKeepsValues(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), func(c *actors.Config) { c.ResidentLimit = 640 })
	const keys = 20_000
	for round := range int64(3) {
		for i := range keys {
			got, err := r.counter(strconv.Itoa(i)).Add(t.Context(), 1)
			if err != nil || got != round+1 {
				t.Fatalf("key %d: got %d, %v; want %d", i, got, err, round+1)
			}
		}
	}
}
