package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/keyspace"
)

// What the row of meta says.
const (
	formatVersion = 1
	formatHash    = "xxh64"
)

// rowLock is what a commit takes on the rows of its shards. It must conflict
// with itself and with the lock of a raise: FOR KEY SHARE, or no lock, would let
// an owner commit after the next one has loaded. It is stronger than FOR SHARE
// because the commit then changes the rows' time: two that held FOR SHARE would
// wait for each other.
const rowLock = "FOR NO KEY UPDATE"

// statements are all that a running store asks, with the schema filled in.
type statements struct {
	exists, meta, clusterID          string
	create                           []string
	insertMeta, insertShards         string
	lockShards, lockFree             string
	upsert, remove, touch            string
	rows, raise                      string
	read, epoch, scanAll, scanBefore string
	own, disown                      string
	addCluster, name                 string
}

// newStatements writes the queries. A row of shards has the highest epoch that
// was raised, in 64 bits of which bigint shows the highest as a sign.
// The schema's name was checked, and is quoted, since it may be a word of SQL.
func newStatements(schema, rowLock string) statements {
	quoted := quote(schema)
	meta, shards, states := quoted+".meta", quoted+".shards", quoted+".states"
	lock := `SELECT shard, epoch, coalesce(current_setting('fsync', true), '') FROM ` + shards + ` WHERE shard = ANY($1) ORDER BY shard ` + rowLock
	return statements{
		exists: `SELECT to_regclass($1) IS NOT NULL, EXISTS (SELECT FROM pg_namespace WHERE nspname = $2),
	EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2)`,
		meta:      `SELECT format, cluster_id, shards, hash FROM ` + meta,
		clusterID: `SELECT cluster_id FROM ` + meta,
		create: []string{
			`CREATE TABLE ` + meta + ` (one boolean PRIMARY KEY DEFAULT true CHECK (one), format integer NOT NULL,
	cluster_id bytea NOT NULL, shards integer NOT NULL, hash text NOT NULL, owner bytea, cluster text)`,
			`CREATE TABLE ` + shards + ` (shard integer PRIMARY KEY, epoch bigint NOT NULL, incarnation bytea NOT NULL,
	time bigint NOT NULL) WITH (fillfactor = 10)`,
			`CREATE TABLE ` + states + ` (shard integer NOT NULL, key bytea NOT NULL, value bytea NOT NULL,
	PRIMARY KEY (shard, key)) WITH (fillfactor = 85)`,
		},
		insertMeta: `INSERT INTO ` + meta + ` (format, cluster_id, shards, hash) VALUES ($1, $2, $3, $4)`,
		insertShards: `INSERT INTO ` + shards + ` (shard, epoch, incarnation, time)
	SELECT n, 0, '\x00000000000000000000000000000000', 0 FROM generate_series(0, $1::integer - 1) AS n`,
		lockShards: lock,
		lockFree:   lock + ` SKIP LOCKED`,
		upsert: `INSERT INTO ` + states + ` (shard, key, value)
	SELECT * FROM unnest($1::integer[], $2::bytea[], $3::bytea[])
	ON CONFLICT (shard, key) DO UPDATE SET value = excluded.value`,
		remove: `DELETE FROM ` + states + ` s USING unnest($1::integer[], $2::bytea[]) AS d(shard, key)
	WHERE s.shard = d.shard AND s.key = d.key`,
		touch: `UPDATE ` + shards + ` s SET time = b.time FROM unnest($1::integer[], $2::bigint[]) AS b(shard, time)
	WHERE s.shard = b.shard`,
		rows: `SELECT shard, epoch, incarnation, time FROM ` + shards + ` WHERE shard = ANY($1) ORDER BY shard FOR NO KEY UPDATE`,
		raise: `UPDATE ` + shards + ` s SET epoch = r.epoch, incarnation = r.incarnation
	FROM unnest($1::integer[], $2::bigint[], $3::bytea[]) AS r(shard, epoch, incarnation) WHERE s.shard = r.shard`,
		// A look-up per key, also where the planner knows nothing of the table
		// yet: with a plain join it may compare each key with the whole shard.
		read: `SELECT k.i, s.value FROM unnest($2::bytea[]) WITH ORDINALITY AS k(key, i)
	CROSS JOIN LATERAL (SELECT value FROM ` + states + ` x WHERE x.shard = $1 AND x.key = k.key LIMIT 1) s`,
		epoch:      `SELECT epoch FROM ` + shards + ` WHERE shard = $1`,
		scanAll:    `SELECT key, value FROM ` + states + ` WHERE shard = $1 AND key >= $2 ORDER BY key LIMIT $3`,
		scanBefore: `SELECT key, value FROM ` + states + ` WHERE shard = $1 AND key >= $2 AND key < $4 ORDER BY key LIMIT $3`,
		own: `UPDATE ` + meta + ` SET owner = $1 FROM (SELECT owner FROM ` + meta + `) AS before
	RETURNING coalesce(before.owner = $1, true)`,
		disown:     `UPDATE ` + meta + ` SET owner = NULL WHERE owner = $1`,
		addCluster: `ALTER TABLE ` + meta + ` ADD COLUMN IF NOT EXISTS cluster text`,
		name:       `UPDATE ` + meta + ` SET cluster = coalesce(cluster, $1) RETURNING cluster`,
	}
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// advisory returns the number of an advisory lock of this schema. Such locks
// belong to a database.
func (s *Store) advisory(what string) int64 {
	return int64(xxhash.Sum64String("quern " + s.schema + " " + what))
}

// setUp makes the tables where there are none, and reads what the store is. An
// advisory lock keeps others from doing so at the same time.
func (s *Store) setUp(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, s.advisory("set-up")); err != nil {
			return err
		}
		var made, schema, inUse bool
		if err := tx.QueryRow(ctx, s.sql.exists, quote(s.schema)+".meta", s.schema).Scan(&made, &schema, &inUse); err != nil {
			return err
		}
		switch {
		case made:
		case inUse:
			return s.foreign(nil)
		default:
			if err := s.create(ctx, tx, schema); err != nil {
				return err
			}
		}
		if err := s.readMeta(ctx, tx); err != nil {
			return err
		}
		return s.join(ctx, tx)
	})
}

