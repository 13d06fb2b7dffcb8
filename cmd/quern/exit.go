package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/bench"
	"github.com/quern-io/quern/client"
	"github.com/quern-io/quern/failure"
)

// Exit codes, as the outward contract has them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnknown     = 3
	exitUnreachable = 4
)

// errSaid is a failure whose result was printed: exit code 1, nothing more.
var errSaid = errors.New("the command's result is a failure")

// usageError is a command line or a setting that cannot work.
type usageError struct {
	err  error
	help string // the command that tells more; empty where none does
}

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// usagef returns a usage error; its message names the flag and the value.
func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// exitError is a failure with an exit code of its own. err is nil where
// somebody else has said what failed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d: %v", e.code, e.err) }

func (e *exitError) Unwrap() error { return e.err }

// nodeError is a failure of the node that this process runs: exit code 1, since
// it is no operation whose outcome could be unknown.
type nodeError struct{ err error }

func (e *nodeError) Error() string { return e.err.Error() }

func (e *nodeError) Unwrap() error { return e.err }

// report is a failure as --json prints it.
type report struct {
	Code      string `json:"code"`
	Reason    string `json:"reason"`
	Message   string `json:"message"`
	Retryable bool   `json:"retryable"`
	Outcome   string `json:"outcome"`
}

// fail says what went wrong, on stdout where JSON is wanted and on stderr
// otherwise, and returns the exit code.
func (a *app) fail(err error, asJSON bool) int {
	if errors.Is(err, errSaid) {
		return exitFailed
	}
	if e := (*exitError)(nil); errors.As(err, &e) {
		if e.err != nil {
			r, _ := classify(e.err)
			fmt.Fprintln(a.stderr, "quern:", text(e.err, r))
		}
		return e.code
	}
	r, code := classify(err)
	if asJSON {
		a.printJSON(struct {
			Error report `json:"error"`
		}{r})
		return code
	}
	fmt.Fprintln(a.stderr, "quern:", text(err, r))
	if u := (*usageError)(nil); errors.As(err, &u) && u.help != "" {
		fmt.Fprintf(a.stderr, "Run \"%s\" for help.\n", u.help)
	}
	if code == exitUnknown {
		fmt.Fprintln(a.stderr, "quern: outcome unknown: it perhaps happened")
	}
	return code
}

// text is a failure for people: its reason goes first where it has one.
func text(err error, r report) string {
	if f := (*failure.Error)(nil); errors.As(err, &f) && r.Reason == f.Reason.String() {
		return r.Reason + ": " + r.Message
	}
	return strings.TrimPrefix(r.Message, "quern: ")
}

func classify(err error) (report, int) {
	var f *failure.Error
	var n *nodeError
	switch {
	case isUsage(err):
		return report{"invalid_argument", "USAGE", err.Error(), false, failure.NotDone.String()}, exitUsage
	case errors.As(err, &n):
		return report{"failed_precondition", "FAILED", err.Error(), false, failure.NotDone.String()}, exitFailed
	case errors.Is(err, client.ErrUnreachable):
		return report{connect.CodeUnavailable.String(), "UNREACHABLE", err.Error(), true, failure.NotDone.String()}, exitUnreachable
	case errors.As(err, &f):
		return reportOf(f)
	case errors.Is(err, context.DeadlineExceeded):
		return reportOf(failure.Wrap(err, failure.DeadlineExceeded, "the timeout passed"))
	case errors.Is(err, context.Canceled):
		return reportOf(failure.Wrap(err, failure.Canceled, "interrupted"))
	default:
		return report{"failed_precondition", "FAILED", err.Error(), false, failure.NotDone.String()}, exitFailed
	}
}

func isUsage(err error) bool {
	var u *usageError
	return errors.As(err, &u) || errors.Is(err, quern.ErrConfig) || errors.Is(err, bench.ErrConfig)
}

// reportOf describes a failure.
func reportOf(f *failure.Error) (report, int) {
	r := report{
		Code:      connect.Code(f.Reason.Code()).String(),
		Reason:    f.Reason.String(),
		Message:   f.Message,
		Retryable: f.Retryable(),
		Outcome:   f.Outcome().String(),
	}
	if f.Outcome() == failure.Unknown {
		return r, exitUnknown
	}
	return r, exitFailed
}

// printJSON prints one line. Keys and names are not HTML.
func (a *app) printJSON(v any) {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		fmt.Fprintln(a.stderr, "quern: writing the result:", err)
	}
}
