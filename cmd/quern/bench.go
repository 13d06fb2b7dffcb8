package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/bench"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
)

type benchCommands struct {
	Run    benchRunCommand    `cmd:"" help:"Apply a load, then compare every key with what was acknowledged."`
	Helper benchHelperCommand `cmd:"" hidden:""`
}

const embeddedTarget = bench.Embedded

type benchRunCommand struct {
	Target      string        `default:"127.0.0.1:7411" env:"QUERN_ADDR" placeholder:"ADDR|embedded" help:"Node to measure, or embedded for one in this process."`
	Store       string        `placeholder:"STORE" help:"Store of an embedded target, memory or embedded (default memory; embedded uses a temporary folder)."`
	Workload    string        `default:"counter-add" placeholder:"NAME" help:"counter-add, counter-get, counter-mixed, counter-hot, counter-columns, lock-cycle, lock-contended, map-put, map-get or spawn."`
	Duration    time.Duration `default:"10s" help:"How long the load lasts."`
	Concurrency int           `default:"64" placeholder:"N" help:"Workers: each sends, waits and sends again."`
	Pipeline    *int          `placeholder:"N" help:"Operations that a worker sends together (default 1; counter-columns 1000 keys in a call)."`
	Connections int           `default:"1" placeholder:"N" help:"Connections of each process to the target."`
	Processes   int           `default:"1" placeholder:"N" help:"Processes that apply the load."`
	Keys        *int          `placeholder:"N" help:"Number of keys (default 10000; counter-hot 1; spawn at most 1000000 new ones)."`
	Payload     *int          `placeholder:"BYTES" help:"Size of the values of map-put and map-get (default 100)."`
	Dist        string        `default:"uniform" enum:"uniform,zipf" help:"How keys are chosen: uniform or zipf (exponent 0.99)."`
	Rate        *float64      `placeholder:"OPS" help:"Open loop: operations due per second, latency counted from then (default: closed loop)."`
	Prefix      string        `placeholder:"P" help:"Keys are P and a number from 0 (default bench:<run>:)."`
	Out         string        `placeholder:"DIR" help:"Write result.json, the histogram, the series and report.html there."`
	Timeout     time.Duration `default:"5s" help:"How long connecting may take."`
	JSON        bool          `name:"json" help:"Print one line of JSON."`
}

// Run measures.
func (k *benchRunCommand) Run(ctx context.Context, a *app) error {
	if err := k.check(); err != nil {
		return err
	}
	// The first signal ends the load early, the second one the process.
	ctx, release := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer release()
	context.AfterFunc(ctx, release)
	targets, store, stop, err := k.open(ctx, a)
	if err != nil {
		return err
	}
	bar := newProgress(a.stderr)
	cfg := bench.Config{
		Target: targets[0], Targets: targets[1:], TargetName: k.Target, Store: store,
		Workload: k.Workload, Duration: k.Duration, Concurrency: k.Concurrency,
		Dist: bench.Dist(k.Dist), Prefix: k.Prefix, Progress: bar.show,
	}
	if k.Processes > 1 {
		cfg.Processes = k.Processes
		cfg.Start = func() (bench.Helper, error) { return a.helper(k.helperArgs()) }
	}
	if k.Pipeline != nil {
		cfg.Pipeline = *k.Pipeline
	}
	if k.Keys != nil {
		cfg.Keys = *k.Keys
	}
	if k.Payload != nil {
		cfg.Payload = *k.Payload
	}
	if k.Rate != nil {
		cfg.Rate = *k.Rate
	}
	r, err := bench.Run(ctx, cfg)
	bar.clear()
	if err = errors.Join(err, stop()); r == nil {
		return err
	}
	return errors.Join(err, k.report(a, r))
}

