package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quern-io/quern/actors"
)

// Commit appends the batches to the journal, as one frame where they fit, syncs
// it and then shows them to readers. Verdicts other than Done carry: Fenced
// ErrFenced; Refused ErrClosed, ErrBroken, ErrDiskFull, ErrGrow, ErrBehind,
// ErrTooLarge, ErrShard or the context's error; Unclear ErrBroken. Once the append has begun
// ctx is not looked at any more: a disk that hangs holds the call.
func (s *Store) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	verdicts := make([]actors.Verdict, len(batches))
	g, err := s.lockWrite(ctx, 2*s.o.TailBytes)
	if err != nil {
		return s.refuse(verdicts, err)
	}
	defer func() { <-s.write }()
	for done := 0; done < len(batches); {
		n, err := s.commitSome(g, batches[done:], verdicts[done:])
		done += n
		if err != nil {
			g.fail(err)
			s.refuse(verdicts[done:], fmt.Errorf("%w: not begun: %w", ErrBroken, err))
			break
		}
	}
	g.freezeIfFull()
	s.metrics.commits.Inc()
	return verdicts
}

func (s *Store) refuse(verdicts []actors.Verdict, err error) []actors.Verdict {
	for i := range verdicts {
		verdicts[i] = actors.Verdict{Status: actors.Refused, Err: err}
	}
	s.metrics.refused.Add(len(verdicts))
	return verdicts
}

// commitSome commits the first batches, as many as one frame takes, and says how
// many it gave a verdict. An error means that the journal failed. s.write is
// held.
func (s *Store) commitSome(g *generation, batches []actors.Batch, verdicts []actors.Verdict) (int, error) {
	n, size := s.choose(batches, verdicts)
	if size == 0 {
		return n, nil
	}
	if err := s.space.check(int64(size), 1); err != nil {
		s.settle(verdicts[:n], actors.Refused, err)
		return n, nil
	}
	active := g.tails.Load().active
	frame := active.room(frameHeaderSize + size)[:frameHeaderSize]
	records := 0
	for i := range batches[:n] {
		if verdicts[i].Err == nil {
			frame = appendBatch(frame, &batches[i])
			records += len(batches[i].Records)
		}
	}
	err := s.append(g, active, frame)
	switch {
	case err == nil:
		s.metrics.records.Add(records)
		return n, nil
	case errors.Is(err, ErrGrow):
		s.settle(verdicts[:n], actors.Refused, notGrown(err))
		return n, nil
	}
	s.settle(verdicts[:n], actors.Unclear, fmt.Errorf("%w: %w", ErrBroken, err))
	return n, err
}

// notGrown marks an ErrGrow with what it means for the caller.
func notGrown(err error) error {
	if errors.Is(err, errStopped) {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return asFull(err)
}

// choose takes batches from the front until the frame is full, and gives those
// that cannot be written their verdict. size is a bound of what the others take.
func (s *Store) choose(batches []actors.Batch, verdicts []actors.Verdict) (n, size int) {
	for n < len(batches) {
		b := &batches[n]
		need := encodedBound(b)
		switch {
		case b.Shard >= s.info.Shards:
			verdicts[n] = actors.Verdict{Status: actors.Refused, Err: fmt.Errorf("%w: %d of %d", ErrShard, b.Shard, s.info.Shards)}
		case b.Epoch != s.rows[b.Shard].epoch || b.Epoch == 0:
			verdicts[n] = actors.Verdict{Status: actors.Fenced, Err: fmt.Errorf("%w: shard %d, batch %d, row %d", ErrFenced, b.Shard, b.Epoch, s.rows[b.Shard].epoch)}
		case need > s.o.MaxBatchBytes:
			verdicts[n] = actors.Verdict{Status: actors.Refused, Err: fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, need, s.o.MaxBatchBytes)}
		case size > 0 && size+need > s.o.MaxFrameBytes:
			return n, size
		default:
			size += need
		}
		n++
	}
	return n, size
}

// settle gives a verdict to the batches that were about to be written.
func (s *Store) settle(verdicts []actors.Verdict, status actors.Status, err error) {
	for i := range verdicts {
		if verdicts[i].Err == nil {
			verdicts[i] = actors.Verdict{Status: status, Err: err}
			s.metrics.refused.Inc()
		}
	}
}

