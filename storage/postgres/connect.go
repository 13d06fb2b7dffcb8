package postgres

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// minVersion is the oldest server, as server_version_num writes it.
const minVersion = 130000

// facts is what decides whether a server may be used.
type facts struct {
	version            int
	standby            bool
	fsync, synchronous string
	// line is the history that the server writes: its system's identifier and
	// its timeline. It is empty for engines that have none.
	line string
}

// The settings are missing in some compatible engines; then they are null.
const (
	factsQuery = `SELECT current_setting('server_version_num'), pg_is_in_recovery(),
	current_setting('fsync', true), current_setting('synchronous_commit', true)`
	lineQuery = `, CASE WHEN pg_is_in_recovery() THEN '' ELSE
	(SELECT system_identifier::text FROM pg_control_system()) || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END`
)

// check refuses servers that do not keep what they acknowledge.
func (f facts) check() error {
	switch {
	case f.version < minVersion:
		return fmt.Errorf("%w: it is %d, use PostgreSQL %d or newer", ErrTooOld, f.version/10000, minVersion/10000)
	case f.standby:
		return fmt.Errorf("%w: name the primary, or all hosts separated by commas, in the URL", ErrStandby)
	case f.fsync == "off":
		return fmt.Errorf("%w: fsync is off: set fsync = on in postgresql.conf and restart the server", ErrUnsafe)
	case f.synchronous == "off":
		return fmt.Errorf("%w: synchronous_commit is off: set it to on (or to local, remote_write, remote_apply) for this role and database, and in the URL", ErrUnsafe)
	}
	return nil
}

// lineKey is where a connection keeps its line.
const lineKey = "quern line"

// validate is asked of every new connection. The next host of the URL is tried
// where it fails.
func (s *Store) validate(ctx context.Context, conn *pgconn.PgConn) error {
	f, err := readFacts(ctx, conn, factsQuery+lineQuery)
	if code := sqlState(err); code == codeUndefinedFunction || code == codeNoPrivilege {
		f, err = readFacts(ctx, conn, factsQuery)
	}
	if err != nil {
		return err
	}
	conn.CustomData()[lineKey] = f.line
	return f.check()
}

func readFacts(ctx context.Context, conn *pgconn.PgConn, query string) (facts, error) {
	result := conn.ExecParams(ctx, query, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return facts{}, result.Err
	}
	row := result.Rows[0]
	version, err := strconv.Atoi(string(row[0]))
	if err != nil {
		return facts{}, fmt.Errorf("postgres: server version: %w", err)
	}
	f := facts{version: version, standby: string(row[1]) == "t", fsync: string(row[2]), synchronous: string(row[3])}
	if len(row) > 4 {
		f.line = string(row[4])
	}
	return f, nil
}

// warningsKey is where a connection counts the server's warnings.
const warningsKey = "quern warnings"

func onNotice(conn *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		count, _ := conn.CustomData()[warningsKey].(int)
		conn.CustomData()[warningsKey] = count + 1
	}
}

func warnings(conn *pgx.Conn) int {
	count, _ := conn.PgConn().CustomData()[warningsKey].(int)
	return count
}

// lineOf returns the line of a connection that was validated.
func lineOf(conn *pgx.Conn) string {
	line, _ := conn.PgConn().CustomData()[lineKey].(string)
	return line
}

// settings are those of every session, where the server has them. All our
// queries are look-ups by key: plans that read a whole table are never right,
// however little the planner knows. The rest makes the server let go of what a
// client that has gone was holding.
func (s *Store) settings() (names, values []string) {
	ms := func(d int64) string { return strconv.FormatInt(d, 10) }
	for _, set := range [][2]string{
		{"enable_seqscan", "off"},
		{"enable_bitmapscan", "off"},
		{"enable_hashjoin", "off"},
		{"enable_mergejoin", "off"},
		{"jit", "off"},
		{"lock_timeout", ms(s.options.LockTimeout.Milliseconds())},
		{"statement_timeout", ms(s.options.Timeout.Milliseconds())},
		{"idle_in_transaction_session_timeout", ms(idleInTransaction.Milliseconds())},
		{"client_connection_check_interval", "1000"},
		{"tcp_keepalives_idle", "5"},
		{"tcp_keepalives_interval", "2"},
		{"tcp_keepalives_count", "3"},
	} {
		names, values = append(names, set[0]), append(values, set[1])
	}
	return names, values
}

// afterConnect sets a session up and makes sure that it is of the cluster that
// was opened. synchronous_commit is set to what it was checked to be, so that a
// reload of the server's configuration does not change it.
func (s *Store) afterConnect(ctx context.Context, conn *pgx.Conn) error {
	names, values := s.settings()
	const query = `SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS s(name, value)
	WHERE EXISTS (SELECT FROM pg_settings p WHERE p.name = s.name)
	UNION ALL SELECT set_config('synchronous_commit', current_setting('synchronous_commit', true), false)
	WHERE current_setting('synchronous_commit', true) IS NOT NULL`
	if _, err := conn.Exec(ctx, query, names, values); err != nil {
		return fmt.Errorf("postgres: session settings: %w", err)
	}
	if err := s.share(ctx, conn); err != nil {
		return err
	}
	known := s.cluster.Load()
	if known == nil {
		return nil // Open makes or reads it
	}
	var id []byte
	if err := conn.QueryRow(ctx, s.sql.clusterID).Scan(&id); err != nil {
		return fmt.Errorf("postgres: cluster id: %w", err)
	}
	if !bytes.Equal(id, known[:]) {
		return fmt.Errorf("%w: it had the id %x and has %x: another database answers under this URL", ErrOtherCluster, *known, id)
	}
	return nil
}

// where names the hosts of the URL.
func (s *Store) where() string {
	cfg := s.pool.Config().ConnConfig
	hosts := []string{cfg.Host}
	for _, f := range cfg.Fallbacks {
		if f.Host != hosts[len(hosts)-1] {
			hosts = append(hosts, f.Host)
		}
	}
	return strings.Join(hosts, ",")
}