func (k *benchRunCommand) check() error {
	switch {
	case k.Store != "" && k.Target != embeddedTarget:
		return usagef("--store %s: only for --target embedded", k.Store)
	case k.Store != "" && k.Store != quern.StoreMemory && k.Store != quern.StoreEmbedded:
		return usagef("--store %q: is neither memory nor embedded", k.Store)
	case !slices.Contains(bench.Workloads(), k.Workload):
		return usagef("--workload %q: is none of %s", k.Workload, strings.Join(bench.Workloads(), ", "))
	case k.Duration <= 0:
		return usagef("--duration %v: must be more than 0", k.Duration)
	case k.Concurrency <= 0:
		return usagef("--concurrency %d: must be more than 0", k.Concurrency)
	case k.Pipeline != nil && (*k.Pipeline <= 0 || *k.Pipeline > bench.MaxPipeline):
		return usagef("--pipeline %d: must be 1 to %d", *k.Pipeline, bench.MaxPipeline)
	case k.Keys != nil && *k.Keys <= 0:
		return usagef("--keys %d: must be more than 0", *k.Keys)
	case k.Payload != nil && (*k.Payload < bench.MinPayload || *k.Payload > bench.MaxPayload):
		return usagef("--payload %d: must be %d to %d bytes", *k.Payload, bench.MinPayload, bench.MaxPayload)
	case k.Rate != nil && !(*k.Rate > 0):
		return usagef("--rate %v: must be more than 0", *k.Rate)
	case k.Timeout <= 0:
		return usagef("--timeout %v: must be more than 0", k.Timeout)
	}
	return k.checkSpread()
}

// maxConnections bounds --connections.
const maxConnections = 1024

// checkSpread looks at how the workers are spread.
func (k *benchRunCommand) checkSpread() error {
	switch {
	case k.Connections < 1 || k.Connections > maxConnections:
		return usagef("--connections %d: must be 1 to %d", k.Connections, maxConnections)
	case k.Processes < 1 || k.Processes > bench.MaxProcesses:
		return usagef("--processes %d: must be 1 to %d", k.Processes, bench.MaxProcesses)
	case k.Connections > 1 && k.Target == embeddedTarget:
		return usagef("--connections %d: an embedded target has none", k.Connections)
	case k.Processes > 1 && k.Target == embeddedTarget:
		return usagef("--processes %d: an embedded target has one", k.Processes)
	case k.Processes*k.Connections > k.Concurrency:
		return usagef("--concurrency %d: too few workers for %d processes with %d connections each", k.Concurrency, k.Processes, k.Connections)
	}
	return nil
}

// open connects to the target, or opens one here. stop ends it. Where others
// apply the load one connection is enough.
func (k *benchRunCommand) open(ctx context.Context, a *app) (to []handles.Invoker, store string, stop func() error, err error) {
	if k.Target == embeddedTarget {
		return k.openEmbedded(ctx, a)
	}
	n := k.Connections
	if k.Processes > 1 {
		n = 1
	}
	ctx, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	to, stop, err = a.connections(ctx, k.Target, n)
	if err != nil {
		return nil, "", nil, err
	}
	c, _ := to[0].(connection) // as all are
	s, err := c.Status(ctx)
	if err != nil {
		return nil, "", nil, errors.Join(err, stop())
	}
	return to, s.GetStore(), stop, nil
}

// connections returns a client with n connections, and what ends it.
func (a *app) connections(ctx context.Context, target string, n int) (to []handles.Invoker, stop func() error, err error) {
	c, err := a.connect(ctx, "--target", target, client.Options{Connections: n})
	if err != nil {
		return nil, nil, err
	}
	return []handles.Invoker{c}, c.Close, nil
}

func (k *benchRunCommand) openEmbedded(ctx context.Context, a *app) (to []handles.Invoker, store string, stop func() error, err error) {
	cfg := quern.Config{Store: quern.StoreMemory}
	clean := func() error { return nil }
	if k.Store == quern.StoreEmbedded {
		dir, err := os.MkdirTemp("", "quern-bench-")
		if err != nil {
			return nil, "", nil, fmt.Errorf("a folder for the embedded store: %w", err)
		}
		cfg = quern.Config{Store: quern.StoreEmbedded, DataDir: dir}
		clean = func() error { return os.RemoveAll(dir) }
	}
	n, err := a.open(ctx, cfg)
	if err != nil {
		return nil, "", nil, errors.Join(err, clean())
	}
	return []handles.Invoker{n}, cfg.Store, func() error {
		return errors.Join(n.Close(context.WithoutCancel(ctx)), clean())
	}, nil
}

