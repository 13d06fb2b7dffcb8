package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/quern-io/quern/actors"
)

// statementBytes is about how much one statement writes at most.
const statementBytes = 8 << 20

// item is one batch on its way.
type item struct {
	batch   *actors.Batch
	verdict *actors.Verdict
	// sets and removes are the batch's records in the order of their keys,
	// each key once.
	sets, removes []*actors.Record
	settled       bool
}

func (it *item) settle(status actors.Status, err error) {
	*it.verdict, it.settled = actors.Verdict{Status: status, Err: err}, true
}

// Commit writes all batches in one transaction, which holds the rows of their
// shards from the check of the epochs to its end. Fenced batches are left out,
// and so are those whose rows others hold for longer than Options.LockTimeout.
// Where the server refuses a record, the batches are committed apart until the
// one that holds it is alone; that is Refused with ErrRecord. A server that is
// away is tried again for as long as Options.Patience, then everything is
// Refused with ErrUnavailable. Unclear are those whose transaction was to be
// committed when the answer failed to come.
func (s *Store) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := make([]actors.Verdict, len(batches))
	items := make([]*item, 0, len(batches))
	for i := range batches {
		it := &item{batch: &batches[i], verdict: &verdicts[i]}
		if s.prepare(it); !it.settled {
			items = append(items, it)
		}
	}
	slices.SortStableFunc(items, func(a, b *item) int { return int(a.batch.Shard) - int(b.batch.Shard) })
	for len(items) > 0 {
		var now, later []*item
		for _, it := range items {
			if len(now) > 0 && now[len(now)-1].batch.Shard == it.batch.Shard {
				later = append(later, it) // the same shard again
				continue
			}
			now = append(now, it)
		}
		s.commit(ctx, now)
		items = later
	}
	return verdicts
}

// prepare puts a batch's records in order, or settles it.
func (s *Store) prepare(it *item) {
	if err := s.check(it.batch.Shard); err != nil {
		it.settle(actors.Refused, err)
		return
	}
	if it.batch.Epoch == 0 {
		it.settle(actors.Fenced, fmt.Errorf("%w: shard %d, batch 0", ErrFenced, it.batch.Shard))
		return
	}
	records := make([]*actors.Record, len(it.batch.Records))
	for i := range records {
		r := &it.batch.Records[i]
		records[i] = r
		if len(r.Key) > maxKey || !r.Delete && len(r.Value) > s.options.MaxValueBytes {
			it.settle(actors.Refused, fmt.Errorf("%w: %s: a key has at most %d bytes, a value %d", ErrRecord, describe(it.batch.Shard, r), maxKey, s.options.MaxValueBytes))
			return
		}
	}
	slices.SortStableFunc(records, func(a, b *actors.Record) int { return bytes.Compare(a.Key, b.Key) })
	for i, r := range records {
		switch {
		case i+1 < len(records) && bytes.Equal(r.Key, records[i+1].Key): // a later one wins
		case r.Delete:
			it.removes = append(it.removes, r)
		default:
			it.sets = append(it.sets, r)
		}
	}
}

func describe(shard uint32, r *actors.Record) string {
	const shown = 64
	return fmt.Sprintf("shard %d, key %q of %d bytes, value of %d bytes", shard, r.Key[:min(shown, len(r.Key))], len(r.Key), len(r.Value))
}

// commit settles items of different shards, in the order of shards.
func (s *Store) commit(ctx context.Context, items []*item) {
	err := s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error { return s.transact(ctx, conn, items) })
	if err == nil {
		return
	}
	open := slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return it.settled })
	switch {
	case blamesRecords(err) && len(open) > 1:
		s.commit(ctx, open[:len(open)/2])
		s.commit(ctx, open[len(open)/2:])
	case blamesRecords(err) && len(open) == 1:
		open[0].settle(actors.Refused, s.blame(ctx, open[0], err))
	default:
		for _, it := range open {
			it.settle(actors.Refused, err)
		}
	}
}

// transact settles items in one transaction. It returns an error where nothing
// was written.
func (s *Store) transact(ctx context.Context, conn *pgx.Conn, items []*item) error {
	defer s.rollback(ctx, conn)
	for _, it := range items {
		it.settled = false
	}
	err := s.lock(ctx, conn, items, s.sql.lockShards)
	if sqlState(err) == codeLockNotAvailable {
		s.rollback(ctx, conn)
		err = s.lock(ctx, conn, items, s.sql.lockFree)
	}
	if err != nil {
		return err
	}
	if s.options.hooks.locked != nil {
		s.options.hooks.locked()
	}
	live := slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return it.settled })
	if len(live) == 0 {
		return nil
	}
	return s.write(ctx, conn, live)
}

// rollback ends a transaction that was left open, so that its connection can be
// used again.
func (s *Store) rollback(ctx context.Context, conn *pgx.Conn) {
	if !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		_, _ = conn.Exec(ctx, "rollback") // a connection on which it fails is thrown away
	}
}

// lock begins a transaction, takes the rows of the items' shards, and settles
// those that must not be written.
func (s *Store) lock(ctx context.Context, conn *pgx.Conn, items []*item, query string) error {
	shards := make([]int32, len(items))
	for i, it := range items {
		shards[i] = int32(it.batch.Shard)
	}
	epochs := make(map[uint32]uint64, len(items))
	var b pgx.Batch
	b.Queue("begin")
	b.Queue(query, shards).Query(func(rows pgx.Rows) error {
		var shard int32
		var epoch int64
		var fsync string
		_, err := pgx.ForEachRow(rows, []any{&shard, &epoch, &fsync}, func() error {
			if fsync == "off" {
				return fmt.Errorf("%w: fsync was switched off: set fsync = on in postgresql.conf", ErrUnsafe)
			}
			epochs[uint32(shard)] = uint64(epoch)
			return nil
		})
		return err
	})
	if err := conn.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	line := lineOf(conn)
	for _, it := range items {
		epoch, found := epochs[it.batch.Shard]
		s.fence(it, epoch, found, line)
	}
	return nil
}

