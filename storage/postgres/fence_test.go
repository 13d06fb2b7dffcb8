package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
	"github.com/quern-io/quern/storage/storagetest"
)

var (
	self  = [16]byte{1}
	other = [16]byte{2}
)

func batch(shard uint32, epoch uint64, kv ...string) actors.Batch {
	b := actors.Batch{Shard: shard, Epoch: epoch}
	for i := 0; i < len(kv); i += 2 {
		b.Records = append(b.Records, actors.Record{Key: []byte(kv[i]), Value: []byte(kv[i+1])})
	}
	return b
}

func raise(t *testing.T, s actors.Store, r actors.Raise) {
	t.Helper()
	if r.Incarnation == [16]byte{} {
		r.Incarnation = self
	}
	got, err := s.Raise(t.Context(), []actors.Raise{r})
	if err != nil || !got[0].OK {
		t.Fatalf("raise %+v: %+v, %v", r, got, err)
	}
}

func wantCommit(t *testing.T, s actors.Store, b actors.Batch, status actors.Status, err error) {
	t.Helper()
	if v := s.Commit(t.Context(), []actors.Batch{b})[0]; v.Status != status || !errors.Is(v.Err, err) {
		t.Errorf("commit of shard %d, epoch %d: %+v, want %d with %v", b.Shard, b.Epoch, v, status, err)
	}
}

func get(t *testing.T, s actors.Store, shard uint32, key string) string {
	t.Helper()
	value := ""
	if err := s.Read(t.Context(), shard, [][]byte{[]byte(key)}, func(_ int, v []byte) { value = string(v) }); err != nil {
		t.Errorf("read %q: %v", key, err)
	}
	return value
}

// eventually looks until it is so.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it does not come to that")
		}
	}
}

// TestOwnersRace has a commit of the old owner stop between its look at the epoch
// and its writing, while the new owner raises the epoch and loads. What the new
// owner has loaded must be what is there in the end. With a lock that a raise
// does not wait for, it is not: the test sees that it would notice.
func TestOwnersRace(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	for lock, safe := range map[string]bool{
		postgres.RowLock: true,
		"FOR UPDATE":     true,
		"FOR SHARE":      true,
		"FOR KEY SHARE":  false,
		" ":              false, // a plain SELECT
	} {
		t.Run("lock "+lock, func(t *testing.T) {
			t.Parallel()
			loaded, left := race(t, server, lock)
			if safe && loaded != left {
				t.Errorf("the new owner has loaded %q, the store has %q: a stale owner has written", loaded, left)
			}
			if !safe && loaded == left {
				t.Errorf("without the right lock the race went well: the test shows nothing")
			}
		})
	}
}

// race returns what the new owner loads and what is in the store afterwards.
func race(t *testing.T, server *pgproc.Server, lock string) (loaded, left string) {
	t.Helper()
	url := server.URL(schema())
	next := open(t, postgres.Options{URL: url})
	defer func() { _ = next.Close(context.WithoutCancel(t.Context())) }()
	admin, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(t.Context())) }()

	done, pausing := make(chan struct{}), false
	old := open(t, postgres.WithRowLock(postgres.Options{URL: url}, lock, func() {
		if !pausing {
			return
		}
		pausing = false
		go func() {
			defer close(done)
			raise(t, next, actors.Raise{Shard: 1, Epoch: 2, Incarnation: other})
			loaded = get(t, next, 1, "k")
		}()
		eventually(t, func() bool {
			select {
			case <-done:
				return true
			default:
			}
			var waits bool
			const query = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"' || $1 || '".shards%')`
			name := strings.TrimPrefix(url[strings.Index(url, "schema="):], "schema=")
			return admin.QueryRow(t.Context(), query, name).Scan(&waits) == nil && waits
		})
	}))
	defer func() { _ = old.Close(context.WithoutCancel(t.Context())) }()
	raise(t, old, actors.Raise{Shard: 1, Epoch: 1})
	wantCommit(t, old, batch(1, 1, "k", "before"), actors.Done, nil)
	pausing = true
	old.Commit(t.Context(), []actors.Batch{batch(1, 1, "k", "after")})
	<-done
	if lock == postgres.RowLock {
		wantCommit(t, old, batch(1, 1, "k", "late"), actors.Fenced, postgres.ErrFenced)
	}
	return loaded, get(t, next, 1, "k")
}

