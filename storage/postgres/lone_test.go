package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// TestSecondLoneNodeIsRefused: one at a time, on one schema.
func TestSecondLoneNodeIsRefused(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	options := postgres.Hasty(postgres.Options{URL: server.URL(), Lone: true})
	first := open(t, options)
	_, err := postgres.Open(t.Context(), options)
	if !errors.Is(err, postgres.ErrTaken) || !strings.Contains(err.Error(), "quern from a local socket") {
		t.Errorf("second: %v", err)
	}
	beside := options
	beside.URL = server.URL("schema=beside")
	if err := open(t, beside).Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
	began := time.Now()
	if err := open(t, options).Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took >= postgres.TakeoverDelay {
		t.Errorf("after a clean end the next one waited %v", took)
	}
}

// TestLostLock ends the session that holds the lock. The owner hears of it, raises
// nothing before it is back, and then finds its own epoch, since nobody took it.
func TestLostLock(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	lost := make(chan error, 1)
	options := postgres.Hasty(postgres.Options{URL: server.URL(), Lone: true, OnLost: func(err error) { lost <- err }})
	s := open(t, options)
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	raise(t, s, actors.Raise{Shard: 1, Epoch: 1})
	admin(t, server, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'`)
	if err := <-lost; !errors.Is(err, postgres.ErrUnavailable) {
		t.Errorf("lost: %v", err)
	}
	began := time.Now()
	raise(t, s, actors.Raise{Shard: 1, From: 1, Epoch: 2})
	if took := time.Since(began); took >= postgres.TakeoverDelay {
		t.Errorf("the lock was back after %v, although nobody had it meanwhile", took)
	}
}

// TestLockLostToAnother: another one takes the lock while it is lost. It waits
// until the first has noticed; the first raises nothing until the other goes, and
// then finds that its epoch was taken.
func TestLockLostToAnother(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	lost := make(chan struct{}, 1)
	options := postgres.Hasty(postgres.Options{URL: server.URL(), Lone: true, OnLost: func(error) { lost <- struct{}{} }})
	first := open(t, options)
	defer func() { _ = first.Close(context.WithoutCancel(t.Context())) }()
	raise(t, first, actors.Raise{Shard: 1, Epoch: 1})

	options.OnLost, options.LockWait = nil, 30*time.Second
	second := make(chan *postgres.Store, 1)
	go func() { second <- open(t, options) }()
	eventually(t, func() bool { return waiting(t, server.URL()) })
	admin(t, server, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted`)
	next := <-second
	select {
	case <-lost:
	default:
		t.Error("the second one serves before the first has noticed")
	}
	raise(t, next, actors.Raise{Shard: 1, Epoch: 2, Incarnation: other})
	impatient, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	again := []actors.Raise{{Shard: 1, From: 1, Epoch: 2, Incarnation: self}}
	if _, err := first.Raise(impatient, again); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("raise without the lock: %v", err)
	}
	if err := next.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if raised, err := first.Raise(t.Context(), again); err != nil || raised[0].OK {
		t.Errorf("raise after the other: %+v, %v", raised, err)
	}
}
