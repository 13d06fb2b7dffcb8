package peers

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Contender is one system doing the work that is compared.
type Contender struct {
	Name string
	// Run does the work for about d and returns operations per second.
	Run func(ctx context.Context, d time.Duration) (float64, error)
}

// Result holds the rates of a comparison: Rates[i][r] is what contender i
// reached in round r, in operations per second.
type Result struct {
	Names []string
	Rates [][]float64
}

// Spread is the least, the middle and the greatest of some figures.
type Spread struct{ Min, Median, Max float64 }

// Compare lets the contenders work in turns: one short round each to warm up,
// then the given number of rounds of length d. Every other round runs in
// reverse order, so that nobody always follows the same neighbour.
func Compare(ctx context.Context, rounds int, d time.Duration, contenders ...Contender) (Result, error) {
	r := Result{Rates: make([][]float64, len(contenders))}
	order := make([]int, len(contenders))
	for i, c := range contenders {
		r.Names = append(r.Names, c.Name)
		order[i] = i
		if _, err := c.Run(ctx, d/4); err != nil {
			return Result{}, fmt.Errorf("peers: %s: %w", c.Name, err)
		}
	}
	for range rounds {
		for _, i := range order {
			rate, err := contenders[i].Run(ctx, d)
			if err != nil {
				return Result{}, fmt.Errorf("peers: %s: %w", contenders[i].Name, err)
			}
			r.Rates[i] = append(r.Rates[i], rate)
		}
		slices.Reverse(order)
	}
	return r, nil
}

// From returns the result without the first contenders, so that Write compares
// contender i with those after it.
func (r Result) From(i int) Result { return Result{Names: r.Names[i:], Rates: r.Rates[i:]} }

// Rate returns the spread of contender i's operations per second.
func (r Result) Rate(i int) Spread { return spread(r.Rates[i]) }

// Ratio returns how many times faster contender i was than contender j, taken
// round by round.
func (r Result) Ratio(i, j int) Spread {
	ratios := make([]float64, len(r.Rates[i]))
	for round := range ratios {
		ratios[round] = r.Rates[i][round] / r.Rates[j][round]
	}
	return spread(ratios)
}

// Write prints the rates of all contenders and the ratios of the first one to
// each of the others.
func (r Result) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "system\tops/s min\tmedian\tmax\tns/op median\tthe first is faster by: min\tmedian\tmax\t\n")
	for i, name := range r.Names {
		rate := r.Rate(i)
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t", name, rate.Min, rate.Median, rate.Max, 1e9/rate.Median)
		if i > 0 {
			ratio := r.Ratio(0, i)
			fmt.Fprintf(t, "%.2f\t%.2f\t%.2f\t", ratio.Min, ratio.Median, ratio.Max)
		} else {
			fmt.Fprint(t, "\t\t\t")
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func spread(figures []float64) Spread {
	s := slices.Sorted(slices.Values(figures))
	if len(s) == 0 {
		return Spread{}
	}
	middle := s[len(s)/2]
	if len(s)%2 == 0 {
		middle = (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return Spread{Min: s[0], Median: middle, Max: s[len(s)-1]}
}

// Load runs a closed loop: each of the callers adds 1 to random keys, one
// operation at a time, until d is over. It returns operations per second, or
// the first error.
func Load(callers int, keys []string, d time.Duration, add func(key string, delta int64) (int64, error)) (float64, error) {
	return loop(callers, d, func(chance *rand.Rand, _ int) func() (int, error) {
		return func() (int, error) {
			_, err := add(keys[chance.IntN(len(keys))], 1)
			return 1, err
		}
	})
}

// LoadBatches is Load with a batch of operations at a time, all sent before the
// first answer is waited for. Callers share the targets evenly.
func LoadBatches(to []handles.Batcher, callers, batch int, keys []string, d time.Duration) (float64, error) {
	return loop(callers, d, func(chance *rand.Rand, caller int) func() (int, error) {
		requests, ops := make([]quernv1.CounterServiceAddRequest, batch), make([]*handles.Operation, batch)
		one := int64(1)
		for i := range ops {
			requests[i].Delta = &one
			ops[i] = &handles.Operation{Method: handles.CounterAdd, Request: &requests[i], Reply: &quernv1.CounterServiceAddResponse{}}
		}
		return func() (int, error) {
			for i, op := range ops {
				op.Key = keys[chance.IntN(len(keys))]
				requests[i].Key = op.Key
			}
			to[caller%len(to)].InvokeAll(context.Background(), ops)
			for _, op := range ops {
				if op.Err != nil {
					return 0, op.Err
				}
			}
			return batch, nil
		}
	})
}

// LoadPuts is LoadBatches with puts of the value to map entries.
func LoadPuts(to []handles.Batcher, callers, batch int, keys []string, value []byte, d time.Duration) (float64, error) {
	return loop(callers, d, func(chance *rand.Rand, caller int) func() (int, error) {
		b := handles.NewBatch(to[caller%len(to)])
		return func() (int, error) {
			b.Reset()
			for range batch {
				b.MapPut(keys[chance.IntN(len(keys))], value)
			}
			return batch, b.Do(context.Background())
		}
	})
}

// LoadColumns is Load with one bulk add of so many keys at a time.
func LoadColumns(to []handles.Batcher, callers, batch int, keys []string, d time.Duration) (float64, error) {
	return loop(callers, d, func(chance *rand.Rand, caller int) func() (int, error) {
		names := make([]string, batch)
		return func() (int, error) {
			for i := range names {
				names[i] = keys[chance.IntN(len(keys))]
			}
			_, err := handles.AddMany(context.Background(), to[caller%len(to)], names, nil)
			return batch, err
		}
	})
}

// loop runs the steps of all callers over and over until d is over. A step
// returns how many operations it did.
func loop(callers int, d time.Duration, caller func(chance *rand.Rand, caller int) func() (int, error)) (float64, error) {
	var (
		stop   atomic.Bool
		done   atomic.Int64
		failed = make(chan error, callers)
		all    sync.WaitGroup
	)
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	start := time.Now()
	for n := range callers {
		all.Go(func() {
			step := caller(rand.New(rand.NewPCG(uint64(start.UnixNano()), uint64(n))), n) //nolint:gosec // picks keys
			count := 0
			for !stop.Load() {
				did, err := step()
				if err != nil {
					stop.Store(true)
					failed <- err
					return
				}
				count += did
			}
			done.Add(int64(count))
		})
	}
	all.Wait()
	elapsed := time.Since(start)
	select {
	case err := <-failed:
		return 0, err
	default:
		return float64(done.Load()) / elapsed.Seconds(), nil
	}
}

// Keys returns n keys with a common prefix.
func Keys(prefix string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return keys
}