// append seals a frame that was built in active's room, makes it durable, and
// lets it take effect. s.write is held.
func (s *Store) append(g *generation, active *tail, frame []byte) error {
	start := time.Now()
	sealFrame(frame, g.journal.next, g.journal.salt)
	if err := g.journal.write(frame); err != nil {
		return err
	}
	if s.o.hooks.showBeforeSync {
		if err := s.show(active, frame); err != nil {
			return err
		}
	}
	if err := g.journal.sync(); err != nil {
		return err
	}
	s.o.hooks.at("synced")
	s.metrics.sync.UpdateDuration(start)
	s.metrics.bytes.Add(len(frame))
	if s.o.hooks.showBeforeSync {
		return nil
	}
	return s.show(active, frame)
}

func (s *Store) show(active *tail, frame []byte) error {
	ref := active.accept(len(frame))
	s.applier.tail, s.applier.rows = active, s.rows
	err := s.applier.apply(frame[frameHeaderSize:], ref+frameHeaderSize)
	s.metrics.tail.Set(float64(active.bytes))
	return err
}

// freezeIfFull begins a checkpoint where the active tail is large enough. Its
// failure is no caller's yet: freeze keeps it for makeRoom. s.write is held.
func (g *generation) freezeIfFull() {
	t := g.tails.Load()
	if t.active.bytes >= g.s.o.TailBytes && t.frozen == nil && !g.fence.up.Load() {
		_ = g.freeze()
	}
}

// Raise raises epochs, all with one append. It returns ErrClosed, ErrBroken,
// ErrDiskFull, ErrGrow, ErrBehind, ErrShard, or the context's error. After ErrBroken the
// epochs are perhaps raised; after any other nothing was.
func (s *Store) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	for i := range requests {
		if requests[i].Shard >= s.info.Shards {
			return nil, fmt.Errorf("%w: %d of %d", ErrShard, requests[i].Shard, s.info.Shards)
		}
	}
	// Raises go a little further than commits: a shard must raise to be read
	// again, also while checkpoints fail.
	g, err := s.lockWrite(ctx, 3*s.o.TailBytes)
	if err != nil {
		return nil, err
	}
	defer func() { <-s.write }()
	raised, frame := s.decide(g, requests)
	if len(frame) > frameHeaderSize {
		err = s.append(g, g.tails.Load().active, frame)
	}
	switch {
	case err == nil:
		g.freezeIfFull()
		return raised, nil
	case errors.Is(err, ErrGrow):
		return nil, notGrown(err)
	}
	g.fail(err)
	return nil, fmt.Errorf("%w: %w", ErrBroken, err)
}

// decide answers the requests and builds the frame with the new rows. Raises do
// not look at the free space: they are what a node needs to start on a full
// disk. s.write is held.
func (s *Store) decide(g *generation, requests []actors.Raise) ([]actors.Raised, []byte) {
	frame := g.tails.Load().active.room(frameHeaderSize + len(requests)*rowEntrySize)[:frameHeaderSize]
	raised := make([]actors.Raised, len(requests))
	// A shard that is named twice is answered by what its first request made.
	changed := make(map[uint32]row, len(requests))
	for i := range requests {
		q := &requests[i]
		r, ok := changed[q.Shard]
		if !ok {
			r = s.rows[q.Shard]
		}
		granted, write := raise(r, q)
		if write {
			r.epoch, r.incarnation = q.Epoch, q.Incarnation
			changed[q.Shard] = r
			frame = appendRowEntry(frame, q.Shard, &r)
		}
		raised[i] = actors.Raised{OK: granted, Epoch: r.epoch, Time: r.time}
	}
	return raised, frame
}

// raise says whether r may be raised as q asks, and whether that needs a write.
func raise(r row, q *actors.Raise) (granted, write bool) {
	if q.From == 0 {
		return r.epoch < q.Epoch, r.epoch < q.Epoch
	}
	if r.epoch == q.Epoch && r.incarnation == q.Incarnation {
		return true, false
	}
	ok := r.epoch == q.From && q.Epoch > q.From
	return ok, ok
}
