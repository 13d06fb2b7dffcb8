// Package job runs a program under a guard that can end it with all that it
// started, as a shell runs a job.
//
// The program leads a process group of its own. A signal to the group reaches
// what the program started too, and a job has ended when nobody of the group is
// left: not before, also where the program itself ended earlier. Who leaves the
// group (setsid, the jobs of an interactive shell) is out of reach.
//
// Where this process is in the foreground of the terminal on its standard
// input, and not in a pipe, the group takes that place: it reads the terminal and gets its signals,
// and this process does not get them a second time. When the program stops, the
// caller is told, and can stop as well, as the shell that waits for it expects.
//
// Elsewhere the terminal would stop this process and not the group. The caller is
// asked to stop instead, so that it stops the group first.
//
// On Linux the program is killed when this process dies, by whatever cause; what
// it started is not. Orphans of the group are reaped here.
package job

import "errors"

// ErrUnsupported is returned by Start on systems without process groups.
var ErrUnsupported = errors.New("job: this system has no process groups")
