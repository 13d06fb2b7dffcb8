package quern_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/boottime"
	"github.com/quern-io/quern/internal/testservice"
)

// TestPostgresNode embeds a node on a PostgreSQL store, over a restart of node
// and server.
func TestPostgresNode(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	cfg := quern.Config{Store: server.URL("schema=mine"), Shards: 8}
	for want := int64(1); want <= 3; want++ {
		node, err := quern.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := node.Counter("a\x00b").Add(t.Context(), 1); got != want || err != nil {
			t.Errorf("add: %d, %v, want %d", got, err, want)
		}
		if status, err := node.Status(t.Context()); err != nil || status.GetStore() != "postgres" || !status.GetDurable() {
			t.Errorf("status: %v, %v", status, err)
		}
		if err := node.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := errors.Join(server.Stop(), server.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNodeThatLostItsStore: a node whose lock went to another one answers nothing
// from its memory any more, and is fenced when it can ask the store again.
func TestNodeThatLostItsStore(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	cfg := quern.Config{Store: server.URL(), Shards: 8}
	first, err := quern.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close(context.WithoutCancel(t.Context())) }()
	if _, err := first.Counter("k").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	opened := make(chan *quern.Node, 1)
	go func() {
		second, err := quern.Open(t.Context(), cfg)
		if err != nil {
			t.Error(err)
		}
		opened <- second
	}()
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	psql := func(query string) string {
		t.Helper()
		var answer string
		if err := conn.QueryRow(t.Context(), query).Scan(&answer); err != nil {
			t.Fatal(err)
		}
		return answer
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for psql(`SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND NOT granted`) != "1" {
		<-poll.C
	}
	psql(`SELECT pg_terminate_backend(pid)::text FROM pg_locks WHERE locktype = 'advisory' AND granted`)
	second := <-opened
	if second == nil {
		t.FailNow()
	}
	if got, err := second.Counter("k").Add(t.Context(), 1); got != 2 || err != nil {
		t.Errorf("the second node: %d, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if got, err := first.Counter("k").Get(ctx); err == nil {
		t.Errorf("the first node still answers: %d", got)
	}
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got, err := first.Counter("k").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
		t.Errorf("the first node, when it can ask: %d, %v", got, err)
	}
}

// TestLoneNodeThatWasStopped: a lone node on a store that others can open
// answers nothing from its memory once it was stopped for so long that another
// could have the store, until it has proven that none does.
func TestLoneNodeThatWasStopped(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	var stopped atomic.Int64
	clock := func() time.Duration { return boottime.Now() + time.Duration(stopped.Load()) }
	node, err := quern.Open(t.Context(), quern.Config{Store: server.URL(), Shards: 8}.WithClock(clock))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = node.Close(context.WithoutCancel(t.Context())) }()
	if _, err := node.Counter("k").Add(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	stopped.Add(int64(time.Minute))
	if value, err := node.Counter("k").Get(t.Context()); !errors.Is(err, failure.NotOwner) {
		t.Errorf("right after the stop: %d, %v", value, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		value, err := node.Counter("k").Get(ctx)
		if err == nil {
			if value != 1 {
				t.Errorf("after the proof: %d", value)
			}
			return
		}
		if !errors.Is(err, failure.NotOwner) {
			t.Fatalf("before the proof: %v", err)
		}
	}
}
