//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package job

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// lookEvery is how often is looked whether what a program left behind in its
// group has ended.
const lookEvery = 20 * time.Millisecond

// Job is a running program. Its methods may be called concurrently.
type Job struct {
	group    int // its process group, and the program's process
	terminal bool
	stopped  chan struct{}
	asked    chan os.Signal
	ended    chan struct{}
	code     int // valid when ended is closed
}

// Start runs a program with this process' standard files. args has its name
// first; env is all of its environment.
func Start(path string, args, env []string) (*Job, error) {
	j := &Job{
		terminal: inForeground() && !inPipe(),
		stopped:  make(chan struct{}, 1), asked: make(chan os.Signal, 1), ended: make(chan struct{}),
	}
	started := make(chan error)
	go j.run(path, args, env, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	return j, nil
}

// run starts the program and reaps it. It keeps its thread, whose end would
// count as the end of the process for the program's guard.
func (j *Job) run(path string, args, env []string, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	adopt()
	//nolint:noctx // ends by a signal, not with a context
	cmd := exec.Command(path)
	cmd.Path, cmd.Args, cmd.Env, cmd.Err = path, args, env, nil
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = guarded(&syscall.SysProcAttr{Setpgid: true, Foreground: j.terminal, Ctty: terminalFD})
	catchStops(j.asked)
	defer signal.Stop(j.asked)
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	// Who writes to a terminal from the background, or takes it, may be stopped,
	// unless it ignores that: to catch it would try the write for ever. The
	// program was started before: it inherits nothing of this.
	signal.Ignore(syscall.SIGTTOU)
	j.group = cmd.Process.Pid
	_ = cmd.Process.Release() // it is reaped below, which tells of stops too
	started <- nil
	j.code = j.reap()
	j.awaitGroup()
	if j.terminal {
		takeTerminal()
	}
	close(j.ended)
}

// reap waits for the program and returns its exit code. On the way it reaps
// whoever else became a child of this process.
func (j *Job) reap() int {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WUNTRACED, nil)
		switch {
		case errors.Is(err, syscall.EINTR), err == nil && pid != j.group:
		case err != nil:
			return 255 // somebody else has reaped it
		case status.Stopped():
			select {
			case j.stopped <- struct{}{}:
			default: // the caller has not looked yet
			}
		case status.Signaled():
			return 128 + int(status.Signal())
		case status.Exited():
			return status.ExitStatus()
		}
	}
}

// awaitGroup returns when nobody of the group is left.
func (j *Job) awaitGroup() {
	if j.gone() {
		return
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for !j.gone() {
		<-look.C
	}
}

// gone reaps orphans, since a dead one counts as a member, and looks whether
// there are members.
func (j *Job) gone() bool {
	for {
		pid, err := syscall.Wait4(-j.group, nil, syscall.WNOHANG, nil)
		if !errors.Is(err, syscall.EINTR) && (err != nil || pid == 0) {
			break
		}
	}
	return errors.Is(syscall.Kill(-j.group, 0), syscall.ESRCH)
}

// Ended is closed when nobody of the group is left.
func (j *Job) Ended() <-chan struct{} { return j.ended }

// Code returns the program's exit code, 128+N where signal N ended it. It may be
// called when Ended is closed.
func (j *Job) Code() int { return j.code }

// Stopped tells that the program was stopped, perhaps by the terminal.
func (j *Job) Stopped() <-chan struct{} { return j.stopped }

// Pass passes on a signal that this process got: those that end programs, and a
// window's new size, to the group, as the terminal would; others to the program.
func (j *Job) Pass(s os.Signal) {
	n, ok := s.(syscall.Signal)
	if !ok {
		return
	}
	to := -j.group
	if n == syscall.SIGUSR1 || n == syscall.SIGUSR2 {
		to = j.group
	}
	_ = syscall.Kill(to, n) // gone already is as good
	if Ends(s) {
		j.resume() // who is stopped hears nothing
	}
}

func (j *Job) resume() { _ = syscall.Kill(-j.group, syscall.SIGCONT) }

// Terminate asks all of the group to end.
func (j *Job) Terminate() { j.Pass(syscall.SIGTERM) }

// Kill ends all of the group.
func (j *Job) Kill() { j.Pass(syscall.SIGKILL) }

// Asked tells that this process was asked to stop. It was not: the program would
// go on without it.
func (j *Job) Asked() <-chan os.Signal { return j.asked }

// Stop stops all of the group. At a terminal of its own the caller hears of that
// as of any other stop, and has nothing more to do. Elsewhere Stop stops this
// process as well, returns true when it is continued, and leaves the group to
// the caller.
func (j *Job) Stop() bool {
	if leads() {
		return false
	}
	_ = syscall.Kill(-j.group, syscall.SIGSTOP) // gone already is as good
	if j.terminal {
		return false
	}
	stop(os.Getpid())
	return true
}

// stop stops a process, or a group, that this process is or belongs to. It
// returns when it is continued.
func stop(whom int) {
	continued := make(chan os.Signal, 1)
	signal.Notify(continued, syscall.SIGCONT)
	defer signal.Stop(continued)
	_ = syscall.Kill(whom, syscall.SIGSTOP)
	<-continued
}

// leads reports whether this process leads a session: there is no shell above it
// that could continue it.
func leads() bool {
	session, err := getsid()
	return err != nil || session == os.Getpid()
}

// Continue continues all of the group.
func (j *Job) Continue() { j.resume() }

// Suspend stops this process as well, where it shares a terminal with the
// program, and returns when it is continued.
func (j *Job) Suspend() {
	if !j.terminal || leads() {
		return
	}
	takeTerminal()
	stop(0) // the shell's whole job, such as a pipe
}

// Resume continues the program, in the foreground if this process has it.
func (j *Job) Resume() {
	if !j.terminal {
		return // somebody stopped it on purpose
	}
	if inForeground() {
		giveTerminal(j.group)
	}
	j.resume()
}

// Signals are those to pass on. One that this process was told to ignore stays
// ignored, also by the program: nohup.
func Signals() []os.Signal {
	var all []os.Signal
	for _, s := range []os.Signal{
		syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
	} {
		if !signal.Ignored(s) {
			all = append(all, s)
		}
	}
	return all
}

// catchStops sends what asks this process to stop to asked. What it was told to
// ignore stays ignored.
func catchStops(asked chan<- os.Signal) {
	for _, s := range []os.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU} {
		if !signal.Ignored(s) {
			signal.Notify(asked, s)
		}
	}
}

// Ends reports whether a signal asks a program to end.
func Ends(s os.Signal) bool {
	return s == syscall.SIGINT || s == syscall.SIGTERM || s == syscall.SIGHUP || s == syscall.SIGQUIT
}

// Number returns a signal's number.
func Number(s os.Signal) int {
	n, _ := s.(syscall.Signal)
	return int(n)
}
