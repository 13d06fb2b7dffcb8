package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// admin runs statements as the superuser.
func admin(t *testing.T, server *pgproc.Server, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	for _, statement := range statements {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// TestOpenTogether opens a schema that does not exist yet many times at once.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	url := server.URL("schema=user", "pool_max_conns=2") // a word of SQL
	infos := make([]actors.StoreInfo, 12)
	var all sync.WaitGroup
	for i := range infos {
		all.Go(func() {
			s, err := postgres.Open(t.Context(), postgres.Options{URL: url, Shards: 16})
			if err != nil {
				t.Error(err)
				return
			}
			infos[i] = s.Info()
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, info := range infos {
		if info != infos[0] || info.Shards != 16 || info.ClusterID == [16]byte{} {
			t.Fatalf("one is %+v, the first %+v", info, infos[0])
		}
	}
}

// TestOpenRefuses checks that what cannot work is refused with what to do.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	made := schema()
	s := open(t, postgres.Options{URL: server.URL(made)})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	newer := schema()
	s = open(t, postgres.Options{URL: server.URL(newer)})
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin(t, server, `CREATE ROLE locked LOGIN PASSWORD 'right'`, `CREATE ROLE guest LOGIN`, `CREATE ROLE lax LOGIN`,
		`ALTER ROLE lax SET synchronous_commit = off`, `CREATE SCHEMA theirs`, `CREATE TABLE theirs.shards (id int)`,
		`UPDATE `+strings.TrimPrefix(newer, "schema=")+`.meta SET format = 2`)
	for name, tt := range map[string]struct {
		url    string
		shards uint32
		want   error
		says   string
	}{
		"no URL":             {"", 0, postgres.ErrURL, "postgres://user@host/database"},
		"a DSN":              {"host=localhost", 0, postgres.ErrURL, "postgres://user@host/database"},
		"bad schema":         {server.URL("schema=A%3Bdrop"), 0, postgres.ErrURL, "schema=A;drop"},
		"system schema":      {server.URL("schema=pg_catalog"), 0, postgres.ErrURL, "pg_catalog"},
		"standby wanted":     {server.URL("target_session_attrs=standby"), 0, postgres.ErrURL, "primary only"},
		"odd shards":         {server.URL(), 3, postgres.ErrShards, "power of two"},
		"wrong password":     {server.URLAs("locked", "wrong", pgproc.Role), 0, postgres.ErrDenied, "pg_hba.conf"},
		"no such database":   {server.URLAs(pgproc.Role, "", "nowhere"), 0, postgres.ErrNoDatabase, "CREATE DATABASE"},
		"no permission":      {server.URLAs("guest", "", pgproc.Role), 0, postgres.ErrDenied, "CREATE SCHEMA quern AUTHORIZATION"},
		"tables not granted": {server.URLAs("guest", "", pgproc.Role, made), 0, postgres.ErrDenied, "AUTHORIZATION"},
		"other shards":       {server.URL(made), 16, postgres.ErrShards, "has 8, asked for 16"},
		"somebody's schema":  {server.URL("schema=theirs"), 0, postgres.ErrForeign, "?schema=NAME"},
		"newer format":       {server.URL(newer), 0, postgres.ErrNewer, "format 2"},
		"unsafe role":        {server.URLAs("lax", "", pgproc.Role), 0, postgres.ErrUnsafe, "synchronous_commit is off"},
		"unsafe URL":         {server.URL("synchronous_commit=off"), 0, postgres.ErrUnsafe, "synchronous_commit is off"},
		"nobody there":       {"postgres://u:secret@127.0.0.1:1/d", 0, postgres.ErrUnavailable, "127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := postgres.Open(t.Context(), postgres.Hasty(postgres.Options{URL: tt.url, Shards: tt.shards}))
			if err == nil {
				_ = s.Close(t.Context())
			}
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the password is shown: %v", err)
			}
		})
	}
}

func TestServersThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		version            int
		standby            bool
		fsync, synchronous string
		want               error
	}{
		"fit":                {150000, false, "on", "on", nil},
		"without settings":   {130000, false, "", "", nil},
		"waits for standbys": {150000, false, "on", "remote_apply", nil},
		"old":                {120018, false, "on", "on", postgres.ErrTooOld},
		"standby":            {150000, true, "on", "on", postgres.ErrStandby},
		"fsync off":          {150000, false, "off", "on", postgres.ErrUnsafe},
		"commit off":         {150000, false, "on", "off", postgres.ErrUnsafe},
	} {
		if err := postgres.CheckFacts(tt.version, tt.standby, tt.fsync, tt.synchronous); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// TestFsyncIsWatched: fsync is refused at the start, and when it is switched off
// under an open store.
func TestFsyncIsWatched(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	s := open(t, postgres.Options{URL: server.URL()})
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	raise(t, s, actors.Raise{Shard: 1, Epoch: 1})
	wantCommit(t, s, batch(1, 1, "k", "v"), actors.Done, nil)
	admin(t, server, `ALTER SYSTEM SET fsync = off`, `SELECT pg_reload_conf()`)
	conn, err := pgx.Connect(t.Context(), server.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	eventually(t, func() bool {
		v := s.Commit(t.Context(), []actors.Batch{batch(1, 1, "k", "w")})[0]
		return v.Status == actors.Refused && errors.Is(v.Err, postgres.ErrUnsafe)
	})
	if _, err := postgres.Open(t.Context(), postgres.Options{URL: server.URL()}); !errors.Is(err, postgres.ErrUnsafe) {
		t.Errorf("open: %v", err)
	}
}

func TestStandbyIsRefused(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	s := open(t, postgres.Hasty(postgres.Options{URL: server.URL()}))
	defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
	raise(t, s, actors.Raise{Shard: 1, Epoch: 1})
	if err := errors.Join(server.Stop(), server.StartAs(t.Context(), "standby.signal")); err != nil {
		t.Fatal(err)
	}
	wantCommit(t, s, batch(1, 1, "k", "v"), actors.Refused, postgres.ErrStandby)
	if err := s.Read(t.Context(), 1, nil, nil); !errors.Is(err, postgres.ErrStandby) {
		t.Errorf("read: %v", err)
	}
	if _, err := postgres.Open(t.Context(), postgres.Hasty(postgres.Options{URL: server.URL()})); !errors.Is(err, postgres.ErrStandby) {
		t.Errorf("open: %v", err)
	}
}