// report prints and writes the result; an error where the run failed.
func (k *benchRunCommand) report(a *app, r *bench.Result) error {
	if k.Out != "" {
		b := thisBuild()
		about := bench.About{
			Command: "quern " + strings.Join(k.command(), " "),
			Version: fmt.Sprintf("%s %s", b.Version, b.Commit), Go: b.Go, Platform: b.Platform,
		}
		if err := r.WriteDir(k.Out, about); err != nil {
			return fmt.Errorf("--out %s: %w", k.Out, err)
		}
	}
	if k.JSON {
		a.printJSON(r)
	} else {
		k.summary(a.stdout, r)
	}
	if !r.OK() || r.Ops == 0 {
		return errSaid
	}
	return nil
}

// command is the command line that leads to the same run again.
func (k *benchRunCommand) command() []string {
	out := []string{
		"bench", "run", "--target", k.Target, "--workload", k.Workload, "--duration", k.Duration.String(),
		"--concurrency", fmt.Sprint(k.Concurrency), "--dist", k.Dist,
	}
	if k.Store != "" {
		out = append(out, "--store", k.Store)
	}
	if k.Pipeline != nil {
		out = append(out, "--pipeline", fmt.Sprint(*k.Pipeline))
	}
	if k.Connections != 1 {
		out = append(out, "--connections", fmt.Sprint(k.Connections))
	}
	if k.Processes != 1 {
		out = append(out, "--processes", fmt.Sprint(k.Processes))
	}
	if k.Keys != nil {
		out = append(out, "--keys", fmt.Sprint(*k.Keys))
	}
	if k.Payload != nil {
		out = append(out, "--payload", fmt.Sprint(*k.Payload))
	}
	if k.Rate != nil {
		out = append(out, "--rate", fmt.Sprint(*k.Rate))
	}
	if k.Prefix != "" {
		out = append(out, "--prefix", k.Prefix)
	}
	return out
}

// summary prints the result for people. Its last line is part of the contract.
func (k *benchRunCommand) summary(w io.Writer, r *bench.Result) {
	loop := "closed loop"
	if r.Rate > 0 {
		loop = fmt.Sprintf("%v due per second", r.Rate)
	}
	l := r.LatencyUS
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "workload\t%s: %s\n", r.Workload, bench.Describe(r.Workload))
	fmt.Fprintf(t, "target\t%s, store %s\n", r.Target, r.Store)
	fmt.Fprintf(t, "load\t%s, %d keys, %s, %s, %.1f s\n", r.Spread(), r.Keys, r.Dist, loop, r.DurationS)
	fmt.Fprintf(t, "done\t%d operations, %.0f per second\n", r.Ops, r.OpsPerSec)
	fmt.Fprintf(t, "latency\tp50 %v  p90 %v  p99 %v  p99.9 %v  max %v\n", micros(l.P50), micros(l.P90), micros(l.P99), micros(l.P999), micros(l.Max))
	for _, side := range r.Sides() {
		fmt.Fprintf(t, "%s\t%s\n", side.Name, side)
	}
	fmt.Fprintf(t, "not done\t%d errors, %d unknown\n", r.Errors, r.Unknown)
	for _, reason := range slices.Sorted(maps.Keys(r.ErrorsByReason)) {
		fmt.Fprintf(t, "\t%s %d\n", reason, r.ErrorsByReason[reason])
	}
	if r.Backlog > 0 {
		fmt.Fprintf(t, "backlog\t%d operations were due and never sent: the target is slower than the rate\n", r.Backlog)
	}
	if r.Interrupted {
		fmt.Fprintf(t, "ended\tearly, by a signal\n")
	}
	for _, note := range r.Notes {
		fmt.Fprintf(t, "note\t%s\n", note)
	}
	if r.Violations > 0 {
		fmt.Fprintf(t, "wrong\t%d replies cannot be right, such as:\n", r.Violations)
	}
	for _, example := range r.Examples {
		fmt.Fprintf(t, "\t%s\n", example)
	}
	_ = t.Flush() // as for any print to stdout
	if k.Out != "" {
		fmt.Fprintf(w, "report    %s/report.html\n", k.Out)
	}
	fmt.Fprintf(w, "acked %d applied %d lost %d doubled %d\n", r.Acked, r.Applied, r.Lost, r.Doubled)
}

func micros(us float64) time.Duration {
	d := time.Duration(us * 1e3)
	switch {
	case d >= time.Second:
		return d.Round(time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(time.Microsecond)
	default:
		return d.Round(10 * time.Nanosecond)
	}
}
