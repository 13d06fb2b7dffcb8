package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// Sizes of the values that are put.
const (
	DefaultPayload = 100
	// MinPayload is what the name of the run and of the put take.
	MinPayload = 16
	// MaxPayload is what a node takes.
	MaxPayload = 64 << 10

	maxPayloads = 1 << 30 // of all operations under way
)

// entryWork is what a worker does to map entries.
type entryWork uint8

const (
	noEntries entryWork = iota
	putEntries
	getEntries
)

// stamp names a put within its run: the worker, from 1 on, and that worker's
// number. Of the values before the load the worker is 0. 0 is no put.
type stamp uint64

// stampWorker is where the worker's number begins: a worker makes fewer than
// 2^48 puts, and there are fewer than 2^16 workers.
const stampWorker = 48

// payloads makes values and recognises them: the run, the put, and a filling
// that is the same in all.
type payloads struct{ like []byte }

func newPayloads(run string, size int) payloads {
	name := fnv.New64a()
	_, _ = name.Write([]byte(run)) // never fails
	like := binary.BigEndian.AppendUint64(nil, name.Sum64())
	like = append(like, make([]byte, size-len(like))...)
	for i := MinPayload; i < size; i++ {
		like[i] = byte((i*31 + i>>8) & 0xff)
	}
	return payloads{like}
}

// make returns a new value without a stamp.
func (p payloads) make() []byte { return bytes.Clone(p.like) }

func (s stamp) put(value []byte) { binary.BigEndian.PutUint64(value[8:], uint64(s)) }

// read returns the stamp of a value; 0 where it is none of this run's, whole
// and unchanged.
func (p payloads) read(value []byte) stamp {
	if len(value) != len(p.like) || !bytes.Equal(value[:8], p.like[:8]) || !bytes.Equal(value[MinPayload:], p.like[MinPayload:]) {
		return 0
	}
	return stamp(binary.BigEndian.Uint64(value[8:]))
}

func (p payloads) found(v handles.MapValue) entryFound {
	return entryFound{version: v.Version, sum: crc32.Checksum(v.Value, castagnoli), stamp: p.read(v.Value)}
}

// entryFlight is a put or a read that is under way.
type entryFlight struct {
	key    int
	floor  uint64
	stamp  stamp
	value  []byte // used again after an answer
	answer handles.MapAnswer
}

// entries is one worker's part in a load of map entries.
type entries struct {
	*entryLedger
	payloads

	last    stamp // the worker's last put
	flights []entryFlight
}

func (g *generator) newEntries(worker int) *entries {
	e := &entries{
		entryLedger: g.entries, payloads: g.payloads,
		last:    stamp(g.cfg.share.before+worker+1) << stampWorker, //nolint:gosec // at most maxConcurrency
		flights: make([]entryFlight, g.cfg.Pipeline),
	}
	if g.cfg.workload.entries == putEntries {
		for i := range e.flights {
			e.flights[i].value = e.make()
		}
	}
	return e
}

// begin makes flight i ready to put a new value to key k, or to read it.
func (e *entries) begin(i, k int) *entryFlight {
	f := &e.flights[i]
	f.key, f.floor = k, e.floor(k)
	if f.value != nil {
		e.last++
		f.stamp = e.last
		f.stamp.put(f.value)
	}
	return f
}

// oneEntry is a round of one operation on a map entry.
func (g *generator) oneEntry(ctx context.Context, w *worker) (done int64, ok bool) {
	w.failures = w.failures[:0]
	k, ok := g.pick(w)
	if !ok {
		return 0, false
	}
	f := w.entries.begin(0, k)
	entry := handles.NewMapEntry(w.target, w.keys.name(k))
	if f.value == nil {
		v, err := entry.Get(ctx)
		return w.gotEntry(f, v, err), true
	}
	version, err := entry.Put(ctx, f.value, handles.PutOptions{})
	return w.putEntry(f, version, err), true
}

// manyEntries is a round of Config.Pipeline operations on map entries.
func (g *generator) manyEntries(ctx context.Context, w *worker) (done int64, ok bool) {
	w.failures = w.failures[:0]
	w.sender.Reset()
	flights := w.entries.flights
	for i := range flights {
		k, _ := g.pick(w) // keys are used again
		f := w.entries.begin(i, k)
		if f.value == nil {
			f.answer = w.sender.MapGet(w.keys.name(k))
		} else {
			f.answer = w.sender.MapPut(w.keys.name(k), f.value)
		}
	}
	_ = w.sender.Do(ctx) // each answer says more
	for i := range flights {
		f := &flights[i]
		if f.value == nil {
			v, err := f.answer.Value()
			done += w.gotEntry(f, v, err)
			continue
		}
		version, err := f.answer.Version()
		done += w.putEntry(f, version, err)
	}
	return done, true
}