func (s *Store) foreign(err error) error {
	return errors.Join(fmt.Errorf("%w: the schema %q holds something else; name another one in the URL, as ?schema=NAME", ErrForeign, s.schema), err)
}

func (s *Store) create(ctx context.Context, tx pgx.Tx, schema bool) error {
	if !schema {
		if _, err := tx.Exec(ctx, `CREATE SCHEMA `+quote(s.schema)); err != nil {
			return err
		}
	}
	for _, table := range s.sql.create {
		if _, err := tx.Exec(ctx, table); err != nil {
			return err
		}
	}
	shards := s.options.Shards
	if shards == 0 {
		shards = keyspace.DefaultShards
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	if _, err := tx.Exec(ctx, s.sql.insertMeta, formatVersion, id, int32(shards), formatHash); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, s.sql.insertShards, int32(shards))
	return err
}

func (s *Store) readMeta(ctx context.Context, tx pgx.Tx) error {
	var format, shards int32
	var id []byte
	var hash string
	if err := tx.QueryRow(ctx, s.sql.meta).Scan(&format, &id, &shards, &hash); err != nil {
		if sqlState(err) != "" || errors.Is(err, pgx.ErrNoRows) {
			return s.foreign(err)
		}
		return err
	}
	switch {
	case format > formatVersion:
		return fmt.Errorf("%w: the schema %q has format %d, this version knows %d; use the version that made it, or a newer one", ErrNewer, s.schema, format, formatVersion)
	case hash != formatHash || len(id) != 16 || !keyspace.ValidShards(uint32(shards)):
		return s.foreign(nil)
	case s.options.Shards != 0 && s.options.Shards != uint32(shards):
		return fmt.Errorf("%w: the schema %q has %d, asked for %d; leave the number away or name another schema", ErrShards, s.schema, shards, s.options.Shards)
	}
	s.info = actors.StoreInfo{Name: "postgres", Durable: true, ClusterID: [16]byte(id), Shards: uint32(shards)}
	return nil
}
