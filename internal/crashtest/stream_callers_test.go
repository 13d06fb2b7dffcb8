package crashtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// callers run operations of every form, and book what they are told.
type callers struct {
	ledger *ledger
	keys   int
	key    func(int) string
	// patient is a time in which every operation gets through; where sure, its
	// outcome must be learnt then.
	patient time.Duration
	sure    bool
	// acked, where not nil, is called for each acknowledged add.
	acked func()
}

func (o *callers) any(r *rand.Rand) string { return o.key(r.IntN(o.keys)) }

// operate runs one operation of any form, with any patience.
func (o *callers) operate(c *client.Client, r *rand.Rand) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	sure := false // its outcome must be learnt
	switch r.IntN(8) {
	case 0:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(1+r.IntN(40))*time.Millisecond)
	case 1:
		ctx, cancel = context.WithCancel(ctx)
		time.AfterFunc(time.Duration(r.IntN(40))*time.Millisecond, cancel)
	case 2:
		ctx, cancel = context.WithTimeout(ctx, time.Duration(1+r.IntN(6000))*time.Millisecond)
	case 3, 4, 5:
		sure = o.sure
		ctx, cancel = context.WithTimeout(ctx, o.patient)
	default: // the client's own patience
	}
	defer cancel()
	switch r.IntN(6) {
	case 0, 1, 2:
		o.addOne(ctx, c, r, sure)
	case 3:
		o.addBatch(ctx, c, r, sure)
	case 4:
		o.addMany(ctx, c, r, sure)
	default:
		o.get(ctx, c, r)
	}
}

func (o *callers) addOne(ctx context.Context, c *client.Client, r *rand.Rand, sure bool) {
	key, delta := o.any(r), 1+r.Int64N(9)
	floor := o.ledger.floor(key)
	value, err := c.Counter(key).Add(ctx, delta)
	o.ended(key, delta, floor, value, err, sure)
}

func (o *callers) addBatch(ctx context.Context, c *client.Client, r *rand.Rand, sure bool) {
	b := handles.NewBatch(c)
	type planned struct {
		key          string
		delta, floor int64
		answer       handles.CounterAnswer
	}
	var all []planned
	for range 1 + r.IntN(20) {
		p := planned{key: o.any(r), delta: 1 + r.Int64N(9)}
		p.floor, p.answer = o.ledger.floor(p.key), b.CounterAdd(p.key, p.delta)
		all = append(all, p)
	}
	_ = b.Do(ctx)
	for _, p := range all {
		value, err := p.answer.Value()
		o.ended(p.key, p.delta, p.floor, value, err, sure)
	}
}

func (o *callers) addMany(ctx context.Context, c *client.Client, r *rand.Rand, sure bool) {
	var (
		keys           []string
		deltas, floors []int64
	)
	for range 1 + r.IntN(20) {
		key := o.any(r)
		keys, deltas, floors = append(keys, key), append(deltas, 1+r.Int64N(9)), append(floors, o.ledger.floor(key))
	}
	values, err := handles.AddMany(ctx, c, keys, deltas)
	errs := make([]error, len(keys))
	if some, ok := errors.AsType[*handles.ManyError](err); ok {
		for _, f := range some.Failed {
			errs[f.Index] = f.Err
		}
	} else if err != nil {
		values = make([]int64, len(keys))
		for i := range errs {
			errs[i] = err
		}
	}
	for i, key := range keys {
		o.ended(key, deltas[i], floors[i], values[i], errs[i], sure)
	}
}

// ended takes the end of an add.
func (o *callers) ended(key string, delta, floor, value int64, err error, sure bool) {
	o.ledger.add(key, delta, floor, value, err)
	if err == nil && o.acked != nil {
		o.acked()
	}
	if sure && err != nil {
		o.ledger.fail("%s: a patient add was told: %v", key, err)
	}
	if _, ok := errors.AsType[*failure.Error](err); err != nil && !ok {
		o.ledger.fail("%s: an error of an unknown type: %v", key, err)
	}
}

func (o *callers) get(ctx context.Context, c *client.Client, r *rand.Rand) {
	key := o.any(r)
	floor := o.ledger.floor(key)
	if value, err := c.Counter(key).Get(ctx); err == nil {
		o.ledger.read(key, floor, value)
	}
}
