//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package job

import "os"

// Job cannot be had on this system.
type Job struct{}

// Start returns ErrUnsupported.
func Start(string, []string, []string) (*Job, error) { return nil, ErrUnsupported }

// Ended returns nil.
func (*Job) Ended() <-chan struct{} { return nil }

// Code returns 0.
func (*Job) Code() int { return 0 }

// Stopped returns nil.
func (*Job) Stopped() <-chan struct{} { return nil }

// Pass does nothing.
func (*Job) Pass(os.Signal) {}

// Terminate does nothing.
func (*Job) Terminate() {}

// Kill does nothing.
func (*Job) Kill() {}

// Asked returns nil.
func (*Job) Asked() <-chan os.Signal { return nil }

// Stop does nothing.
func (*Job) Stop() bool { return false }

// Continue does nothing.
func (*Job) Continue() {}

// Suspend does nothing.
func (*Job) Suspend() {}

// Resume does nothing.
func (*Job) Resume() {}

// Signals are those that ask a program to end.
func Signals() []os.Signal { return []os.Signal{os.Interrupt} }

// Ends reports whether a signal asks a program to end.
func Ends(s os.Signal) bool { return s == os.Interrupt }

// Number returns a signal's number.
func Number(os.Signal) int { return 2 }