// putEntry takes the answer to a put. Its version must be above all that had
// been answered for the key before it was sent.
func (w *worker) putEntry(f *entryFlight, version uint64, err error) (done int64) {
	if err != nil {
		w.failures = append(w.failures, failures{err, 1})
		if failure.OutcomeOf(err) == failure.Unknown {
			w.entries.uncertain(f.key, f.stamp)
		}
		f.value = w.entries.make() // the old one may still be in use
		return 0
	}
	if version <= f.floor {
		w.broken.note("a put to %s answered version %d after %d had been answered", w.keys.name(f.key), version, f.floor)
	}
	w.entries.acked(f.key, 1, version, f.stamp)
	return 1
}

// gotEntry takes the answer to a read of an entry that nobody puts.
func (w *worker) gotEntry(f *entryFlight, v handles.MapValue, err error) (done int64) {
	if err != nil {
		w.failures = append(w.failures, failures{err, 1})
		return 0
	}
	known := w.entries.accounts[f.key].sum // does not change in this load
	if sum := crc32.Checksum(v.Value, castagnoli); v.Version != f.floor || sum != known {
		w.broken.note("a read of %s answered %d bytes with the checksum %08x under version %d instead of %08x under version %d",
			w.keys.name(f.key), len(v.Value), sum, v.Version, known, f.floor)
	}
	return 1
}

// prepareEntries reads every entry, and gives a value to those that need one.
func (g *generator) prepareEntries(ctx context.Context) error {
	return g.sweep(ctx, g.cfg.Keys, "prepare", func(ctx context.Context, k int) error {
		v, err := g.readEntry(ctx, k, patienceBefore)
		if err != nil {
			return err
		}
		if v.Found() || g.cfg.workload.entries != getEntries {
			g.entries.open(k, v.Version, crc32.Checksum(v.Value, castagnoli), !v.Found())
			return nil
		}
		return g.fillEntry(ctx, k)
	})
}

// fillEntry gives key k a value that tells it from others.
func (g *generator) fillEntry(ctx context.Context, k int) error {
	value, version := g.payloads.make(), uint64(0)
	stamp(k + 1).put(value) //nolint:gosec // at most maxKeys
	err := again(ctx, patienceBefore, func(ctx context.Context) (err error) {
		version, err = handles.NewMapEntry(g.cfg.Target, g.keys.name(k)).Put(ctx, value, handles.PutOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("bench: putting %s: %w", g.keys.name(k), err)
	}
	g.entries.open(k, version, crc32.Checksum(value, castagnoli), true)
	return nil
}

func (g *generator) readEntry(ctx context.Context, k int, patience time.Duration) (v handles.MapValue, err error) {
	err = again(ctx, patience, func(ctx context.Context) error {
		var err error
		v, err = handles.NewMapEntry(g.cfg.Target, g.keys.name(k)).Get(ctx)
		return err
	})
	if err != nil {
		return v, fmt.Errorf("bench: reading %s: %w", g.keys.name(k), err)
	}
	return v, nil
}

// verifyEntries reads every entry back and compares.
func (g *generator) verifyEntries(ctx context.Context) (t tally, unread int, err error) {
	found, read := make([]entryFound, g.cfg.Keys), make([]bool, g.cfg.Keys)
	err = g.sweep(ctx, g.cfg.Keys, "check", func(ctx context.Context, k int) error {
		v, err := g.readEntry(ctx, k, patienceAfter)
		if err != nil {
			return err
		}
		found[k], read[k] = g.payloads.found(v), true
		return nil
	})
	for k := range found {
		if !read[k] {
			t.acked += g.entries.accounts[k].puts
			unread++
			continue
		}
		g.entries.compare(&t, k, found[k])
	}
	return t, unread, err
}

// expireEntry lets an entry that this run made go after an hour. An entry that
// has changed since it was read is left to whoever changed it.
func (g *generator) expireEntry(ctx context.Context, k int) error {
	v, err := g.readEntry(ctx, k, patienceBefore)
	if err != nil || !v.Found() {
		return err
	}
	err = again(ctx, patienceBefore, func(ctx context.Context) error {
		_, err := handles.NewMapEntry(g.cfg.Target, g.keys.name(k)).Put(ctx, v.Value, handles.PutOptions{IfVersion: v.Version, TTL: keyLifetime})
		return err
	})
	if refused, ok := errors.AsType[*failure.Error](err); ok && refused.Reason == failure.ConditionFailed {
		return nil // or it was this put, whose first answer was lost
	}
	return err
}
