package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/bench"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// commands is the grammar.
type commands struct {
	Serve   serveCommand    `cmd:"" help:"Run one node."`
	Counter counterCommands `cmd:"" help:"Work on counters."`
	Lock    lockCommands    `cmd:"" help:"Work on locks, and run programs under them."`
	Map     mapCommands     `cmd:"" help:"Work on entries of the distributed map."`
	Cluster clusterCommands `cmd:"" help:"Ask who is there and who owns what."`
	Bench   benchCommands   `cmd:"" help:"Measure a node, and check it while doing so."`
	Version versionCommand  `cmd:"" help:"Say which version this is."`
}

// app is what commands use of the world outside; tests put fakes in.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	dial           func(ctx context.Context, addr string, o client.Options) (connection, error)
	open           func(ctx context.Context, cfg quern.Config) (node, error)
	helper         func(args []string) (bench.Helper, error)
	dashes         bool // the command line has a "--"
}

// connection is a network client.
type connection interface {
	handles.Invoker
	Status(ctx context.Context) (*quernv1.ClusterServiceStatusResponse, error)
	Where(ctx context.Context, key string) (*quernv1.ClusterServiceWhereResponse, error)
	Close() error
}

// node is a node in this process.
type node interface {
	handles.Invoker
	Name() string
	GRPCAddr() string
	HTTPAddr() string
	Close(ctx context.Context) error
}

// run executes one command line and returns the exit code. It writes results
// to stdout and everything else to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{
		stdin:  os.Stdin,
		stdout: stdout,
		stderr: stderr,
		dial: func(ctx context.Context, addr string, o client.Options) (connection, error) {
			o.FailFast = true
			c, err := client.DialWith(ctx, addr, o)
			if err != nil {
				return nil, err //nolint:wrapcheck // it names the address
			}
			return c, nil
		},
		open: func(ctx context.Context, cfg quern.Config) (node, error) {
			n, err := quern.Open(ctx, cfg)
			if err != nil {
				return nil, err //nolint:wrapcheck // it says what to do
			}
			return n, nil
		},
	}
	a.helper = func(args []string) (bench.Helper, error) { return startHelper(args, stderr) }
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	err := a.execute(ctx, args)
	if err == nil {
		return exitDone
	}
	return a.fail(err, wantsJSON(args))
}

func (a *app) execute(ctx context.Context, args []string) error {
	var grammar commands
	var file settings
	helped := false
	parser, err := kong.New(&grammar,
		kong.Name("quern"),
		kong.Description("Quern gives every key its own single writer: counters that are applied once and not lost."),
		kong.Writers(a.stdout, a.stderr),
		kong.Exit(func(int) { helped = true }), // kong calls it after it has printed help
		kong.Resolvers(&file),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(a),
	)
	if err != nil {
		return fmt.Errorf("quern: the grammar is wrong: %w", err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	a.dashes = slices.Contains(args, "--")
	args = arrange(parser.Model.Node, args)
	if err := file.load(parser.Model.Node, args, os.LookupEnv); err != nil {
		return err
	}
	parsed, err := parser.Parse(args)
	switch {
	case helped:
		return nil
	case err != nil:
		return usageOf(err)
	}
	return parsed.Run()
}

// usageOf turns a parser's error into a usage error that names the command to
// ask for help.
func usageOf(err error) error {
	command := "quern"
	if p := (*kong.ParseError)(nil); errors.As(err, &p) && p.Context != nil && p.Context.Selected() != nil {
		command = p.Context.Selected().FullPath()
	}
	return &usageError{err: err, help: command + " --help"}
}
