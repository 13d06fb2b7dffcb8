//go:build long

package longtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quern-io/quern"
)

// TestFiveMillionCounters writes and reads far more counters than may be in
// memory: it stays flat, and every value is right.
func TestFiveMillionCounters(t *testing.T) {
	const (
		counters = 5_000_000
		resident = 200_000
		step     = 500_000
	)
	node, err := quern.Open(t.Context(), quern.Config{DataDir: t.TempDir(), ResidentLimit: resident})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := node.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	var heaps []uint64
	pass := func(name string, op func(i int) error) {
		t.Helper()
		began := time.Now()
		for from := 0; from < counters; from += step {
			parallel(t, from, from+step, op)
			heaps = append(heaps, heap())
			t.Logf("%s %d to %d: %.1f s, heap %d MiB", name, from, from+step, time.Since(began).Seconds(), heaps[len(heaps)-1]>>20)
		}
	}
	value := func(i int) int64 { return int64(i)*7 + 1 }
	pass("add", func(i int) error {
		_, err := node.Counter(key(i)).Add(t.Context(), value(i))
		return err
	})
	pass("read", func(i int) error {
		got, err := node.Counter(key(i)).Get(t.Context())
		if err == nil && got != value(i) {
			err = fmt.Errorf("%s is %d, want %d", key(i), got, value(i))
		}
		return err
	})
	// The first steps fill the memory; from then on it is flat.
	const warm = 2
	low, high := heaps[warm], heaps[warm]
	for _, h := range heaps[warm:] {
		low, high = min(low, h), max(high, h)
	}
	t.Logf("heap %d to %d MiB", low>>20, high>>20)
	if high > low+low/2+(64<<20) {
		t.Errorf("memory is not flat: %d to %d MiB", low>>20, high>>20)
	}
}

func key(i int) string { return "many:" + strconv.Itoa(i) }

// parallel runs op for all numbers from many callers, which share commits.
func parallel(t *testing.T, from, to int, op func(i int) error) {
	t.Helper()
	var next atomic.Int64
	next.Store(int64(from))
	var failed sync.Map
	var wg sync.WaitGroup
	for caller := range 2000 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < to; i = int(next.Add(1)) - 1 {
				err := op(i)
				for errors.Is(err, quern.Overloaded) {
					runtime.Gosched()
					err = op(i)
				}
				if err != nil {
					failed.Store(caller, err)
					return
				}
			}
		})
	}
	wg.Wait()
	failed.Range(func(_, err any) bool {
		t.Error(err)
		return true
	})
	if t.Failed() {
		t.FailNow()
	}
}

// heap returns what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}
