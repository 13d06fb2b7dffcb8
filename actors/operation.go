package actors

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/keyspace"
)

// MaxIdempotencyKeyBytes is the longest idempotency key.
const MaxIdempotencyKeyBytes = 128

// Operation is one call on one grain.
type Operation struct {
	Kind, Key string
	// Method is the full name of the method, for messages and for telling
	// requests apart.
	Method string
	// IdempotencyKey is empty where a repeat counts again.
	IdempotencyKey string
	// Session numbers the operation in a session of the shard; a repeat of a
	// number gets the first answer. It excludes an idempotency key.
	Session Session
	// Memo is of the session; it may be nil.
	Memo *handles.Memo
	// Guard, where not nil, is the lock under which the operation writes: a
	// token below one that the grain was written under is FENCED_TOKEN.
	Guard          *Guard
	Command, Reply proto.Message
}

// Session is an operation's place in a client's session at a shard.
type Session struct {
	// ID is the 16 bytes that the shard gave; empty for no session.
	ID string
	// Number is the operation's, from 1 on.
	Number uint64
	// Settled: every number up to it is settled at the client, which will not
	// ask for it again.
	Settled uint64
	// Waits says that the operation may wait for others. Such operations have
	// numbers of their own.
	Waits bool
	// SettledOther is Settled of the other kind of numbers.
	SettledOther uint64
}

// Completer takes the end of what was submitted.
type Completer interface {
	// Completed is called once, on whatever goroutine came to the end, which
	// works for others too: it must neither block nor panic. epoch is the
	// one of the turn, 0 where there was none; err is nil or a
	// *failure.Error.
	Completed(epoch uint64, err error)
}

// Invoke runs an operation on a shard and returns when its answer is durable,
// with the epoch under which it was given. It keeps op no longer than that. The
// error is a *failure.Error; after one, Command and Reply may still be in use.
func (r *Runtime) Invoke(ctx context.Context, shard uint32, op *Operation) (epoch uint64, err error) {
	s := r.shards[shard]
	c, err := r.newCall(op)
	if err != nil {
		return s.epoch.Load(), err
	}
	if err := ctx.Err(); err != nil {
		c.recycle()
		return s.epoch.Load(), refusedEarly(err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.deadline = deadline.UnixNano()
	}
	if !c.plain && r.parks[c.kindIndex] && ctx.Done() != nil {
		c.ticket = &Ticket{shard: s}
	}
	if !s.box.submit(c) {
		c.recycle()
		s.counts.overloaded.Add(1)
		return s.epoch.Load(), errShardFull
	}
	if epoch, err = c.wait(ctx); epoch == 0 {
		epoch = s.epoch.Load()
	}
	return epoch, err
}

// Submit is Invoke without waiting: done takes the end, perhaps before Submit
// returns. An operation that had no turn until the deadline is not done; a zero
// deadline is none. Command and Reply belong to the operation until its end; op
// itself may be used again at once. The ticket, nil for most kinds, gives up an
// operation that waits.
func (r *Runtime) Submit(shard uint32, op *Operation, deadline time.Time, done Completer) *Ticket {
	c, err := r.newCall(op)
	if err != nil {
		done.Completed(0, err)
		return nil
	}
	if !deadline.IsZero() {
		c.deadline = deadline.UnixNano()
	}
	var ticket *Ticket
	if r.parks[c.kindIndex] {
		ticket = &Ticket{shard: r.shards[shard]}
		c.ticket = ticket
	}
	r.shards[shard].submit(c, done)
	return ticket
}

// submit hands a call to the shard, whose answer goes to done.
func (s *shard) submit(c *call, done Completer) {
	c.done = done
	if !s.box.submit(c) {
		c.recycle()
		s.counts.overloaded.Add(1)
		done.Completed(0, errShardFull)
	}
}

// newCall checks an operation on a key and puts it into a call.
func (r *Runtime) newCall(op *Operation) (*call, error) {
	if err := keyspace.Check(op.Key); err != nil {
		return nil, err
	}
	return r.fillCall(op)
}

// fillCall checks all but the key of an operation and puts it into a call.
func (r *Runtime) fillCall(op *Operation) (*call, error) {
	if err := r.check(op); err != nil {
		return nil, err
	}
	index := r.kindOf(op.Kind)
	if index < 0 {
		return nil, failure.New(failure.UnknownKind, "this node serves no kind named %q", op.Kind)
	}
	if op.Session.ID == "" && op.IdempotencyKey == "" && op.Guard == nil && r.plain[index] {
		c := r.calls.get()
		c.plain, c.kindIndex = true, index
		c.key, c.method, c.command, c.reply = op.Key, op.Method, op.Command, op.Reply
		return c, nil
	}
	return r.fillRare(op, index)
}

// fillRare is fillCall for what is not plain.
func (r *Runtime) fillRare(op *Operation, index int) (*call, error) {
	var (
		hash  uint64
		steps []Step
	)
	if op.IdempotencyKey != "" || r.composers[index] != nil {
		var err error
		if hash, steps, err = r.takeApart(op, index); err != nil {
			return nil, err
		}
	}
	c := r.calls.get()
	c.kindIndex, c.hash, c.steps = index, hash, steps
	if op.Session.ID != "" {
		c.session, c.memo = op.Session, op.Memo
	}
	c.key, c.method, c.command, c.reply = op.Key, op.Method, op.Command, op.Reply
	c.once, c.guard = op.IdempotencyKey, op.Guard
	return c, nil
}

// takeApart hashes the request of an operation with an idempotency key, and asks
// a Composer for its steps. Both run code of the operation's kind on the caller's
// goroutine: a panic there is its own failure.
func (r *Runtime) takeApart(op *Operation, index int) (hash uint64, steps []Step, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			r.shards[keyspace.Shard(op.Key, uint32(len(r.shards)))].counts.panics.Add(1) //nolint:gosec // at most keyspace.MaxShards
			r.log.Error("a request panicked", slog.String("kind", op.Kind), slog.String("method", op.Method),
				slog.Any("panic", reason), slog.String("stack", string(debug.Stack())))
			err = failure.New(failure.HandlerFailed, "the request of %s could not be taken apart; nothing was done", op.Method)
		}
	}()
	if op.IdempotencyKey != "" {
		if hash, err = hashRequest(op.Method, op.Command); err != nil {
			return 0, nil, failure.Wrap(err, failure.InvalidField, "the request does not encode")
		}
	}
	if composer := r.composers[index]; composer != nil {
		steps, err = r.compose(composer, op.Key, op.Command, op.Reply)
	}
	return hash, steps, err
}