// TestRecordIsRefusedAlone has the server refuse single records among many
// shards.
func TestRecordIsRefusedAlone(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	name := schema()
	s := open(t, postgres.Options{URL: server.URL(name), MaxValueBytes: 1 << 20})
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	admin(t, server, `ALTER TABLE `+strings.TrimPrefix(name, "schema=")+`.states ADD CHECK (value <> 'bad')`)
	var batches []actors.Batch
	for shard := range uint32(storagetest.Shards) {
		raise(t, s, actors.Raise{Shard: shard, Epoch: 1})
		b := batch(shard, 1, "a\x00", "1", "b", "2", "c", "3")
		switch shard {
		case 2:
			b.Records[1].Value = []byte("bad")
		case 4:
			b.Epoch = 9
		case 5:
			b.Records[2].Value = make([]byte, 1<<20+1)
		case 6:
			b.Records[0].Key = make([]byte, 2601)
		}
		batches = append(batches, b)
	}
	for shard, v := range s.Commit(t.Context(), batches) {
		status, want, says := actors.Done, error(nil), ""
		switch shard {
		case 2:
			status, want, says = actors.Refused, postgres.ErrRecord, `shard 2, key "b"`
		case 4:
			status, want = actors.Fenced, postgres.ErrFenced
		case 5:
			status, want, says = actors.Refused, postgres.ErrRecord, `key "c"`
		case 6:
			status, want, says = actors.Refused, postgres.ErrRecord, "2601 bytes"
		}
		if v.Status != status || !errors.Is(v.Err, want) || want != nil && !strings.Contains(v.Err.Error(), says) {
			t.Errorf("shard %d: %+v, want %d with %q", shard, v, status, says)
		}
		if got, wrote := get(t, s, uint32(shard), "a\x00"), status == actors.Done; (got == "1") != wrote {
			t.Errorf("shard %d: the store has %q", shard, got)
		}
	}
}

// TestLockedRowHoldsUpItsShardOnly has a stranger hold a row.
func TestLockedRowHoldsUpItsShardOnly(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	s := open(t, postgres.Hasty(postgres.Options{URL: server.URL("schema=quern")}))
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	for shard := range uint32(3) {
		raise(t, s, actors.Raise{Shard: shard, Epoch: 1})
	}
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM quern.shards WHERE shard = 1 FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	got := s.Commit(t.Context(), []actors.Batch{batch(0, 1, "k", "v"), batch(1, 1, "k", "v"), batch(2, 1, "k", "v")})
	if got[0].Status != actors.Done || got[2].Status != actors.Done {
		t.Errorf("the others: %+v", got)
	}
	if got[1].Status != actors.Refused || !errors.Is(got[1].Err, postgres.ErrUnavailable) {
		t.Errorf("the held one: %+v", got[1])
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantCommit(t, s, batch(1, 1, "k", "w"), actors.Done, nil)
}

// TestStoreThatWentBack: a row below what was raised stops the shard by name,
// until it is claimed anew.
func TestStoreThatWentBack(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	s := open(t, postgres.Options{URL: server.URL("schema=quern")})
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	raise(t, s, actors.Raise{Shard: 1, Epoch: 7})
	admin(t, server, `UPDATE quern.shards SET epoch = 6 WHERE shard = 1`)
	stopped(t, s, 7, postgres.ErrBackwards)
	raise(t, s, actors.Raise{Shard: 1, Epoch: 8})
	wantCommit(t, s, batch(1, 8, "k", "v"), actors.Done, nil)
}

// TestOtherTimeline: so does a server that was promoted.
func TestOtherTimeline(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	s := open(t, postgres.Options{URL: server.URL()})
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	raise(t, s, actors.Raise{Shard: 1, Epoch: 7})
	wantCommit(t, s, batch(1, 7, "k", "v"), actors.Done, nil)
	if err := errors.Join(server.Stop(), server.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	wantCommit(t, s, batch(1, 7, "k", "w"), actors.Done, nil) // a restart keeps the timeline
	if err := errors.Join(server.Stop(), server.StartAs(t.Context(), "recovery.signal")); err != nil {
		t.Fatal(err)
	}
	stopped(t, s, 7, postgres.ErrTimeline)
	raise(t, s, actors.Raise{Shard: 1, Epoch: 8})
	wantCommit(t, s, batch(1, 8, "k", "v"), actors.Done, nil)
}

// stopped checks that shard 1 answers nothing under its epoch.
func stopped(t *testing.T, s actors.Store, epoch uint64, want error) {
	t.Helper()
	wantCommit(t, s, batch(1, epoch, "k", "v"), actors.Fenced, want)
	if err := s.Read(t.Context(), 1, [][]byte{[]byte("k")}, func(int, []byte) { t.Error("a value was read") }); !errors.Is(err, want) {
		t.Errorf("read: %v, want %v", err, want)
	}
	if err := s.Scan(t.Context(), 1, nil, nil, func(_, _ []byte) bool { t.Error("a value was scanned"); return true }); !errors.Is(err, want) {
		t.Errorf("scan: %v, want %v", err, want)
	}
	raised, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, From: epoch, Epoch: epoch + 1, Incarnation: self}})
	if err != nil || raised[0].OK || !errors.Is(raised[0].Err, want) {
		t.Errorf("raise: %+v, %v, want %v", raised, err, want)
	}
}