// fence settles an item whose epoch is not the row's, or whose row was not had.
func (s *Store) fence(it *item, epoch uint64, found bool, line string) {
	shard := it.batch.Shard
	if !found {
		it.settle(actors.Refused, fmt.Errorf("%w: another transaction holds the row of shard %d in %s.shards, or the row is gone", ErrUnavailable, shard, s.schema))
		return
	}
	if err := s.claims[shard].check(shard, epoch, line); err != nil {
		it.settle(actors.Fenced, err)
		return
	}
	if epoch != it.batch.Epoch {
		it.settle(actors.Fenced, fmt.Errorf("%w: shard %d, batch %d, row %d", ErrFenced, shard, it.batch.Epoch, epoch))
	}
}

// write sends what the items hold, and the commit with it.
func (s *Store) write(ctx context.Context, conn *pgx.Conn, items []*item) error {
	var b pgx.Batch
	s.queueSets(&b, items)
	s.queueRemoves(&b, items)
	s.queueTimes(&b, items)
	b.Queue("commit")
	warned := warnings(conn)
	results := conn.SendBatch(ctx, &b)
	if s.options.hooks.sent != nil {
		s.options.hooks.sent()
	}
	for range b.Len() - 1 {
		if _, err := results.Exec(); err != nil {
			_ = results.Close() // says the same
			return s.unanswered(items, err)
		}
	}
	tag, err := results.Exec()
	_ = results.Close() // the transaction has ended; a broken connection is thrown away
	switch {
	case err != nil && notCommitted(err):
		return err
	case err == nil && tag.String() != "COMMIT":
		return fmt.Errorf("postgres: the server answered %s to a commit", tag)
	case err == nil && warnings(conn) != warned:
		// The wait for a synchronous standby was cut short.
		err = errors.New("postgres: the server warned while it committed")
	}
	for _, it := range items {
		if err != nil {
			it.settle(actors.Unclear, fmt.Errorf("%w: the commit was not answered: %w", ErrUnavailable, err))
		} else {
			it.settle(actors.Done, nil)
		}
	}
	return nil
}

// unanswered takes a failure before the answer to the commit: what the server
// itself refused was rolled back, since it skips the rest of what was sent. Else
// it perhaps got as far as the commit.
func (s *Store) unanswered(items []*item, err error) error {
	if sqlState(err) != "" {
		return err
	}
	for _, it := range items {
		it.settle(actors.Unclear, fmt.Errorf("%w: the connection was lost during the commit: %w", ErrUnavailable, err))
	}
	return nil
}

// notCommitted says whether the server's answer to a commit means that it has
// rolled back. 40003, completion unknown, does not.
func notCommitted(err error) bool {
	code := sqlState(err)
	return code == codeSerialization || code == codeDeadlock || blamesRecords(err)
}

func (s *Store) queueSets(b *pgx.Batch, items []*item) {
	var shards []int32
	var keys, values [][]byte
	size := 0
	flush := func() {
		if len(shards) > 0 {
			b.Queue(s.sql.upsert, shards, keys, values)
		}
		shards, keys, values, size = nil, nil, nil, 0
	}
	for _, it := range items {
		for _, r := range it.sets {
			shards, keys, values = append(shards, int32(it.batch.Shard)), append(keys, notNil(r.Key)), append(values, notNil(r.Value))
			if size += len(r.Key) + len(r.Value); size >= statementBytes {
				flush()
			}
		}
	}
	flush()
}

// notNil keeps an empty slice from being null.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func (s *Store) queueRemoves(b *pgx.Batch, items []*item) {
	var shards []int32
	var keys [][]byte
	for _, it := range items {
		for _, r := range it.removes {
			shards, keys = append(shards, int32(it.batch.Shard)), append(keys, notNil(r.Key))
		}
	}
	if len(shards) > 0 {
		b.Queue(s.sql.remove, shards, keys)
	}
}

func (s *Store) queueTimes(b *pgx.Batch, items []*item) {
	shards, times := make([]int32, len(items)), make([]int64, len(items))
	for i, it := range items {
		shards[i], times[i] = int32(it.batch.Shard), it.batch.Time
	}
	b.Queue(s.sql.touch, shards, times)
}

// blame names the record of a batch that the server does not take: the last one
// of the shortest beginning of the batch that fails.
func (s *Store) blame(ctx context.Context, it *item, refusal error) error {
	low, high := 0, len(it.sets) // the first low records are taken, the first high are not
	for low < high {
		middle := (low + high) / 2
		err := s.try(ctx, &item{batch: it.batch, sets: it.sets[:middle+1]})
		switch {
		case err == nil:
			low = middle + 1
		case blamesRecords(err):
			high, refusal = middle, err
		default:
			low, high = len(it.sets), 0
		}
	}
	if low == len(it.sets) {
		return fmt.Errorf("%w: shard %d: %w", ErrRecord, it.batch.Shard, refusal)
	}
	return fmt.Errorf("%w: %s: %w", ErrRecord, describe(it.batch.Shard, it.sets[low]), refusal)
}

// try writes an item's records and rolls back.
func (s *Store) try(ctx context.Context, it *item) error {
	return s.do(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		defer s.rollback(ctx, conn)
		var b pgx.Batch
		b.Queue("begin")
		s.queueSets(&b, []*item{it})
		b.Queue("rollback")
		return conn.SendBatch(ctx, &b).Close()
	})
}