// kindOf returns a kind's index, -1 where it is not served. There are few
// kinds: looking at each is faster than a map.
func (r *Runtime) kindOf(name string) int {
	for i, n := range r.kindNames {
		if n == name {
			return i
		}
	}
	return -1
}

// check refuses what no shard should see.
func (r *Runtime) check(op *Operation) error {
	switch {
	case r.stopping.Load():
		return errStopping
	case op.Command == nil || op.Reply == nil:
		return failure.New(failure.InvalidField, "the operation has no command or no reply")
	case op.Guard != nil:
		if err := op.Guard.check(); err != nil {
			return err
		}
	}
	switch { // what makes a repeat known
	case op.Session.ID != "":
		if err := op.Session.check(op.IdempotencyKey); err != nil {
			return err
		}
	case op.IdempotencyKey != "":
		if err := checkOnce(op.IdempotencyKey); err != nil {
			return err
		}
	}
	return nil
}

func checkOnce(id string) error {
	switch {
	case len(id) > MaxIdempotencyKeyBytes:
		return failure.New(failure.InvalidField, "the idempotency key has %d bytes, at most %d are taken", len(id), MaxIdempotencyKeyBytes)
	case !utf8.ValidString(id):
		return failure.New(failure.InvalidField, "the idempotency key is not UTF-8")
	default:
		return nil
	}
}

func (s *Session) check(once string) error {
	switch {
	case once != "":
		return failure.New(failure.InvalidField, "the operation has a session and an idempotency key; give one of them")
	case len(s.ID) != sessionIDBytes:
		return failure.New(failure.InvalidField, "the session's id has %d bytes; it is the %d that the shard gave", len(s.ID), sessionIDBytes)
	case s.Number == 0:
		return failure.New(failure.InvalidField, "the operation's number in its session is 0; numbers begin at 1")
	default:
		return nil
	}
}

// refusedEarly is the error of an operation whose context had ended before it
// was begun.
func refusedEarly(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return failure.Wrap(err, failure.DeadlineExceeded, "the deadline had passed before the operation was begun")
	}
	return failure.Wrap(err, failure.Canceled, "the caller gave up before the operation was begun")
}
