package actors_test

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/grains"
	"github.com/quern-io/quern/handles"
)

func withMaps(c *actors.Config) { c.Kinds = append(c.Kinds, grains.Map{}) }

func (r *rig) entry(key string) handles.MapEntry { return handles.NewMapEntry(r, key) }

// rising puts again and again; no version may be at or below the one before.
type rising struct {
	t    *testing.T
	last uint64
}

func (v *rising) put(r *rig, key string) {
	v.t.Helper()
	version, err := r.entry(key).Put(v.t.Context(), []byte("v"), handles.PutOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	if floor := r.epoch(key) << 32; version <= v.last || version <= floor {
		v.t.Errorf("version %#x after %#x, in an epoch that begins at %#x", version, v.last, floor)
	}
	v.last = version
}

func (v *rising) gone(r *rig, key string) {
	v.t.Helper()
	if found, err := r.entry(key).Delete(v.t.Context()); !found || err != nil {
		v.t.Fatal(found, err)
	}
}

// TestVersionsRise over a deletion, a crash of the shard, and a restart, also
// where the entry was gone meanwhile.
func TestVersionsRise(t *testing.T) {
	t.Parallel()
	store, versions := newFaultStore(), &rising{t: t}
	for _, name := range []string{"first", "restarted"} {
		t.Run(name, func(t *testing.T) {
			versions.t = t
			r := newRig(t, store, withMaps)
			for range 3 {
				versions.put(r, "a")
				versions.put(r, "a")
				before := r.epoch("a")
				r.Crash(r.shardOf("a"))
				if got, err := r.entry("a").Get(t.Context()); err != nil || got.Version != versions.last {
					t.Errorf("after the crash: %+v, %v; want version %#x", got, err, versions.last)
				}
				if r.epoch("a") == before {
					t.Error("the shard did not crash")
				}
				versions.put(r, "a")
				versions.gone(r, "a")
				r.Crash(r.shardOf("a"))
				versions.put(r, "a")
				versions.gone(r, "a")
			}
		})
	}
}

// TestVersionsRiseOverEviction: the entry comes back from the store each time,
// or is made anew.
func TestVersionsRiseOverEviction(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withMaps, func(c *actors.Config) { c.ResidentLimit = 64 })
	versions := &rising{t: t}
	for round := range 6 {
		versions.put(r, "a")
		want := versions.last
		if round%2 == 1 {
			versions.gone(r, "a")
			want = 0
		}
		for i := range 2000 {
			if _, err := r.counter(strconv.Itoa(i)).Get(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := r.entry("a").Get(t.Context()); err != nil || got.Version != want || want != 0 && string(got.Value) != "v" {
			t.Errorf("round %d: %+v, %v; want version %#x", round, got, err, want)
		}
	}
}

// TestLongSequenceReloads: one activation that used up its numbers is followed
// by one that does not fall behind it.
func TestLongSequenceReloads(t *testing.T) {
	t.Parallel()
	r := newRig(t, newMemory(), withMaps)
	versions := &rising{t: t}
	versions.put(r, "a")
	r.SkipNumbers(r.shardOf("a"), 3<<32)
	versions.put(r, "a")
	r.Crash(r.shardOf("a"))
	versions.put(r, "a")
}

// TestTokensOfTwoShards: a fencing token of one shard is none of another's.
func TestTokensOfTwoShards(t *testing.T) {
	t.Parallel()
	r := newRig(t, newFaultStore(), withLock)
	keys, tokens := [2]string{"a", "a"}, [2]uint64{}
	for i := 0; r.shardOf(keys[0]) == r.shardOf(keys[1]); i++ {
		keys[1] = strconv.Itoa(i)
	}
	for i, key := range keys {
		tokens[i] = r.hold(t, key, "me", time.Hour)
	}
	if err := r.lock(keys[0]).Release(t.Context(), tokens[1]); !errors.Is(err, failure.NotHolder) {
		t.Errorf("%d was given for %s and taken for %s: %v", tokens[1], keys[1], keys[0], err)
	}
}
