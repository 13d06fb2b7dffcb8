package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// join writes the cluster's name into a schema that has none, or compares it with
// the one that is there. A store that is used without a cluster leaves it alone:
// the epochs are what protects it then, and the lone node's lock.
func (s *Store) join(ctx context.Context, tx pgx.Tx) error {
	if s.options.Cluster == "" {
		return nil
	}
	if _, err := tx.Exec(ctx, s.sql.addCluster); err != nil {
		return err
	}
	var name string
	if err := tx.QueryRow(ctx, s.sql.name, s.options.Cluster).Scan(&name); err != nil {
		return err
	}
	if name != s.options.Cluster {
		return fmt.Errorf("%w: the schema %q is of the cluster %q, not of %q; name another schema in the URL, as ?schema=NAME", ErrCluster, s.schema, name, s.options.Cluster)
	}
	return nil
}

// share takes the lone node's lock as one of many, for as long as the connection
// lasts, so that no lone node serves beside the members of a cluster.
func (s *Store) share(ctx context.Context, conn *pgx.Conn) error {
	if s.options.Cluster == "" {
		return nil
	}
	if !s.sessions.lock(conn) {
		return ErrClosed
	}
	var had bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock_shared($1)`, s.advisory("lone node")).Scan(&had); err != nil {
		return fmt.Errorf("postgres: the cluster's lock: %w", err)
	}
	if !had {
		return fmt.Errorf("%w: it runs without Consul; stop it, or name another schema in the URL, as ?schema=NAME", ErrTaken)
	}
	return nil
}
