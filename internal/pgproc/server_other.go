//go:build !linux

package pgproc

import (
	"context"
	"errors"
	"time"
)

// Role is the superuser and the database that a server begins with.
const Role = "quern"

// Server is a private server; there are none on this system.
type Server struct{}

var errSystem = errors.New("pgproc: private servers need Linux")

// Start fails.
func Start(context.Context, ...string) (*Server, error) { return nil, errSystem }

// Start fails.
func (*Server) Start(context.Context) error { return errSystem }

// StartAs fails.
func (*Server) StartAs(context.Context, string) error { return errSystem }

// Stop, Kill and Close do nothing.
func (*Server) Stop() error { return nil }

// Kill does nothing.
func (*Server) Kill() error { return nil }

// Close does nothing.
func (*Server) Close() error { return nil }

// Pause does nothing.
func (*Server) Pause() func() { return func() {} }

// URL returns nothing.
func (*Server) URL(...string) string { return "" }

// URLAs returns nothing.
func (*Server) URLAs(string, string, string, ...string) string { return "" }

// Socket returns nothing.
func (*Server) Socket() string { return "" }

// CPU returns nothing.
func (*Server) CPU() time.Duration { return 0 }

// Version returns nothing.
func (*Server) Version() string { return "" }

// Log returns nothing.
func (*Server) Log() string { return "" }
