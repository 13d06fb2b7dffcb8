package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/quern-io/quern/failure"
)

// Errors of Open. Each comes wrapped in a message that says what to do.
var (
	// ErrURL: the URL cannot be used.
	ErrURL = errors.New("postgres: bad URL")
	// ErrDenied: the server refuses the role or its password.
	ErrDenied = failure.NewCause(failure.StoreUnavailable, "postgres: access denied")
	// ErrNoDatabase: the server has no such database.
	ErrNoDatabase = failure.NewCause(failure.StoreUnavailable, "postgres: no such database")
	// ErrForeign: the schema holds tables that are not Quern's.
	ErrForeign = errors.New("postgres: not a Quern schema")
	// ErrNewer: the schema was made by a newer version.
	ErrNewer = errors.New("postgres: schema has a newer format")
	// ErrShards: the schema was made with another number of shards.
	ErrShards = errors.New("postgres: other number of shards")
	// ErrTooOld: the server is older than PostgreSQL 13.
	ErrTooOld = errors.New("postgres: server is too old")
	// ErrTaken: another lone node has the store.
	ErrTaken = errors.New("postgres: another node has the store")
	// ErrCluster: the schema is of another cluster.
	ErrCluster = errors.New("postgres: another cluster's store")
)

// Errors of Open and of a running store.
var (
	// ErrUnavailable: the server cannot be reached or does not work at
	// present. Nothing was done, but for an Unclear verdict. Retryable.
	ErrUnavailable = failure.NewCause(failure.StoreUnavailable, "postgres: server is not available")
	// ErrStandby: the server is no primary. Retryable.
	ErrStandby = failure.NewCause(failure.StoreUnavailable, "postgres: server is a standby")
	// ErrUnsafe: the server runs with fsync=off or synchronous_commit=off, so
	// that what it acknowledges can be lost. Nothing was done.
	ErrUnsafe = failure.NewCause(failure.StoreUnavailable, "postgres: server does not keep what it acknowledges")
	// ErrOtherCluster: the schema has another cluster id than when the store
	// was opened. Terminal until the store is opened again.
	ErrOtherCluster = failure.NewCause(failure.StoreUnavailable, "postgres: schema belongs to another cluster")
)

// Errors of a running store.
var (
	// ErrClosed: the store was closed. Terminal.
	ErrClosed = failure.NewCause(failure.Stopping, "postgres: store is closed")
	// ErrFull: the server has no room or no memory. Nothing was written.
	// Retryable.
	ErrFull = failure.NewCause(failure.Overloaded, "postgres: server is out of room")
	// ErrRecord: the server does not take a record; the message names the
	// record. Nothing of its shard's batch was written. Terminal.
	ErrRecord = failure.NewCause(failure.Limit, "postgres: record refused")
	// ErrShard: there is no such shard. Terminal.
	ErrShard = failure.NewCause(failure.Internal, "postgres: no such shard")
	// ErrFenced: the shard has a higher epoch. Terminal for the epoch.
	ErrFenced = errors.New("postgres: the shard has another epoch")
	// ErrBackwards: the shard's epoch in the store is below one that this
	// process has raised: the store was restored from a backup, or a server
	// took over that lacked commits. Terminal until the shard is claimed anew.
	ErrBackwards = failure.NewCause(failure.StoreUnavailable, "postgres: the store has gone back")
	// ErrTimeline: the server is on another timeline than the one on which
	// the shard's epoch was raised: a standby was promoted, perhaps without
	// the last commits. Terminal until the shard is claimed anew.
	ErrTimeline = failure.NewCause(failure.StoreUnavailable, "postgres: the server is on another timeline")
)

// SQLSTATE codes and classes that are told apart.
const (
	codeUndefinedFunction = "42883"
	codeUndefinedTable    = "42P01"
	codeNoPrivilege       = "42501"
	codeNoDatabase        = "3D000"
	codeBadPassword       = "28P01"
	codeBadAuthorization  = "28000"
	codeLockNotAvailable  = "55P03"
	codeSerialization     = "40001"
	codeDeadlock          = "40P01"
	classNoResources      = "53"
	classBadData          = "22"
	classConstraint       = "23"
	classLimits           = "54"
)

// sqlState returns the code of what the server said, empty where the error is
// none of the server's.
func sqlState(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// blamesRecords says whether the server refused what it was to write, so that
// trying again is in vain.
func blamesRecords(err error) bool {
	code := sqlState(err)
	for _, class := range []string{classBadData, classConstraint, classLimits} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// settled says whether an error stands, whatever is tried again.
func settled(err error) bool {
	for _, final := range []error{ErrTooOld, ErrUnsafe, ErrOtherCluster, ErrForeign, ErrNewer, ErrShards, ErrCluster, ErrFull, ErrShard, ErrTimeline, ErrBackwards, ErrClosed} {
		if errors.Is(err, final) {
			return true
		}
	}
	switch code := sqlState(err); code {
	case "", codeSerialization, codeDeadlock, codeLockNotAvailable:
		return false
	default:
		// Classes 08 and 57, 25 (a transaction that the server ended, or a
		// primary that became read-only) and 53300, too many connections, may
		// be better in a moment.
		return !strings.HasPrefix(code, "08") && !strings.HasPrefix(code, "57") && !strings.HasPrefix(code, "25") && code != "53300"
	}
}

// explain says what to do about an error of the server or of the way to it.
func (s *Store) explain(err error) error {
	at := fmt.Sprintf("server %s, database %q, role %q", s.where(), s.pool.Config().ConnConfig.Database, s.pool.Config().ConnConfig.User)
	var known interface{ Reason() failure.Reason }
	switch code := sqlState(err); {
	case err == nil, errors.As(err, &known), errors.Is(err, ErrTooOld), errors.Is(err, ErrForeign), errors.Is(err, ErrNewer), errors.Is(err, ErrShards), errors.Is(err, ErrCluster), errors.Is(err, ErrTaken), blamesRecords(err):
		return err
	case code == codeBadPassword, code == codeBadAuthorization:
		return fmt.Errorf("%w: %s: check role and password in the URL, and pg_hba.conf: %w", ErrDenied, at, err)
	case code == codeNoDatabase:
		return fmt.Errorf("%w: %s: create it with CREATE DATABASE: %w", ErrNoDatabase, at, err)
	case code == codeNoPrivilege:
		return fmt.Errorf("%w: %s: have the owner of the database run CREATE SCHEMA %s AUTHORIZATION for this role, or grant it CREATE on the database: %w", ErrDenied, at, s.schema, err)
	case code == codeUndefinedTable:
		return fmt.Errorf("%w: %s: a table of the schema %q is gone; restore it from a backup: %w", ErrUnavailable, at, s.schema, err)
	case strings.HasPrefix(code, classNoResources) && code != "53300":
		return fmt.Errorf("%w: %s: make room for its data and its log: %w", ErrFull, at, err)
	default:
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, at, err)
	}
}
