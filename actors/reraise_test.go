package actors_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/failure"
)

// TestReraise: nothing is answered from memory before the store has raised the
// epochs again; a shard that another has raised meanwhile is lost.
func TestReraise(t *testing.T) {
	t.Parallel()
	store := newFaultStore()
	r := newRig(t, store)
	for _, key := range []string{"mine", "theirs"} {
		if _, err := r.counter(key).Add(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	epoch := r.epoch("mine")
	lost := make(chan struct{})
	store.set(func(f *faultStore) {
		f.raise = func() error {
			select {
			case <-lost:
				return nil
			default:
				return errBroken
			}
		}
	})
	r.Reraise(errBroken)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if got, err := r.counter("mine").Get(ctx); failure.OutcomeOf(err) != failure.Unknown {
		t.Errorf("while the store is lost: %d, %v", got, err)
	}
	theirs := []actors.Raise{{Shard: r.shardOf("theirs"), Epoch: 99, Incarnation: [16]byte{9}}}
	if raised, err := store.Store.Raise(t.Context(), theirs); err != nil || !raised[0].OK {
		t.Fatal(raised, err)
	}
	close(lost)
	if got, err := r.counter("mine").Get(t.Context()); got != 1 || err != nil || r.epoch("mine") != epoch+1 {
		t.Errorf("when it is back: %d, %v, epoch %d, was %d", got, err, r.epoch("mine"), epoch)
	}
	if got, err := r.counter("theirs").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
		t.Errorf("a shard that another has: %d, %v", got, err)
	}
}
