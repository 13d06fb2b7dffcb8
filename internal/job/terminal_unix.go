//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package job

import (
	"os"

	"golang.org/x/sys/unix"
)

// terminalFD is where a terminal is looked for: standard input.
const terminalFD = 0

// inForeground reports whether standard input is a terminal, and this process in
// its foreground.
func inForeground() bool {
	group, err := unix.IoctlGetInt(terminalFD, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// inPipe reports whether somebody reads or writes the other end of one of the
// standard files. He is of this process' group, and perhaps at the terminal
// himself: a pager.
func inPipe() bool {
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			return true
		}
	}
	return false
}

// takeTerminal puts this process' group into the foreground. It must ignore
// SIGTTOU.
func takeTerminal() { giveTerminal(unix.Getpgrp()) }

// giveTerminal puts a group into the foreground. Where that fails, the terminal
// is gone.
func giveTerminal(group int) {
	_ = unix.IoctlSetPointerInt(terminalFD, unix.TIOCSPGRP, group)
}

func getsid() (int, error) { return unix.Getsid(0) } //nolint:wrapcheck // only whether it failed matters
